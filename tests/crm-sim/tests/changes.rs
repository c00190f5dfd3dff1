//! The providers' pages of changes, from the simulator over real sockets.

mod common;

use common::{Line, World};
use crm_domain::DataType;
use crm_provider::record::Field;
use crm_provider::{Change, ChangesQuery, ReadBatch, Settings};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A reader of changes that keeps its cursor.
struct Reader<'a> {
    line: Line<'a>,
    object: &'static str,
    name: &'static str,
    key: &'static str,
    cursor: Option<Value>,
    settings: Settings,
}

impl<'a> Reader<'a> {
    fn new(world: &'a World, vendor: &str) -> Self {
        let (object, name, key) = match vendor {
            "salesforce" => ("Contact", "LastName", "External_Key__c"),
            "pipedrive" => (
                "persons",
                "name",
                "a000000000000000000000000000000000000001",
            ),
            "zoho" => ("Contacts", "Last_Name", "External_Key"),
            "dynamics365" => ("contacts", "lastname", "crm_externalkey"),
            _ => ("contacts", "lastname", "external_key"),
        };
        Self {
            line: Line::new(world, vendor),
            object,
            name,
            key,
            cursor: None,
            settings: Settings::default(),
        }
    }

    fn with_overlap(world: &'a World, vendor: &str, seconds: i64) -> Self {
        let mut reader = Self::new(world, vendor);
        let overlap = ("overlap_seconds".to_owned(), seconds.into());
        reader.settings.options.extend([overlap]);
        reader
    }

    /// All pages until there are no more. Cursors go through their text in between.
    fn pass(&mut self, limit: usize) -> Vec<Change> {
        let mut changes = Vec::new();
        for _ in 0..2000 {
            let query = ChangesQuery {
                object: self.object.to_owned(),
                fields: vec![Arc::new(Field {
                    name: self.name.to_owned(),
                    data_type: DataType::Text,
                })],
                external_id_field: Some(self.key.to_owned()),
                since: self.cursor.take(),
                limit,
            };
            let provider = self.line.provider;
            let page = self
                .line
                .run(provider.changes(&self.settings, query.into()));
            let page = page.unwrap();
            self.cursor = Some(serde_json::from_str(&page.next.to_string()).unwrap());
            changes.extend(page.changes);
            if !page.more {
                return changes;
            }
        }
        panic!("the pass never ends: {:?}", self.cursor);
    }

    fn admin(&self, method: &str, id: &str, body: Value) -> Value {
        let vendor = self.line.provider.name();
        let path = format!("/objects/{vendor}/{}{id}", self.object);
        self.line.world.admin(method, &path, body)
    }

    /// Makes records with these times; the key of each is its number.
    fn make(&self, times: &[&str]) -> Vec<String> {
        let edit = |(n, at): (usize, &&str)| json!({"fields": {self.name: format!("n{n}"), self.key: format!("K{n}")}, "modified_at": at});
        let edits: Vec<Value> = times.iter().enumerate().map(edit).collect();
        let made = self.admin("POST", "", edits.into());
        let ids = made["ids"].as_array().unwrap();
        ids.iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect()
    }

    fn requests(&self) -> u64 {
        let stats = self.line.world.admin("GET", "/requests/stats", Value::Null);
        stats[self.line.provider.name()]["requests"]
            .as_u64()
            .unwrap()
    }
}

fn ids(changes: &[Change]) -> BTreeSet<String> {
    let ids = changes.iter().map(|change| change.object.crm_id.clone());
    ids.collect()
}

const VENDORS: [&str; 5] = ["salesforce", "hubspot", "pipedrive", "zoho", "dynamics365"];
/// Those that tell of deleted records at once, and of merged ones.
const PROMPT: [&str; 2] = ["salesforce", "hubspot"];

