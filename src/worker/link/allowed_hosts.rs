//! Where requests may go: https anywhere that `pg_crm.allowed_hosts` admits, plain http to loopback
//! alone.

use std::net::IpAddr;

use ureq::http::Uri;

/// Why a URL may not be used; `Ok` if it may.
pub fn check(url: &str, allowed_hosts: &[String]) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|e| format!("It is not a URL: {e}."))?;
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_ascii_lowercase();
    if host.is_empty() {
        return Err("It names no host.".to_owned());
    }
    if uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err(
            "It holds a user name; credentials belong in crm.set_credentials().".to_owned(),
        );
    }
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if loopback => {}
        Some("http") => return Err("Plain http would show credentials to the network.".to_owned()),
        _ => return Err("Its scheme is neither https nor http.".to_owned()),
    }
    let admitted = allowed_hosts.is_empty()
        || allowed_hosts
            .iter()
            .any(|allowed| match allowed.strip_prefix("*.") {
                Some(domain) => host
                    .strip_suffix(domain)
                    .is_some_and(|rest| rest.ends_with('.')),
                None => host == *allowed,
            });
    if admitted {
        Ok(())
    } else {
        Err(format!("pg_crm.allowed_hosts does not admit \"{host}\"."))
    }
}

/// What a URL names of its host, if it names more than the host.
pub fn place(url: &str) -> Option<&str> {
    let host = url.find("://").map_or(0, |scheme| scheme + 3);
    let place = &url[host..];
    let place = &place[place.find(['/', '?', '#'])?..];
    (place != "/").then_some(place)
}

/// A URL as it may be shown: what stands before an `@` could be a password.
pub fn without_user(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}…{}", &url[..scheme + 3], &url[at..]),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn admits_https_and_loopback() {
        for url in [
            "https://acme.my.salesforce.com",
            "http://127.0.0.1:4101",
            "http://localhost/x",
            "http://[::1]:80",
        ] {
            assert_eq!(check(url, &[]), Ok(()), "{url}");
        }
        for url in [
            "http://10.0.0.1",
            "ftp://x",
            "not a url",
            "https://user:pw@x.test",
            "/path",
        ] {
            assert!(check(url, &[]).is_err(), "{url}");
        }
    }

    #[test]
    fn tells_a_page_from_a_host() {
        use super::place;
        assert_eq!(place("https://x.test"), None);
        assert_eq!(place("https://x.test:443/"), None);
        assert_eq!(
            place("https://x.test/lightning/page"),
            Some("/lightning/page")
        );
        assert_eq!(place("https://x.test?a=b"), Some("?a=b"));
        assert_eq!(place("https://x.test/#/home"), Some("/#/home"));
    }

    #[test]
    fn shows_no_password() {
        assert_eq!(
            super::without_user("https://user:pw@x.test/a"),
            "https://…@x.test/a"
        );
        assert_eq!(super::without_user("https://x.test/a"), "https://x.test/a");
    }

    #[test]
    fn bounds_the_hosts() {
        let allowed = ["*.salesforce.com".to_owned(), "api.hubapi.com".to_owned()];
        assert!(check("https://acme.my.salesforce.com", &allowed).is_ok());
        assert!(check("https://api.hubapi.com", &allowed).is_ok());
        assert!(check("https://salesforce.com.evil.test", &allowed).is_err());
        assert!(check("https://evilsalesforce.com", &allowed).is_err());
        assert!(check("http://127.0.0.1", &allowed).is_err());
    }
}
