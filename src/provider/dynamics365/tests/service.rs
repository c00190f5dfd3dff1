//! What concerns the connection: tokens and the ping.

use std::time::Duration;

use crm_domain::ErrorClass;

use super::super::Dynamics365;
use super::*;
use crate::scripted_server::{drive, settings};
use crate::webhook::tests::credentials;
use crate::{Method, Provider};

const BASE: &str = "https://x.crm4.dynamics.com/";
const APP: &[(&str, &str)] = &[
    ("client_id", "id"),
    ("client_secret", "s&t"),
    ("tenant_id", "t-1"),
];

fn form(pairs: &[(&str, &str)]) -> (String, String) {
    let operation = Dynamics365.authorise(BASE, &credentials(pairs)).unwrap();
    let (_, log) = drive(operation, |_, _| answer(200, &json!({})));
    let body = String::from_utf8(log.requests[0].body.clone()).unwrap();
    (log.lines().remove(0), body)
}

#[test]
fn an_application_is_granted_a_token_for_its_environment() {
    let scope = "https%3A%2F%2Fx.crm4.dynamics.com%2F.default";
    let (line, body) = form(APP);
    assert_eq!(
        line,
        "POST https://login.microsoftonline.com/t-1/oauth2/v2.0/token"
    );
    assert_eq!(
        body,
        format!("grant_type=client_credentials&scope={scope}&client_id=id&client_secret=s%26t")
    );
    let user = &[
        ("client_id", "id"),
        ("refresh_token", "r"),
        ("login_url", "https://login.test/"),
    ];
    let (line, body) = form(user);
    assert_eq!(
        line,
        "POST https://login.test/organizations/oauth2/v2.0/token"
    );
    assert_eq!(
        body,
        format!(
            "grant_type=refresh_token&refresh_token=r&scope={scope}%20offline_access&client_id=id"
        )
    );
    for pairs in [&[("access_token", "t")][..], &APP[..2], &APP[1..], &[]] {
        assert!(Dynamics365.authorise(BASE, &credentials(pairs)).is_none());
    }
}

#[test]
fn a_grant_tells_when_it_ends_and_a_refusal_quotes_no_secret() {
    let ask = |status: u16, body: Json| {
        let operation = Dynamics365.authorise(BASE, &credentials(APP)).unwrap();
        drive(operation, |_, _| answer(status, &body)).0
    };
    let grant = ask(
        200,
        json!({ "token_type": "Bearer", "expires_in": 3599, "access_token": "a", "refresh_token": "r-2" }),
    );
    let grant = grant.unwrap();
    assert_eq!(grant.expires_in, Some(Duration::from_secs(3599)));
    assert_eq!(
        (grant.base_url, grant.refresh_token.as_deref()),
        (None, Some("r-2"))
    );
    let refused = json!({ "error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret s&t",
                          "error_codes": [7_000_215], "trace_id": "x" });
    let failure = ask(401, refused).unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (ErrorClass::Auth, "invalid_client")
    );
    assert_eq!(failure.message, "AADSTS7000215: Invalid client secret …");
    let busy = json!({ "error": "temporarily_unavailable" });
    assert_eq!(ask(503, busy).unwrap_err().class, ErrorClass::Transient);
}

#[test]
fn requests_bear_the_token_and_the_protocols_version() {
    let mut request = super::super::api::request(Method::Get, "WhoAmI");
    Dynamics365.sign(&mut request, "a");
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(n, v)| (*n, v.as_str()))
        .collect();
    assert_eq!(
        headers,
        [
            ("accept", "application/json"),
            ("odata-version", "4.0"),
            ("odata-maxversion", "4.0"),
            ("authorization", "Bearer a"),
        ]
    );
}

#[test]
fn the_ping_says_whose_token_it_is() {
    let (result, log) = drive(Dynamics365.ping(&settings(1)), |_, _| {
        answer(200, &json!({ "UserId": A }))
    });
    assert_eq!(log.lines(), ["GET /api/data/v9.2/WhoAmI"]);
    assert_eq!(
        result.unwrap(),
        format!("Dynamics 365 answers, to user {A}")
    );
    let (result, _) = drive(Dynamics365.ping(&settings(1)), |_, _| empty(401));
    assert_eq!(result.unwrap_err().class, ErrorClass::Auth);
    assert_eq!(
        Dynamics365.record_id(&format!("{{{}}}", A.to_uppercase())),
        A
    );
}
