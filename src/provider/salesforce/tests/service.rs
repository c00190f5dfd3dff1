//! What concerns the connection: versions, sizes, budgets, the ping.

use serde_json::json;

use super::super::Salesforce;
use crate::scripted_server::{answer, drive, empty, line, page, settings, sf_error, with_header};
use crate::{Method, Provider, Request, Settings, Usage, WriteKind};

#[test]
fn the_api_version_is_an_option() {
    for (option, path) in [
        (None, "v66.0"),
        (Some(json!("v60.0")), "v60.0"),
        (Some(json!("60.0")), "v60.0"),
        (Some(json!(60.5)), "v60.5"),
        (Some(json!("../x")), "v..%2Fx"),
    ] {
        let mut settings = Settings::default();
        settings
            .options
            .extend(option.map(|value| ("api_version".to_owned(), value)));
        let (_, log) = drive(Salesforce.ping(&settings), |_, _| empty(200));
        assert_eq!(
            line(&log.requests[0]),
            format!("GET /services/data/{path}/limits")
        );
    }
}

#[test]
fn the_ping_says_what_is_left() {
    let limits = json!({ "DailyApiRequests": { "Max": 15000, "Remaining": 14321 } });
    let (result, _) = drive(Salesforce.ping(&settings(0)), |_, _| answer(200, &limits));
    assert!(result.unwrap().contains("14321 of 15000"));
    let refusal = answer(
        401,
        &sf_error("INVALID_SESSION_ID", "Session expired or invalid"),
    );
    let (result, _) = drive(Salesforce.ping(&settings(0)), |_, _| refusal.clone());
    assert_eq!(result.unwrap_err().code, "INVALID_SESSION_ID");
}

#[test]
fn large_batches_stay_whole_for_a_bulk_job() {
    let settings = settings(2000);
    for (count, size) in [
        (1, 200),
        (200, 200),
        (2000, 200),
        (2001, 2001),
        (100_000, 100_000),
    ] {
        assert_eq!(
            Salesforce.write_size(&settings, WriteKind::Update, count),
            size
        );
    }
}

#[test]
fn usage_is_read_by_key() {
    let usage = |info: &str| Salesforce.usage(&with_header(page(200), "sforce-limit-info", info));
    let told = Usage {
        daily_limit: Some(100_000),
        daily_remaining: Some(89_982),
        ..Usage::default()
    };
    for info in [
        "api-usage=10018/100000",
        "api-usage=10018/100000; api-bursts=1/750",
        "per-app-api-usage=17/250(appName=x); api-usage=10018/100000",
        "api-bursts=1/750, api-usage = 10018/100000"
            .replace(" = ", "=")
            .as_str(),
    ] {
        assert_eq!(usage(info), told, "{info}");
    }
    assert_eq!(usage("api-usage=120/100").daily_remaining, Some(0));
    for info in [
        "",
        "api-usage=many",
        "per-app-api-usage=17/250(appName=x)",
        "api-usage=1/",
        "api-usage=-1/3",
    ] {
        assert_eq!(usage(info), Usage::default(), "{info}");
    }
}

#[test]
fn requests_are_signed_with_the_token() {
    let mut request = Request::new(Method::Get, "/x");
    Salesforce.sign(&mut request, "00D!t");
    assert_eq!(
        request.headers,
        [("authorization", "Bearer 00D!t".to_owned())]
    );
}
