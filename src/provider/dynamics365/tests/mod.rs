//! Dynamics 365 as the simulator and the documents say it behaves.

mod batches;
mod changes;
mod describe;
mod errors;
mod reads;
mod records;
mod service;
mod values;
mod webhooks;

use serde_json::{Value as Json, json};

use crate::scripted_server::{answer, empty, with_header};
use crate::{Request, Response};

pub(super) const A: &str = "0a000000-0000-4000-8000-000000000001";
pub(super) const B: &str = "0a000000-0000-4000-8000-000000000002";
pub(super) const C: &str = "0a000000-0000-4000-8000-000000000003";

pub(super) fn error(code: &str, message: &str) -> Json {
    json!({ "error": { "code": code, "message": message } })
}

pub(super) fn missing(id: &str) -> Response {
    let message = format!("Entity 'contact' With Id = {id} Does Not Exist");
    answer(404, &error("0x80040217", &message))
}

/// What an update or a deletion is answered.
pub(super) fn done(id: &str) -> Response {
    let link = format!("https://x.crm.dynamics.com/api/data/v9.2/contacts({id})");
    with_header(empty(204), "odata-entityid", &link)
}

/// What a batch is answered whose parts are these.
pub(super) fn batched(status: u16, parts: &[Response]) -> Response {
    let mut body = String::new();
    for part in parts {
        body += "--batchresponse_1\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n";
        body += &format!("HTTP/1.1 {} Whatever\r\n", part.status);
        for (name, value) in &part.headers {
            body += &format!("{name}: {value}\r\n");
        }
        body += &format!("\r\n{}\r\n", String::from_utf8_lossy(&part.body));
    }
    body += "--batchresponse_1--\r\n";
    let response = Response {
        status,
        headers: Vec::new(),
        body: body.into_bytes(),
        ..Response::default()
    };
    with_header(
        response,
        "content-type",
        "multipart/mixed; boundary=batchresponse_1",
    )
}

/// The requests within a batch: line, headers and body of each.
pub(super) fn parts(request: &Request) -> Vec<(String, String, String)> {
    let text = String::from_utf8(request.body.clone()).unwrap();
    let (inner, end) = text.rsplit_once("--batch_pg_crm--\r\n").unwrap();
    assert_eq!(end, "");
    let parts = inner.split("--batch_pg_crm\r\n").skip(1);
    let one = |part: &str| {
        let own = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n";
        let message = part
            .strip_prefix(own)
            .unwrap()
            .strip_suffix("\r\n")
            .unwrap();
        let (head, body) = message.split_once("\r\n\r\n").unwrap();
        let (line, headers) = head.split_once("\r\n").unwrap();
        (line.to_owned(), headers.to_owned(), body.to_owned())
    };
    parts.map(one).collect()
}
