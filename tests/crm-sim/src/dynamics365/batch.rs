//! `$batch`: runs the requests of a multipart body in their order, and makes one of their answers.
//!
//! Guarantees: a change set is applied as a whole or not at all, and its requests may speak of what
//! earlier ones of it made; the first refusal ends the batch unless `odata.continue-on-error` is
//! preferred.

use super::error::DataverseError;
use super::multipart::{self, Member, Part, malformed};
use super::{ROOT, address, org};
use crate::http::{Request, Response};
use crate::store::Store;
use serde_json::Value as Json;
use std::collections::HashMap;

pub fn run(
    store: &mut Store,
    request: &Request,
    mut answer: impl FnMut(&mut Store, &Request) -> Response,
) -> Result<Response, DataverseError> {
    let goes_on = address::prefers(request, "odata.continue-on-error");
    let boundary = format!("batchresponse_{:032x}", fastrand::u128(..));
    let mut body = Vec::new();
    let mut status = 200;
    for part in multipart::parts(request)? {
        let told = match part {
            Part::One(request) => Told::One(answer(store, &request)),
            Part::Set(members) => together(store, members, &mut answer),
        };
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        match &told {
            Told::One(answer) => write(&mut body, None, answer),
            Told::Set(answers) => write_set(&mut body, answers),
        }
        if let Told::One(answer) = told
            && answer.status >= 400
            && !goes_on
        {
            status = answer.status;
            break;
        }
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let kind = format!("multipart/mixed; boundary={boundary}");
    Ok(Response::bytes(status, &kind, body))
}

enum Told {
    /// Also what is said of a change set that failed.
    One(Response),
    Set(Vec<(String, Response)>),
}

/// Applies a change set, or puts everything back and tells the first refusal.
fn together(
    store: &mut Store,
    members: Vec<Member>,
    answer: &mut impl FnMut(&mut Store, &Request) -> Response,
) -> Told {
    let before = store.clone();
    let mut made: HashMap<String, String> = HashMap::new();
    let mut answers = Vec::with_capacity(members.len());
    for Member { id, mut request } in members {
        let told = match resolve(&mut request, &made) {
            Ok(()) if made.contains_key(&id) => {
                malformed("A Content-ID is there twice.").response()
            }
            Ok(()) => answer(store, &request),
            Err(error) => error.response(),
        };
        if told.status >= 400 {
            *store = before;
            return Told::One(told);
        }
        made.insert(id.clone(), row_of(&told).unwrap_or_default());
        answers.push((id, told));
    }
    Told::Set(answers)
}

/// Where the row is that an answer tells of, below the root.
fn row_of(answer: &Response) -> Option<String> {
    let named = answer
        .headers
        .iter()
        .find(|(name, _)| name == "OData-EntityId");
    if let Some((_, link)) = named {
        let (_, row) = link.split_once(&format!("{ROOT}/"))?;
        return Some(row.to_owned());
    }
    let row: Json = serde_json::from_slice(&answer.body).ok()?;
    let (_, set) = row["@odata.context"].as_str()?.split_once('#')?;
    let set = set.strip_suffix("/$entity")?;
    let id = row[format!("{}id", org::table(set))].as_str()?;
    Some(format!("{set}({id})"))
}

/// Puts the row in the place of `$1`, in the address and in what the body binds to.
fn resolve(request: &mut Request, made: &HashMap<String, String>) -> Result<(), DataverseError> {
    let known = |reference: &str| {
        let row = made.get(&reference[1..]).filter(|row| !row.is_empty());
        let missing = || {
            let text =
                format!("Content-ID Reference: '{reference}' does not exist in the batch context.");
            DataverseError::new(400, "0x80060888", text)
        };
        row.cloned().ok_or_else(missing)
    };
    let path = request.path.strip_prefix(ROOT).unwrap_or(&request.path);
    let path = path.trim_start_matches('/');
    let (first, rest) = match path.split_once('/') {
        Some((first, rest)) => (first, format!("/{rest}")),
        None => (path, String::new()),
    };
    if is_reference(first) {
        request.path = format!("{ROOT}/{}{rest}", known(first)?);
    }
    let Ok(Json::Object(mut body)) = serde_json::from_slice(&request.body) else {
        return Ok(());
    };
    for (name, value) in &mut body {
        let link = value.as_str().map(|link| link.trim_start_matches('/'));
        let bound = name.ends_with("@odata.bind") || name == "@odata.id";
        if let Some(reference) = link.filter(|link| bound && is_reference(link)) {
            *value = format!("/{}", known(reference)?).into();
        }
    }
    request.body = Json::from(body).to_string().into();
    Ok(())
}

fn is_reference(text: &str) -> bool {
    let name = text.strip_prefix('$').unwrap_or_default();
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit())
}

fn write_set(body: &mut Vec<u8>, answers: &[(String, Response)]) {
    let boundary = format!("changesetresponse_{:032x}", fastrand::u128(..));
    let head = format!("Content-Type: multipart/mixed; boundary={boundary}\r\n\r\n");
    body.extend_from_slice(head.as_bytes());
    for (id, answer) in answers {
        body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
        write(body, Some(id), answer);
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
}

fn write(body: &mut Vec<u8>, id: Option<&str>, answer: &Response) {
    let reason = hyper::StatusCode::from_u16(answer.status);
    let reason = reason.ok().and_then(|status| status.canonical_reason());
    let id = id.map(|id| format!("Content-ID: {id}\r\n"));
    let mut head = format!(
        "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n{}\r\nHTTP/1.1 {} {}\r\n",
        id.unwrap_or_default(),
        answer.status,
        reason.unwrap_or_default()
    );
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    body.extend_from_slice(head.as_bytes());
    body.extend_from_slice(&answer.body);
    body.extend_from_slice(b"\r\n");
}
