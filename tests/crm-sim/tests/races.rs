//! The providers against the simulator, while somebody else edits the same record.

mod common;

use common::{Line, World};
use crm_domain::{DataType, Failure, Value};
use crm_provider::record::Field;
use crm_provider::{
    CrmObject, DoneBatch, DoneField, DoneRecord, Overwritten, ReadBatch, Settings, WriteBatch,
    WriteKind, WriteRecord, Written,
};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One vendor of the simulator with a record of it.
struct Crm<'a> {
    line: Line<'a>,
    object: &'static str,
    field: Arc<Field>,
    id: String,
}

impl Crm<'_> {
    fn read(&self, count: usize) -> CrmObject {
        let batch = ReadBatch {
            object: self.object.to_owned(),
            ids: vec![self.id.clone(); count],
            fields: vec![self.field.clone()],
            for_write: true,
        };
        let found = self
            .line
            .run(self.line.provider.read(&Settings::default(), batch.into()));
        found.unwrap().remove(0).unwrap()
    }

    fn write(&self, value: &str, unless_changed: Option<String>) -> Result<Written, Failure> {
        let batch = WriteBatch {
            object: self.object.to_owned(),
            kind: WriteKind::Update,
            external_id_field: None,
            creates_only: false,
            records: vec![WriteRecord {
                crm_id: Some(self.id.clone()),
                fields: vec![(self.field.clone(), Value::text(value))],
                unless_changed,
                ..WriteRecord::default()
            }],
        };
        let settings = Settings {
            bulk_threshold: 2000,
            ..Settings::default()
        };
        self.line
            .run(self.line.provider.write(&settings, batch.into()))
            .unwrap()
            .remove(0)
    }

    fn overwritten(&self, read: &CrmObject, was: &str, written: &str) -> Vec<Overwritten> {
        let batch = DoneBatch {
            object: self.object.to_owned(),
            records: vec![DoneRecord {
                crm_id: self.id.clone(),
                modified_at: read.modified_at,
                fields: vec![DoneField {
                    field: self.field.clone(),
                    read: Value::text(was),
                    written: Value::text(written),
                }],
            }],
        };
        let operation = self
            .line
            .provider
            .overwritten(&Settings::default(), batch.into());
        self.line.run(operation.unwrap()).unwrap().remove(0)
    }

    /// Somebody else edits the record around the next write of it.
    fn intrude(&self, when: &str, value: &str) {
        let edit = json!({"object": self.object, "id": self.id, "when": when,
            "fields": {self.field.name.as_str(): value}});
        let fault = json!({"vendor": self.line.provider.name(), "method": "PATCH", "edit": edit});
        self.line.world.admin("POST", "/faults", fault);
    }

    fn held(&self) -> String {
        let path = format!(
            "/objects/{}/{}/{}",
            self.line.provider.name(),
            self.object,
            self.id
        );
        let held = self.line.world.admin("GET", &path, serde_json::Value::Null);
        let held = &held["fields"][&self.field.name];
        held.as_str().unwrap().to_owned()
    }
}

fn crm<'a>(
    world: &'a World,
    vendor: &str,
    object: &'static str,
    field: &str,
    made: serde_json::Value,
) -> Crm<'a> {
    let path = format!("/objects/{vendor}/{object}");
    let made = world.admin("POST", &path, json!({ "fields": made }));
    Crm {
        line: Line::new(world, vendor),
        object,
        field: Arc::new(Field {
            name: field.to_owned(),
            data_type: DataType::Text,
        }),
        id: made["id"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn salesforce_refuses_a_write_that_somebody_else_came_before() {
    let world = World::new();
    // The clock of the CRM is nobody else's.
    world.admin("POST", "/clock", json!({"skew_s": -7200.5}));
    for (object, field, made, waits) in [
        (
            "Contact",
            "Title",
            json!({"LastName": "x", "Title": "old"}),
            true,
        ),
        (
            "Account",
            "Phone",
            json!({"Name": "x", "Phone": "old"}),
            false,
        ),
    ] {
        let sf = crm(&world, "salesforce", object, field, made);
        // The record was made in this very second, which is waited out; an account's tag needs no
        // waiting.
        let started = Instant::now();
        let read = sf.read(1);
        assert!(waits || started.elapsed() < Duration::from_millis(900));
        assert!(read.version.is_some());
        sf.intrude("before", "theirs");
        let refused = sf.write("ours", read.version).unwrap_err();
        assert!(refused.is_stale(), "{refused}");
        assert_eq!(sf.held(), "theirs");
        // Read again, it can be written, by what a row or a collection said.
        for (count, value) in [(1, "ours"), (2, "ours too")] {
            let read = sf.read(count);
            sf.write(value, read.version.clone()).unwrap();
            assert_eq!(sf.held(), value);
            // Once: our own write is a change like any other.
            assert!(sf.write("stale", read.version).unwrap_err().is_stale());
            assert_eq!(sf.held(), value);
        }
    }
}

#[test]
fn salesforce_tells_a_record_that_is_gone_from_an_object_that_never_was() {
    let world = World::new();
    let made = json!({"LastName": "x", "Title": "old"});
    let mut sf = crm(&world, "salesforce", "Contact", "Title", made);
    let read = sf.read(1);
    let path = format!("/objects/salesforce/Contact/{}", sf.id);
    world.admin("DELETE", &path, serde_json::Value::Null);
    let gone = sf.write("ours", read.version.clone()).unwrap_err();
    assert_eq!(gone.class, crm_domain::ErrorClass::NotFound);
    sf.object = "Nothing__c";
    let unknown = sf.write("ours", read.version).unwrap_err();
    assert_eq!(unknown.class, crm_domain::ErrorClass::Mapping);
}

#[test]
fn hubspot_tells_afterwards_what_a_write_replaced() {
    let world = World::new();
    let made = json!({"email": "a@x.test", "city": "Rome"});
    let hs = crm(&world, "hubspot", "contacts", "city", made);
    let lost = |read: &CrmObject, was, written| {
        let lost = hs.overwritten(read, was, written);
        let values = lost
            .into_iter()
            .map(|lost| lost.value.as_str().unwrap().to_owned());
        values.collect::<Vec<_>>()
    };
    let read = hs.read(1);
    assert_eq!(read.version, None);
    hs.write("Bern", None).unwrap();
    assert!(lost(&read, "Rome", "Bern").is_empty());

    let read = hs.read(1);
    hs.intrude("before", "Oslo");
    hs.write("Paris", None).unwrap();
    assert_eq!(lost(&read, "Bern", "Paris"), ["Oslo"]);

    // Whoever comes after us has the last word, and has lost nothing.
    let read = hs.read(1);
    hs.intrude("after", "Oslo");
    hs.write("Lima", None).unwrap();
    assert_eq!(hs.held(), "Oslo");
    assert!(lost(&read, "Paris", "Lima").is_empty());

    // Somebody wanted the same.
    let read = hs.read(1);
    hs.intrude("before", "Kyiv");
    hs.write("Kyiv", None).unwrap();
    assert!(lost(&read, "Oslo", "Kyiv").is_empty());
}
