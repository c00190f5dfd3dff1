//! What holds for every vendor, tried with each of them.

mod damage;
mod options;
mod refusals;
mod success;

use std::sync::Arc;

use crm_domain::DataType;

use crate::scripted_server::{empty, field, line, with_header};
use crate::{ChangesQuery, Provider, ReadBatch, Request, Response, provider};

pub(super) const NOW: &str = "Fri, 02 Jan 2026 04:00:00 GMT";
const AT: &str = "2026-01-02T03:04:05Z";

/// How a vendor shows records: the body of a page, and a record whose id and text are given as
/// JSON.
pub(super) struct Shown {
    pub name: &'static str,
    pub object: &'static str,
    pub text: &'static str,
    pub record: fn(&str, &str) -> Vec<u8>,
    pub changes: fn(&[u8]) -> Vec<u8>,
    pub reads: fn(&[u8]) -> Vec<u8>,
}

fn around(before: &str, list: &[u8], after: &str) -> Vec<u8> {
    [before.as_bytes(), list, after.as_bytes()].concat()
}

pub(super) const VENDORS: [Shown; 6] = [
    Shown {
        name: "salesforce",
        object: "Contact",
        text: "LastName",
        record: |id, text| {
            format!(r#"{{"Id":{id},"SystemModstamp":"{AT}","LastModifiedDate":"{AT}","IsDeleted":false,"LastName":{text}}}"#).into()
        },
        changes: |list| around(r#"{"done":true,"records":"#, list, "}"),
        reads: <[u8]>::to_vec,
    },
    Shown {
        name: "hubspot",
        object: "contacts",
        text: "lastname",
        record: |id, text| {
            format!(r#"{{"id":{id},"updatedAt":"{AT}","properties":{{"lastname":{text},"lastmodifieddate":"{AT}"}}}}"#).into()
        },
        changes: |list| around(r#"{"results":"#, list, "}"),
        reads: |list| around(r#"{"results":"#, list, "}"),
    },
    Shown {
        name: "pipedrive",
        object: "persons",
        text: "name",
        record: |id, text| format!(r#"{{"id":{id},"update_time":"{AT}","name":{text}}}"#).into(),
        changes: |list| around(r#"{"success":true,"data":"#, list, "}"),
        reads: |list| around(r#"{"success":true,"data":"#, list, "}"),
    },
    Shown {
        name: "zoho",
        object: "Contacts",
        text: "Last_Name",
        record: |id, text| {
            format!(r#"{{"id":{id},"Modified_Time":"{AT}","Last_Name":{text}}}"#).into()
        },
        changes: |list| around(r#"{"data":"#, list, r#","info":{"more_records":false}}"#),
        reads: |list| around(r#"{"data":"#, list, r#","info":{}}"#),
    },
    Shown {
        name: "dynamics365",
        object: "contacts",
        text: "lastname",
        record: |id, text| {
            format!(r#"{{"contactid":{id},"modifiedon":"{AT}","lastname":{text}}}"#).into()
        },
        changes: |list| {
            around(
                r#"{"value":"#,
                list,
                r#","@odata.deltaLink":"https://x/api/data/v9.2/contacts?$deltatoken=1"}"#,
            )
        },
        // In a batch each has a part of its own.
        reads: <[u8]>::to_vec,
    },
    Shown {
        name: "stub",
        object: "contact",
        text: "name",
        record: |id, text| {
            format!(r#"{{"id":{id},"modified_at":"{AT}","fields":{{"name":{text}}}}}"#).into()
        },
        changes: |list| around(r#"{"changes":"#, list, r#","next":{"x":1},"more":false}"#),
        reads: |list| around(r#"{"results":"#, list, "}"),
    },
];

impl Shown {
    pub fn provider(&self) -> &'static dyn Provider {
        provider(self.name).expect("a provider")
    }

    pub fn query(&self) -> Arc<ChangesQuery> {
        Arc::new(ChangesQuery {
            object: self.object.to_owned(),
            fields: vec![field(self.text, DataType::Text)],
            external_id_field: None,
            since: None,
            limit: 100,
        })
    }

    pub fn read(&self, ids: &[&str]) -> Arc<ReadBatch> {
        Arc::new(ReadBatch {
            object: self.object.to_owned(),
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            fields: vec![field(self.text, DataType::Text)],
            for_write: false,
        })
    }

    /// A page of changes; nothing of what else a pass asks for.
    pub fn page(&self, request: &Request, records: &[Vec<u8>]) -> Response {
        let line = line(request);
        let list = |records: &[Vec<u8>]| [b"[", &records.join(&b","[..])[..], b"]"].concat();
        let body = match () {
            () if line.contains("EntityDefinitions") => {
                br#"{"value":[{"PrimaryIdAttribute":"contactid","ChangeTrackingEnabled":true}]}"#
                    .to_vec()
            }
            () if line.contains("/deleted?") => return with_header(empty(204), "date", NOW),
            () if line.contains("archived=true") || line.contains("/recents") => {
                (self.changes)(b"[]")
            }
            () => (self.changes)(&list(records)),
        };
        with_header(response(body), "date", NOW)
    }

    /// What a read of several records is answered.
    pub fn found(&self, records: &[Vec<u8>]) -> Response {
        if self.name != "dynamics365" {
            let list = [b"[", &records.join(&b","[..])[..], b"]"].concat();
            return response((self.reads)(&list));
        }
        let mut body = Vec::new();
        for record in records {
            body.extend_from_slice(
                b"--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            );
            body.extend_from_slice(record);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--b--\r\n");
        with_header(
            response(body),
            "content-type",
            "multipart/mixed; boundary=b",
        )
    }
}

pub(super) fn response(body: Vec<u8>) -> Response {
    Response {
        status: 200,
        body,
        ..Response::default()
    }
}
