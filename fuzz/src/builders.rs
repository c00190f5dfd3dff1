//! What is put into a statement, a file or an address comes out of it again when it is parsed as
//! the vendor parses it, and nothing else with it.
//!
//! The input is a list of texts, separated by the record separator (0x1e): the key of a record,
//! then its values.

use std::io::{Cursor, Read};
use std::sync::Arc;

use crm_domain::{DataType, Value};
use crm_provider::record::Field;
use crm_provider::salesforce::Salesforce;
use crm_provider::zoho::Zoho;
use crm_provider::{
    ChangesQuery, Method, Provider, ReadBatch, Request, Response, Settings, Step, Target,
    WriteBatch, WriteKind, WriteRecord, providers,
};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};

const SEPARATOR: char = '\u{1e}';
/// Stands for the key where its place is looked for.
const PLAIN: &str = "k1";

pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut texts = text.split(SEPARATOR);
    let key = texts.next().unwrap_or_default();
    let values: Vec<&str> = texts.take(8).collect();
    soql(key);
    coql(key);
    salesforce_csv(key, &values);
    zoho_csv(key, &values);
    for provider in providers() {
        for kind in [WriteKind::Update, WriteKind::Upsert, WriteKind::Delete] {
            let write = |key: &str| {
                let batch = batch(kind, &[key], &[]);
                provider
                    .write(&settings(usize::MAX), Arc::new(batch))
                    .step(None)
            };
            address(*provider, key, write(key), write(PLAIN));
        }
        let read = |id: &str| {
            let batch = ReadBatch {
                object: "contacts".to_owned(),
                ids: vec![id.to_owned()],
                fields: vec![field("title")],
                for_write: false,
            };
            provider
                .read(&Settings::default(), Arc::new(batch))
                .step(None)
        };
        address(*provider, key, read(key), read(PLAIN));
    }
}

fn settings(bulk_threshold: usize) -> Settings {
    Settings {
        bulk_threshold,
        ..Settings::default()
    }
}

fn field(name: &str) -> Arc<Field> {
    Arc::new(Field {
        name: name.to_owned(),
        data_type: DataType::Text,
    })
}

fn batch(kind: WriteKind, keys: &[&str], values: &[&str]) -> WriteBatch {
    let is_upsert = kind == WriteKind::Upsert;
    let fields = |n: usize| {
        let values = values.iter().enumerate();
        // Which fields there are differs from record to record.
        values
            .filter(|(at, _)| n == 0 || at % 2 == 0)
            .map(|(at, text)| (field(&format!("f{at}")), Value::text(text)))
            .collect()
    };
    let records = keys.iter().enumerate().map(|(n, key)| WriteRecord {
        crm_id: (!is_upsert).then(|| (*key).to_owned()),
        external_id: is_upsert.then(|| (*key).to_owned()),
        fields: fields(n),
        unless_changed: None,
    });
    WriteBatch {
        object: "Contacts".to_owned(),
        kind,
        external_id_field: is_upsert.then(|| "Ext__c".to_owned()),
        creates_only: false,
        records: records.collect(),
    }
}

/// The parts of an address, decoded: segments of the path, then names and values of the query.
fn parts(target: &Target) -> Vec<String> {
    let (Target::Api(target) | Target::File(target) | Target::Url(target)) = target;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments = path.split('/').map(|segment| {
        let decoded = percent_decode_str(segment).decode_utf8();
        decoded.expect("addresses are UTF-8").into_owned()
    });
    let query = form_urlencoded::parse(query.as_bytes());
    let pairs = query.flat_map(|(name, value)| [name.into_owned(), value.into_owned()]);
    segments.chain(pairs).collect()
}