#[test]
fn every_record_is_seen_however_pages_are_cut() {
    let world = World::new();
    for vendor in VENDORS {
        let mut reader = Reader::new(&world, vendor);
        // Ties within a millisecond and within a second, at the borders of pages of several sizes.
        let mut times = vec!["2026-01-02T03:04:05.100Z"; 7];
        times.extend(["2026-01-02T03:04:05.900Z", "2026-01-02T03:04:05.200Z"]);
        times.extend(["2026-01-02T03:04:06.000Z"; 3]);
        times.extend(["2026-01-02T04:00:00.000Z", "2026-01-02T05:00:00.000Z"]);
        times.extend(["2026-01-03T00:00:00.000Z"; 5]);
        let made: BTreeSet<String> = reader.make(&times).into_iter().collect();
        for limit in [1, 2, 3, 5, 9, 200] {
            reader.cursor = None;
            let changes = reader.pass(limit);
            assert_eq!(ids(&changes), made, "{vendor} by {limit}");
            assert_eq!(changes.len(), made.len(), "{vendor} by {limit}");
            assert!(changes.iter().all(|change| !change.deleted));
            assert_eq!(reader.pass(limit).len(), 0, "{vendor} by {limit}");
        }
        let first = &reader.line.run(reader.line.provider.changes(
            &reader.settings,
            Arc::new(ChangesQuery {
                object: reader.object.to_owned(),
                limit: 1,
                ..ChangesQuery::default()
            }),
        ));
        assert_eq!(first.as_ref().unwrap().changes[0].external_id, None);
    }
}

#[test]
fn edits_deletions_merges_and_restored_records_are_seen() {
    let world = World::new();
    for vendor in PROMPT {
        let mut reader = Reader::new(&world, vendor);
        let made = reader.make(&["2026-01-02T03:04:05Z"; 6]);
        assert_eq!(reader.pass(100).len(), 6);
        let [edited, deleted, winner, loser, restored, still] = &made[..] else {
            unreachable!()
        };
        reader.admin(
            "PATCH",
            &format!("/{edited}"),
            json!({"fields": {reader.name: "new"}}),
        );
        reader.admin("DELETE", &format!("/{deleted}"), Value::Null);
        reader.admin("DELETE", &format!("/{restored}"), Value::Null);
        let merge = json!({"into": winner, "from": [loser]});
        world.admin("POST", &format!("/merge/{vendor}/{}", reader.object), merge);
        let changes = reader.pass(100);
        let one = |id: &String| {
            let found: Vec<_> = changes.iter().filter(|c| c.object.crm_id == *id).collect();
            assert_eq!(found.len(), 1, "{vendor} {id}: {changes:?}");
            found[0]
        };
        assert_eq!(one(edited).object.fields[reader.name], "new");
        assert_eq!(one(edited).external_id.as_deref(), Some("K0"));
        assert_eq!(
            (one(deleted).deleted, &one(deleted).merged_into),
            (true, &None)
        );
        assert_eq!(one(deleted).external_id.as_deref(), Some("K1"));
        assert!(!one(winner).deleted && one(restored).deleted);
        assert_eq!(one(loser).merged_into.as_ref(), Some(winner));
        assert!(one(loser).deleted);
        assert!(!ids(&changes).contains(still));
        let human = changes.iter().find(|c| c.object.crm_id == *edited).unwrap();
        assert_eq!(human.modified_by.is_some(), vendor != "pipedrive");
        reader.admin("PATCH", &format!("/{restored}"), json!({"deleted": false}));
        let changes = reader.pass(100);
        let last = changes.iter().rfind(|c| c.object.crm_id == *restored);
        assert!(!last.unwrap().deleted, "{vendor}");
        // The CRM's clock goes on, and nothing happens any more.
        world.admin("POST", "/clock", json!({"skew_s": 3600}));
        reader.pass(100);
        let before = reader.requests();
        assert_eq!(reader.pass(100).len(), 0, "{vendor}");
        assert!(reader.requests() - before <= 2);
        world.admin("POST", "/clock", json!({"skew_s": 0}));
    }
}

#[test]
fn more_than_10_000_records_with_one_timestamp_are_no_endless_loop() {
    let world = World::new();
    for vendor in VENDORS {
        let mut reader = Reader::new(&world, vendor);
        let made = reader.make(&vec!["2026-01-02T03:04:05.678Z"; 10_050]);
        let changes = reader.pass(10_000);
        assert_eq!(changes.len(), made.len());
        assert_eq!(ids(&changes).len(), made.len());
        assert_eq!(reader.pass(10_000).len(), 0);
    }
}

