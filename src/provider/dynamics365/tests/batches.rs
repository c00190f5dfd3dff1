//! Batches: what is sent, and what may come back.

use super::super::{api, batch};
use super::*;
use crate::scripted_server::page;
use crate::{Method, Target};

#[test]
fn requests_are_wrapped_with_their_headers() {
    let read = api::request(Method::Get, "contacts(1)?$select=modifiedon");
    let write = api::request(Method::Patch, "contacts(2)")
        .header("if-match", "*")
        .json(&json!({ "firstname": "é\r\n--batch_pg_crm" }));
    let wrapped = batch::wrap(&[read.clone(), write]);
    assert_eq!(
        wrapped.target,
        Target::Api("/api/data/v9.2/$batch".to_owned())
    );
    let header = |name: &str| {
        let mut found = wrapped.headers.iter().filter(|(held, _)| *held == name);
        found.next().map(|(_, value)| value.as_str())
    };
    assert_eq!(
        header("content-type"),
        Some("multipart/mixed; boundary=\"batch_pg_crm\"")
    );
    assert_eq!(header("prefer"), Some("odata.continue-on-error"));
    let own = "accept: application/json\r\nodata-version: 4.0\r\nodata-maxversion: 4.0";
    assert_eq!(
        parts(&wrapped),
        [
            (
                "GET /api/data/v9.2/contacts(1)?$select=modifiedon HTTP/1.1".to_owned(),
                own.to_owned(),
                String::new()
            ),
            (
                "PATCH /api/data/v9.2/contacts(2) HTTP/1.1".to_owned(),
                format!("{own}\r\nif-match: *\r\ncontent-type: application/json"),
                r#"{"firstname":"é\r\n--batch_pg_crm"}"#.to_owned()
            ),
        ]
    );
    assert!(!wrapped.repeatable);
    assert!(batch::wrap(&[read.clone(), read]).repeatable);
}

#[test]
fn answers_come_apart_again() {
    let held = json!({ "name": "a\n--batchresponse_1", "more": [1, 2] });
    let sent = [
        answer(200, &held),
        done(A),
        answer(412, &error("0x80060882", "changed")),
    ];
    let answers = batch::unwrap(&batched(200, &sent)).unwrap();
    assert_eq!(answers.len(), 3);
    assert_eq!((answers[0].status, answers[0].json()), (200, Some(held)));
    assert_eq!(answers[1].status, 204);
    assert!(answers[1].body.is_empty());
    assert!(
        answers[1]
            .header("odata-entityid")
            .unwrap()
            .ends_with(&format!("({A})"))
    );
    assert_eq!(answers[2].status, 412);
    // Line ends of another kind, a quoted boundary, JSON on several lines.
    let text = "--b\nContent-Type: application/http\nContent-ID: 1\n\nHTTP/1.1 200 OK\nETag: W/\"1\"\n\n{\n\n  \"a\": 1\n}\n--b--\nrest";
    let response = Response {
        status: 200,
        headers: vec![(
            "content-type".to_owned(),
            "Multipart/Mixed; charset=x; Boundary=\"b\"".to_owned(),
        )],
        body: text.into(),
        ..Response::default()
    };
    let answers = batch::unwrap(&response).unwrap();
    assert_eq!(answers[0].json(), Some(json!({ "a": 1 })));
    assert_eq!(answers[0].header("etag"), Some("W/\"1\""));
}

#[test]
fn what_is_no_batch_is_told_from_one() {
    assert!(batch::unwrap(&answer(200, &json!({}))).is_none());
    assert!(
        batch::unwrap(&with_header(
            page(502),
            "content-type",
            "text/html; charset=x"
        ))
        .is_none()
    );
    let none = batched(200, &[]);
    assert_eq!(batch::unwrap(&none).map(|parts| parts.len()), Some(0));
    for body in [
        "--batchresponse_1\r\n",
        "--batchresponse_1\r\n\r\n",
        "--batchresponse_1\r\n\r\nhello\r\n\r\n",
        "--batchresponse_1\r\n\r\nT 204\r\n\r\n",
        "--batchresponse_1\r\n\r\nHTTP/0.1 204 No Content\r\n\r\n",
        "--batchresponse_1\r\n\r\nHTTP/1.1 2040 No Content\r\n\r\n",
    ] {
        let strange = Response {
            body: body.into(),
            ..none.clone()
        };
        assert!(batch::unwrap(&strange).is_none(), "{body:?}");
    }
}