/// A key is in one part of an address, beside what a plain key has beside it, or in no part at all.
fn address(provider: &dyn Provider, key: &str, step: Step<impl Sized>, plain: Step<impl Sized>) {
    let (Step::Send(request), Step::Send(plain)) = (step, plain) else {
        return;
    };
    crate::requests::check(&request);
    let (told, plain_parts) = (parts(&request.target), parts(&plain.target));
    let names = |part: &&String, text: &str| !text.is_empty() && part.contains(text);
    let of_key = plain_parts.iter().filter(|part| names(part, PLAIN)).count();
    // What an address has beside the key can look like it. A key that no address can hold goes by
    // another request, which names it nowhere.
    let beside = plain_parts
        .iter()
        .filter(|part| !names(part, PLAIN) && names(part, key));
    let says = told.iter().filter(|part| names(part, key)).count() > beside.count();
    if request.method != plain.method || of_key == 0 || !says {
        return;
    }
    let quoted = key.replace('\'', "''");
    // As it is, as an OData literal, and as the provider spells an id.
    let id = provider.record_id(key);
    let expected: Vec<String> = [key, &quoted, &id]
        .iter()
        .flat_map(|key| plain_parts.iter().map(|part| part.replace(PLAIN, key)))
        .collect();
    assert!(
        expected
            .chunks(plain_parts.len())
            .any(|parts| told == parts),
        "{key:?} is not in its place: {:?}",
        request.target
    );
}

fn ok(body: &Json) -> Option<Response> {
    Some(Response {
        status: 200,
        body: body.to_string().into_bytes(),
        ..Response::default()
    })
}

/// Asks for a page of one record, is answered `record`, and goes on from there: the second request
/// names its id.
fn second_page(provider: &dyn Provider, first: &Json) -> Option<Request> {
    let query = |since| {
        Arc::new(ChangesQuery {
            object: "Contacts".to_owned(),
            fields: vec![field("Title")],
            since,
            limit: 1,
            ..ChangesQuery::default()
        })
    };
    let settings = Settings::default();
    let mut operation = provider.changes(&settings, query(None));
    operation.step(None);
    let mut step = operation.step(ok(first));
    for _ in 0..4 {
        step = match step {
            Step::Send(request) if format!("{request:?}").contains("LIMIT") => {
                return Some(request);
            }
            Step::Send(request) if request.method == Method::Post => return Some(request),
            Step::Done(Ok(page)) if page.more => {
                operation = provider.changes(&settings, query(Some(page.next)));
                operation.step(None)
            }
            _ => return None,
        };
    }
    None
}

/// Reads the literal that stands behind `before` to its end: a backslash takes the next character
/// as it is.
fn literal(statement: &str, before: &str) -> Option<(String, String)> {
    let (_, rest) = statement.split_once(before)?;
    let mut rest = rest.strip_prefix('\'')?.chars();
    let mut read = String::new();
    loop {
        match rest.next()? {
            '\'' => return Some((read, rest.collect())),
            '\\' => read.push(rest.next()?),
            c => read.push(c),
        }
    }
}

fn soql(id: &str) {
    let record = json!({"Id": id, "SystemModstamp": "2026-01-02T03:04:05.000+0000"});
    let first = json!({"records": [record], "done": false});
    let Some(request) = second_page(&Salesforce, &first) else {
        return;
    };
    let parts = parts(&request.target);
    let [.., name, statement] = &parts[..] else {
        panic!("no statement: {parts:?}");
    };
    assert_eq!(name, "q");
    if let Some((read, rest)) = after(statement, " AND Id > ") {
        assert_eq!(read, id);
        assert_eq!(rest, " ORDER BY Id LIMIT 1");
    }
}

fn coql(id: &str) {
    let record = json!({"id": id, "Modified_Time": "2026-01-02T03:04:05+00:00"});
    let first = json!({"data": [record], "info": {"more_records": true}});
    let Some(request) = second_page(&Zoho, &first) else {
        return;
    };
    let body: Json = serde_json::from_slice(&request.body).expect("it is JSON");
    let statement = body["select_query"].as_str().expect("it is a statement");
    if let Some((read, rest)) = after(statement, " and id > ") {
        assert_eq!(read, id);
        assert_eq!(rest, ") order by id asc limit 1");
    }
}