#[test]
fn what_becomes_visible_late_is_seen_within_the_overlap() {
    let world = World::new();
    for vendor in VENDORS {
        let mut careful = Reader::new(&world, vendor);
        let mut careless = Reader::with_overlap(&world, vendor, 0);
        let now = world.admin("GET", "/clock", Value::Null)["now"].clone();
        careful.make(&[now.as_str().unwrap()]);
        assert_eq!((careful.pass(10).len(), careless.pass(10).len()), (1, 1));
        // A transaction that took its time half a minute ago is committed now.
        world.admin("POST", "/clock", json!({"skew_s": -30}));
        let late = careful.admin("POST", "", json!({"fields": {careful.name: "late"}}));
        world.admin("POST", "/clock", json!({"skew_s": 2}));
        let late = late["id"].as_str().unwrap().to_owned();
        assert!(ids(&careful.pass(10)).contains(&late), "{vendor}");
        // Nothing is late for those that go by the order of changes, and not by times.
        let is_seen = ids(&careless.pass(10)).contains(&late);
        assert_eq!(is_seen, vendor == "dynamics365", "{vendor}");
        world.admin("POST", "/clock", json!({"skew_s": 0}));
    }
}

#[test]
fn a_search_that_lags_loses_nothing() {
    let world = World::new();
    let mut reader = Reader::new(&world, "hubspot");
    let lag = json!({"vendor": "hubspot", "search_lag_ms": 60_000});
    world.admin("POST", "/config", lag);
    reader.make(&["2026-01-02T03:04:05Z"]);
    assert_eq!(reader.pass(10).len(), 1);
    let new = reader.admin("POST", "", json!({"fields": {"lastname": "new"}}));
    let id = new["id"].as_str().unwrap();
    assert_eq!(reader.pass(10).len(), 0);
    world.admin("POST", "/clock", json!({"skew_s": 120}));
    assert!(ids(&reader.pass(10)).contains(id));
}

#[test]
fn more_archived_records_than_a_page_are_all_told() {
    let world = World::new();
    let mut reader = Reader::new(&world, "hubspot");
    let made = reader.make(&vec!["2026-01-02T03:04:05Z"; 230]);
    assert_eq!(reader.pass(200).len(), 230);
    for id in &made[..205] {
        reader.admin("DELETE", &format!("/{id}"), Value::Null);
    }
    let gone = reader.pass(200);
    assert_eq!(gone.len(), 205);
    assert!(gone.iter().all(|change| change.deleted));
}

#[test]
fn an_object_with_more_fields_than_a_url_holds_is_read() {
    let world = World::new();
    let names: Vec<String> = (0..500)
        .map(|n| format!("Quite_a_long_field_name_{n}__c"))
        .collect();
    let fields: Vec<Value> = names
        .iter()
        .map(|name| json!({"name": name, "type": "string"}))
        .collect();
    world.admin(
        "POST",
        "/schema/salesforce/Contact",
        json!({ "fields": fields }),
    );
    let reader = Reader::new(&world, "salesforce");
    let made = reader.make(&["2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"]);
    reader.admin(
        "PATCH",
        &format!("/{}", made[1]),
        json!({"fields": {&names[499]: "last"}}),
    );
    let field = |name: &String| {
        Arc::new(Field {
            name: name.clone(),
            data_type: DataType::Text,
        })
    };
    let query = ChangesQuery {
        object: "Contact".to_owned(),
        fields: names.iter().map(field).collect(),
        limit: 2000,
        ..ChangesQuery::default()
    };
    let provider = reader.line.provider;
    let page = reader
        .line
        .run(provider.changes(&reader.settings, query.into()));
    let changes = page.unwrap().changes;
    assert_eq!(changes.len(), 2);
    assert_eq!(changes[1].object.fields[&names[499]], "last");
}

