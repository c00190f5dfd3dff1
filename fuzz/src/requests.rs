//! What every request must be, whatever it was made from.

use crm_provider::{Provider, Request, Settings, Target};

/// A request that HTTP can carry: nothing in its address or its headers ends them early.
pub fn check(request: &Request) {
    match &request.target {
        Target::Api(path) => {
            assert!(path.starts_with('/'), "no path: {path:?}");
            address(path);
        }
        Target::Url(url) => address(url),
        // The provider says where that is.
        Target::File(_) => {}
    }
    for (name, value) in &request.headers {
        let fits = |byte: u8| matches!(byte, b' '..=b'~' | b'\t');
        assert!(value.bytes().all(fits), "no header: {name}: {value:?}");
    }
}

/// A file is asked for at the CRM's own hosts, since the token is shown there, or not at all.
pub fn check_file(provider: &dyn Provider, request: &Request) {
    let Target::File(file) = &request.target else {
        return;
    };
    let url = provider.file_url(&Settings::default(), "https://www.zohoapis.com", file);
    let Some(url) = url else {
        return;
    };
    address(&url);
    // As the engine's HTTP client reads it.
    if let Ok(url) = url.parse::<http::Uri>() {
        let host = url.host().unwrap_or_default();
        let ours = [".zohoapis.com", ".zoho.com"];
        let is_ours = ours.iter().any(|end| format!(".{host}").ends_with(end));
        assert!(is_ours, "another's host: {url}");
        assert_eq!(url.scheme_str(), Some("https"));
    }
}

fn address(text: &str) {
    let fits = |byte: u8| byte.is_ascii_graphic() && !br#""<>\^`{|}#"#.contains(&byte);
    assert!(text.bytes().all(fits), "no address: {text:?}");
}