/// The literal behind `before`, which has to be one where that stands.
fn after(statement: &str, before: &str) -> Option<(String, String)> {
    statement.contains(before).then(|| {
        let read = literal(statement, before);
        read.unwrap_or_else(|| panic!("no literal: {statement}"))
    })
}

/// The rows of a file, each by the names of its columns.
fn rows(file: &[u8]) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::Reader::from_reader(file);
    let names = reader.headers().expect("it has a header").clone();
    let rows = reader.records().map(|row| {
        let row = row.expect("it is a row, as long as the header");
        let cells = names.iter().zip(row.iter());
        cells
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect()
    });
    rows.collect()
}

/// The records that a file holds are those of the batch, or else their cells are no text that a
/// file can carry.
fn compare(batch: &WriteBatch, rows: &[Vec<(String, String)>], key_column: &str, null: &str) {
    for row in rows {
        let cell = |name: &str| {
            let held = row.iter().find(|(held, _)| held == name);
            held.map(|(_, cell)| cell.as_str())
        };
        let key = cell(key_column).expect("each row has its key");
        let records = &batch.records;
        let record = records
            .iter()
            .find(|record| record.external_id.as_deref() == Some(key));
        let record = record.unwrap_or_else(|| panic!("a row of nobody: {key:?}"));
        for (field, value) in &record.fields {
            let text = value.to_text();
            let expected = text.as_deref().unwrap_or(null);
            assert_eq!(cell(&field.name).unwrap_or(null), expected);
        }
        for (name, cell) in row.iter().filter(|(name, _)| name != key_column) {
            let known = record.fields.iter().any(|(field, _)| field.name == *name);
            assert!(
                known || cell.is_empty(),
                "a cell of nobody: {name}: {cell:?}"
            );
        }
    }
}

fn salesforce_csv(key: &str, values: &[&str]) {
    let batch = Arc::new(batch(WriteKind::Upsert, &[key, "other", "third"], values));
    let mut operation = Salesforce.write(&settings(1), batch.clone());
    let Step::Send(_) = operation.step(None) else {
        return;
    };
    let job = json!({"id": "7505g00000000001AAA", "state": "Open", "contentUrl": "x"});
    let Step::Send(request) = operation.step(ok(&job)) else {
        return;
    };
    if request.method == Method::Put {
        let rows = rows(&request.body);
        assert!(rows.len() >= 2, "{rows:?}");
        compare(&batch, &rows, "Ext__c", "#N/A");
    }
}

fn zoho_csv(key: &str, values: &[&str]) {
    // Rows of one file have the same fields, so only one record's values are tried.
    let batch = Arc::new(batch(WriteKind::Upsert, &[key, "other", "third"], values));
    let mut operation = Zoho.write(&settings(1), batch.clone());
    let mut step = operation.step(None);
    for _ in 0..3 {
        let Step::Send(request) = step else {
            return;
        };
        if let Some(file) = archived(&request.body) {
            let rows = rows(&file);
            assert!(rows.len() >= 2, "{rows:?}");
            return compare(&batch, &rows, "Ext__c", "");
        }
        // The organisation that files are uploaded for.
        step = operation.step(ok(&json!({"org": [{"zgid": "1", "id": "1"}]})));
    }
}

/// The one file of the archive in a form.
fn archived(form: &[u8]) -> Option<Vec<u8>> {
    let start = form.windows(4).position(|bytes| bytes == b"PK\x03\x04")?;
    let mut archive = zip::ZipArchive::new(Cursor::new(&form[start..])).ok()?;
    let mut file = Vec::new();
    archive.by_index(0).ok()?.read_to_end(&mut file).ok()?;
    Some(file)
}