#[test]
fn an_object_without_what_others_have_is_read() {
    let world = World::new();
    // Nobody says in which releases cases tell what they were merged into: here they do not.
    let fields = json!({"code": "500", "fields": [{"name": "Subject", "type": "string"}]});
    world.admin("POST", "/schema/salesforce/Case", fields);
    let record = json!({"fields": {"Subject": "x"}});
    world.admin("POST", "/objects/salesforce/Case", record);
    let mut reader = Reader::new(&world, "salesforce");
    (reader.object, reader.name, reader.key) = ("Case", "Subject", "Subject");
    let changes = reader.pass(10);
    let key = changes[0].external_id.as_deref();
    assert_eq!((changes.len(), key), (1, Some("x")));
    assert_eq!(reader.requests(), 2);
}

#[test]
fn a_merge_over_the_api_leaves_one_record_with_two_ids() {
    let world = World::new();
    let reader = Reader::new(&world, "hubspot");
    let made = reader.make(&["2026-01-02T03:04:05Z"; 3]);
    let merge = |into: &str, from: &str| {
        let body = json!({"primaryObjectId": into, "objectIdToMerge": from});
        world.hs("POST", "/objects/contacts/merge", body)
    };
    assert_eq!(merge(&made[0], &made[1]).json()["id"], made[0].as_str());
    assert_eq!(merge(&made[0], &made[0]).status, 400);
    assert_eq!(merge(&made[0], "1").status, 404);
    assert_eq!(merge(&made[2], &made[0]).status, 200);
    for id in &made {
        let path = format!(
            "/objects/contacts/{id}?properties=hs_merged_object_ids,hs_calculated_merged_vids"
        );
        let held = world.hs("GET", &path, Value::Null).json();
        assert_eq!(held["id"], made[2].as_str());
        let merged = held["properties"]["hs_merged_object_ids"].as_str().unwrap();
        assert_eq!(merged, format!("{};{}", made[1], made[0]));
    }
    let archived = world
        .hs("GET", "/objects/contacts?archived=true", Value::Null)
        .json();
    assert_eq!(archived["results"], json!([]));
    let refused = world.call(
        world.admin,
        "POST",
        "/merge/salesforce/Opportunity",
        &[],
        "{\"into\":\"x\",\"from\":[]}",
    );
    assert_eq!(refused.unwrap().status, 400);
}

#[test]
fn ids_compare_by_case_and_within_a_time() {
    let world = World::new();
    let reader = Reader::new(&world, "salesforce");
    let made = reader.make(&vec!["2026-01-02T03:04:05Z"; 70]);
    let after = |id: &str| {
        let text = format!(
            "SELECT Id FROM Contact WHERE SystemModstamp >= 2026-01-02T03:04:05Z AND \
             SystemModstamp < 2026-01-02T03:04:06Z AND Id > '{id}' ORDER BY Id LIMIT 100"
        );
        let text = text
            .replace(' ', "+")
            .replace('>', "%3E")
            .replace('<', "%3C")
            .replace('\'', "%27");
        let found = world
            .sf("GET", &format!("/queryAll?q={text}"), Value::Null)
            .json();
        let records = found["records"].as_array().unwrap().clone();
        let ids: Vec<String> = records
            .iter()
            .map(|r| r["Id"].as_str().unwrap().to_owned())
            .collect();
        ids
    };
    // Numbers, capitals, small letters: the 36th id is the first with a small one.
    for at in [0, 8, 9, 34, 35, 36, 60, 69] {
        assert_eq!(after(&made[at]), made[at + 1..], "after {}", made[at]);
    }
}

#[test]
fn deleted_records_are_seen_in_the_end_also_where_no_list_shows_them() {
    let world = World::new();
    let mut reader = Reader::new(&world, "pipedrive");
    for (object, name, key) in [
        (
            "persons",
            "name",
            "a000000000000000000000000000000000000001",
        ),
        ("deals", "title", "d000000000000000000000000000000000000001"),
        ("products", "name", "code"),
    ] {
        (reader.object, reader.name, reader.key) = (object, name, key);
        reader.cursor = None;
        let made = reader.make(&["2026-01-02T03:04:05Z"; 30]);
        assert_eq!(ids(&reader.pass(7)).len(), 30, "{object}");
        for id in &made[..20] {
            reader.admin("DELETE", &format!("/{id}"), Value::Null);
        }
        let mut gone = reader.pass(7);
        world.admin("POST", "/clock", json!({"skew_s": 1000}));
        gone.extend(reader.pass(7));
        gone.retain(|change| change.deleted);
        assert_eq!(ids(&gone), made[..20].iter().cloned().collect(), "{object}");
        assert!(gone.iter().all(|change| change.external_id.is_some()));
        world.admin("POST", "/clock", json!({"skew_s": 0}));
    }
}

