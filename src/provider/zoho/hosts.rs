//! Zoho's data centres. A token of one of them is worth nothing at another, and may be shown to
//! that one's own hosts alone.

use crate::request::tidy;

/// What a data centre is called where (SDK of version 8, package `dc`).
pub(super) struct DataCentre {
    /// The end of the API's hosts, and of those that take files.
    api: &'static str,
    /// The end of the other hosts.
    others: &'static str,
    pub accounts: &'static str,
    /// Where files are taken.
    upload: &'static str,
}

const fn data_centre(
    api: &'static str,
    others: &'static str,
    accounts: &'static str,
    upload: &'static str,
) -> DataCentre {
    DataCentre {
        api,
        others,
        accounts,
        upload,
    }
}

#[rustfmt::skip]
const ALL: [DataCentre; 8] = [
    data_centre("zohoapis.com.au", "zoho.com.au", "https://accounts.zoho.com.au", "https://content.zohoapis.com.au"),
    data_centre("zohoapis.com.cn", "zoho.com.cn", "https://accounts.zoho.com.cn", "https://content.zohoapis.com.cn"),
    data_centre("zohoapis.eu", "zoho.eu", "https://accounts.zoho.eu", "https://content.zohoapis.eu"),
    data_centre("zohoapis.in", "zoho.in", "https://accounts.zoho.in", "https://content.zohoapis.in"),
    data_centre("zohoapis.jp", "zoho.jp", "https://accounts.zoho.jp", "https://content.zohoapis.jp"),
    data_centre("zohoapis.sa", "zoho.sa", "https://accounts.zoho.sa", "https://content.zohoapis.sa"),
    data_centre("zohoapis.ca", "zohocloud.ca", "https://accounts.zohocloud.ca", "https://upload.zohocloud.ca"),
    data_centre("zohoapis.com", "zoho.com", "https://accounts.zoho.com", "https://content.zohoapis.com"),
];

/// The data centre of a base URL. `None`: it is none of Zoho's own, as behind a proxy.
pub(super) fn of(base_url: &str) -> Option<&'static DataCentre> {
    let host = host(base_url)?;
    ALL.iter().find(|dc| is_within(host, dc.api))
}

/// Where a file is, or is taken: of a path the host that takes files, of a URL that Zoho told
/// itself. `None`: the token is not for whoever is there.
pub(super) fn file_url(base_url: &str, upload_url: Option<&str>, file: &str) -> Option<String> {
    let known = of(base_url);
    let uploads = upload_url.or(known.map(|dc| dc.upload)).unwrap_or(base_url);
    let uploads = uploads.trim_end_matches('/');
    if file.starts_with('/') {
        return Some(format!("{uploads}{}", tidy(file)));
    }
    let within = |origin: &str| file.strip_prefix(origin)?.strip_prefix('/').map(|_| ());
    let of_the_data_centre = || {
        let dc = known.filter(|_| file.starts_with("https://"))?;
        let host = host(file)?;
        (is_within(host, dc.others) || is_within(host, dc.api)).then_some(())
    };
    within(base_url.trim_end_matches('/'))
        .or_else(|| within(uploads))
        .or_else(of_the_data_centre)
        .map(|()| tidy(file).to_string())
}

/// The host of a URL; `None` if it is not told plainly.
fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.split(':').next()?;
    (!authority.contains('@') && !host.is_empty()).then_some(host)
}

fn is_within(host: &str, domain: &str) -> bool {
    let above = host.strip_suffix(domain);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_to_the_data_centre_of_the_account() {
        for (base_url, upload) in [
            ("https://www.zohoapis.com", "https://content.zohoapis.com"),
            (
                "https://sandbox.zohoapis.eu/",
                "https://content.zohoapis.eu",
            ),
            (
                "https://www.zohoapis.com.au",
                "https://content.zohoapis.com.au",
            ),
            ("https://www.zohoapis.ca", "https://upload.zohocloud.ca"),
            ("http://127.0.0.1:81/", "http://127.0.0.1:81"),
            ("https://evilzohoapis.com", "https://evilzohoapis.com"),
        ] {
            let told = file_url(base_url, None, "/crm/v8/upload");
            assert_eq!(told, Some(format!("{upload}/crm/v8/upload")), "{base_url}");
        }
        let elsewhere = Some("https://files.acme.test/");
        assert_eq!(
            file_url("https://www.zohoapis.com", elsewhere, "/crm/v8/upload").as_deref(),
            Some("https://files.acme.test/crm/v8/upload")
        );
    }

    #[test]
    fn the_token_is_for_the_data_centre_alone() {
        let trusts = |base_url: &str, file: &str| file_url(base_url, None, file).is_some();
        let us = "https://www.zohoapis.com";
        for file in [
            "https://download-accl.zoho.com/v2/crm/1/bulk-write/2/2.zip",
            "https://content.zohoapis.com/x",
            "https://www.zohoapis.com/x",
        ] {
            assert!(trusts(us, file), "{file}");
        }
        for file in [
            "http://download-accl.zoho.com/x",
            "https://download-accl.zoho.eu/x",
            "https://evilzoho.com/x",
            "https://zoho.com.evil.test/x",
            "https://evil.test/zoho.com",
            "https://evil.test\\.zoho.com/",
            "https://www.zoho.com@evil.test/x",
            "https://evil.test#.zoho.com/x",
            "https://www.zohoapis.com.evil.test/x",
            "ftp://x",
            "",
        ] {
            assert!(!trusts(us, file), "{file}");
        }
        assert!(trusts("http://127.0.0.1:81", "http://127.0.0.1:81/x.zip"));
        assert!(!trusts(
            "http://127.0.0.1:81",
            "http://127.0.0.1:8181/x.zip"
        ));
    }
}