#[test]
fn deleted_and_restored_records_of_zoho_are_seen() {
    let world = World::new();
    let mut reader = Reader::new(&world, "zoho");
    let made = reader.make(&["2026-01-02T03:04:05Z"; 450]);
    assert_eq!(reader.pass(200).len(), 450);
    for id in &made[..420] {
        reader.admin("DELETE", &format!("/{id}"), Value::Null);
    }
    let gone = reader.pass(200);
    assert_eq!(ids(&gone), made[..420].iter().cloned().collect());
    assert!(gone.iter().all(|change| change.deleted));
    reader.admin("PATCH", &format!("/{}", made[7]), json!({"deleted": false}));
    let back = reader.pass(200);
    let last = back.iter().rfind(|change| change.object.crm_id == made[7]);
    assert!(!last.unwrap().deleted);
}

#[test]
fn changes_of_dynamics365_are_told_by_delta_links() {
    let world = World::new();
    let mut reader = Reader::new(&world, "dynamics365");
    let made = reader.make(&["2026-01-02T03:04:05Z"; 9]);
    assert_eq!(reader.pass(4).len(), 9);
    let edit = json!({"fields": {"lastname": "new"}, "modified_at": "2020-01-02T03:04:05Z"});
    reader.admin("PATCH", &format!("/{}", made[8]), edit);
    for id in &made[..5] {
        reader.admin("DELETE", &format!("/{id}"), Value::Null);
    }
    // Deleted before anybody was told of it.
    let brief = reader.admin("POST", "", json!({"fields": {"lastname": "brief"}}));
    let brief = brief["id"].as_str().unwrap().to_owned();
    reader.admin("DELETE", &format!("/{brief}"), Value::Null);
    let told = reader.pass(2);
    assert_eq!(told.len(), 7);
    assert!(!told[0].deleted && told[0].object.fields["lastname"] == "new");
    assert_eq!(told[0].external_id.as_deref(), Some("K8"));
    assert!(told[1..].iter().all(|change| change.deleted));
    assert!(ids(&told).contains(&brief));
    reader.admin("PATCH", &format!("/{}", made[0]), json!({"deleted": false}));
    let back = reader.pass(2);
    assert_eq!((back.len(), back[0].deleted), (1, false));
    assert_eq!(back[0].object.crm_id, made[0]);
    let before = reader.requests();
    assert_eq!((reader.pass(2).len(), reader.requests() - before), (0, 1));
    // A week later the link has lapsed, and all rows are read again.
    world.admin("POST", "/clock", json!({"skew_s": 8 * 24 * 3600}));
    assert_eq!(reader.pass(100).len(), 5);
    assert_eq!(reader.pass(100).len(), 0);
}

#[test]
fn archived_deals_are_read_as_the_others() {
    let world = World::new();
    let mut reader = Reader::new(&world, "pipedrive");
    (reader.object, reader.name) = ("deals", "title");
    reader.key = "d000000000000000000000000000000000000001";
    let made = reader.make(&["2026-01-02T03:04:05Z"; 4]);
    let archive = json!({"fields": {"is_archived": true}});
    reader.admin("PATCH", &format!("/{}", made[1]), archive);
    assert_eq!(ids(&reader.pass(2)).len(), 4);
    let batch = ReadBatch {
        object: "deals".to_owned(),
        ids: made.clone(),
        ..ReadBatch::default()
    };
    let provider = reader.line.provider;
    let read = provider.read(&reader.settings, Arc::new(batch));
    assert!(reader.line.run(read).unwrap().iter().all(Option::is_some));
}
