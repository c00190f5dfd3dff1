//! What is easy to get wrong about Pipedrive, over real sockets.

mod common;

use common::{Line, World, field};
use crm_domain::{DataType, ErrorClass, Value as Canonical};
use crm_provider::record::Field;
use crm_provider::{
    Credentials, DoneBatch, DoneField, DoneRecord, Overwritten, ReadBatch, Settings, Step, Target,
    WriteBatch, WriteKind, WriteRecord,
};
use serde_json::{Value, json};
use std::sync::Arc;

const KEY: &str = "a000000000000000000000000000000000000001";
const BUDGET: &str = "d000000000000000000000000000000000000002";

/// Persons with keys, to be created or updated.
fn upsert(keys: &[&str]) -> WriteBatch {
    let record = |key: &&str| WriteRecord {
        external_id: Some((*key).to_owned()),
        fields: vec![(field("name", DataType::Text), Canonical::text(key))],
        ..WriteRecord::default()
    };
    WriteBatch {
        object: "persons".to_owned(),
        kind: WriteKind::Upsert,
        external_id_field: Some(KEY.to_owned()),
        creates_only: false,
        records: keys.iter().map(record).collect(),
    }
}

fn update(object: &str, id: &str, fields: Vec<(Arc<Field>, Canonical)>) -> WriteBatch {
    WriteBatch {
        object: object.to_owned(),
        kind: WriteKind::Update,
        external_id_field: None,
        creates_only: false,
        records: vec![WriteRecord {
            crm_id: Some(id.to_owned()),
            fields,
            ..WriteRecord::default()
        }],
    }
}

#[test]
fn nothing_is_coerced_and_custom_fields_lie_apart() {
    let world = World::new();
    for (body, told) in [
        (
            json!({"title": "x", "value": "5"}),
            "value: Expected number, received string",
        ),
        (json!({"title": 5}), "title: Expected string"),
        (json!({"value": 5}), "title: title is required"),
        (
            json!({"title": "x", "nope": 1}),
            "Parameter 'nope' is not allowed",
        ),
        (
            json!({"title": "x", BUDGET: 5}),
            "is not allowed for this request",
        ),
        (
            json!({"title": "x", "custom_fields": {BUDGET: 5}}),
            "Expected object",
        ),
        (
            json!({"title": "x", "custom_fields": {BUDGET: {"value": 5}}}),
            "currency are required",
        ),
        (
            json!({"title": "x", "status": "gone"}),
            "Invalid enum value",
        ),
    ] {
        let error = world.pd("POST", "/v2/deals", body);
        assert_eq!(error.status, 400);
        let error = error.json();
        assert_eq!(error["code"], "ERR_SCHEMA_VALIDATION_FAILED");
        assert!(error["error"].as_str().unwrap().contains(told), "{error}");
    }
    let made = world.pd(
        "POST",
        "/v2/deals",
        json!({"title": "x", "custom_fields": {BUDGET: {"value": 5, "currency": "EUR"}}}),
    );
    assert_eq!(made.status, 201);
    let made = made.json();
    assert_eq!(
        made["data"]["custom_fields"][BUDGET],
        json!({"value": 5, "currency": "EUR"})
    );
    assert_eq!(made["data"]["id"], 1);
    let at = made["data"]["update_time"].as_str().unwrap();
    assert!(at.len() == 20 && at.ends_with('Z'));
    for path in [
        "/v2/deals?nope=1",
        "/v2/deals?limit=501",
        "/v2/deals?updated_since=2026-01-02",
        "/v2/products?updated_until=2026-01-02T03:04:05Z",
    ] {
        assert_eq!(world.pd("GET", path, Value::Null).status, 400, "{path}");
    }
    for path in [
        "/v2/leads",
        "/v1/deals",
        "/v2/nothing",
        "/v3/deals",
        "/v2/deals/2",
    ] {
        assert_eq!(world.pd("GET", path, Value::Null).status, 404, "{path}");
    }
}

#[test]
fn each_kind_of_token_has_a_header_of_its_own() {
    let world = World::new();
    let me = |headers: &[(&str, &str)]| {
        let reply = world.call(world.pipedrive, "GET", "/api/v1/users/me", headers, "");
        reply.unwrap().status
    };
    assert_eq!(me(&[("x-api-token", "pd-token")]), 200);
    assert_eq!(me(&[("Authorization", "Bearer pd-token")]), 401);
    let line = Line::new(&world, "pipedrive");
    let origin = format!("http://{}", world.pipedrive);
    let pairs = [
        ("client_id", "pd-client"),
        ("client_secret", "pd-secret"),
        ("refresh_token", "pd-refresh"),
        ("login_url", &origin),
    ];
    let credentials = Credentials(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    let mut operation = line.provider.authorise("https://x", &credentials).unwrap();
    let Step::Send(request) = operation.step(None) else {
        panic!("a token is asked for")
    };
    let Target::Url(url) = &request.target else {
        panic!("{request:?}")
    };
    assert_eq!(*url, format!("{origin}/oauth/token"));
    let headers: Vec<_> = request
        .headers
        .iter()
        .map(|(n, v)| (*n, v.as_str()))
        .collect();
    let reply = world.call(
        world.pipedrive,
        "POST",
        "/oauth/token",
        &headers,
        &request.body,
    );
    let body = reply.unwrap().text.into_bytes();
    let answer = crm_provider::Response {
        status: 200,
        body,
        ..Default::default()
    };
    let Step::Done(Ok(grant)) = operation.step(Some(answer)) else {
        panic!("a token is granted")
    };
    assert_eq!(grant.base_url.as_ref(), Some(&origin));
    let bearer = format!("Bearer {}", grant.access_token);
    assert_eq!(me(&[("Authorization", &bearer)]), 200);
    assert_eq!(me(&[("x-api-token", &grant.access_token)]), 401);
}

#[test]
fn requests_cost_tokens_and_the_headers_tell_them() {
    let world = World::new();
    let left = |reply: &common::Reply| -> u64 {
        reply
            .header("x-daily-ratelimit-token-remaining")
            .parse()
            .unwrap()
    };
    let first = left(&world.pd("GET", "/v1/users/me", Value::Null));
    let made = world.pd("POST", "/v2/persons", json!({"name": "Ada"}));
    assert_eq!(first - left(&made), 5);
    let search = format!("/v2/itemSearch/field?term=K&entity_type=person&field={KEY}&match=exact");
    let found = world.pd("GET", &search, Value::Null);
    assert_eq!(left(&made) - left(&found), 20);
    let order = json!({"vendor": "pipedrive", "daily_limit": 37});
    world.admin("POST", "/config", order);
    assert_eq!(world.pd("GET", "/v2/persons", Value::Null).status, 200);
    let spent = world.pd("GET", "/v2/persons", Value::Null);
    assert_eq!((spent.status, left(&spent)), (429, 0));
    let line = Line::new(&world, "pipedrive");
    let failure = line
        .run(line.provider.ping(&Settings::default()))
        .unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (ErrorClass::RateLimited, "daily_tokens_spent")
    );
    world.admin("POST", "/reset", Value::Null);
    let order = json!({"vendor": "pipedrive", "interval_limit": 1, "interval_ms": 60_000});
    world.admin("POST", "/config", order);
    line.run(line.provider.ping(&Settings::default())).unwrap();
    let failure = line
        .run(line.provider.ping(&Settings::default()))
        .unwrap_err();
    assert_eq!(failure.code, "http_429");
}

#[test]
fn records_are_created_once_and_then_updated() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    // The search knows nothing for a minute.
    let lag = json!({"vendor": "pipedrive", "search_lag_ms": 60_000});
    world.admin("POST", "/config", lag);
    let keys = ["K-1", "K 2", "k-1", "K/3?&=#", "ключ", "K-1"];
    for round in 0..3 {
        let written = line.write(upsert(&keys));
        let created = written
            .iter()
            .filter(|w| w.as_ref().unwrap().created)
            .count();
        assert_eq!(created, if round == 0 { 5 } else { 0 });
        assert_eq!(
            written[0].as_ref().unwrap().crm_id,
            written[5].as_ref().unwrap().crm_id
        );
        assert_eq!(world.count("pipedrive", "persons"), 5);
        // Later, the list is not read so far back, and the search has found them.
        world.admin("POST", "/clock", json!({"skew_s": 600 * round}));
    }
}

#[test]
fn a_create_whose_answer_is_lost_makes_no_twin() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    let lag = json!({"vendor": "pipedrive", "search_lag_ms": 60_000});
    world.admin("POST", "/config", lag);
    let refused = json!({"vendor": "pipedrive", "method": "POST", "status": 504, "applied": true, "times": 2});
    world.admin("POST", "/faults", refused);
    let settings = Settings::default();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let operation = line.provider.write(&settings, Arc::new(upsert(&["K"])));
        match line.run(operation) {
            Ok(outcomes) if outcomes[0].is_ok() => break,
            _ => assert!(attempts < 5),
        }
    }
    assert_eq!((attempts, world.count("pipedrive", "persons")), (2, 1));
}

#[test]
fn values_of_every_type_come_back_as_they_were_written() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    let made = world.pd(
        "POST",
        "/v2/persons",
        json!({"name": "Ada", "emails": [
            {"value": "work@x.test", "primary": true, "label": "work"},
            {"value": "home@x.test", "primary": false, "label": "home"},
        ]}),
    );
    assert_eq!(made.status, 201, "{}", made.text);
    let custom = |n: u32| format!("a{n:039}");
    let values = [
        (
            custom(1),
            DataType::Text,
            Canonical::text("O'Neil \"x\"\nй"),
        ),
        (
            custom(3),
            DataType::Number,
            Canonical::number("-12.50").unwrap(),
        ),
        (
            custom(4),
            DataType::Date,
            Canonical::from_json(DataType::Date, &json!("2026-01-02")).unwrap(),
        ),
        (
            custom(5),
            DataType::Timestamp,
            Canonical::Timestamp(1_767_323_045_000),
        ),
        (custom(6), DataType::Boolean, Canonical::Boolean(true)),
        (
            custom(7),
            DataType::MultiChoice,
            Canonical::multi_choice(["5", "1"]),
        ),
        (custom(8), DataType::Choice, Canonical::text("2")),
        (
            custom(9),
            DataType::Json,
            Canonical::json(json!({"a": [1, null, "x"]})),
        ),
        (
            "emails".to_owned(),
            DataType::Text,
            Canonical::text("new@x.test"),
        ),
        (
            "org_id".to_owned(),
            DataType::Reference,
            Canonical::text("17"),
        ),
        (
            "phones".to_owned(),
            DataType::Json,
            Canonical::json(json!([{"value": "1", "primary": true, "label": "work"}])),
        ),
    ];
    let fields: Vec<_> = values.iter().map(|(name, t, _)| field(name, *t)).collect();
    let round_trip = |values: Vec<Canonical>| {
        let written = fields.iter().cloned().zip(values.clone()).collect();
        for outcome in line.write(update("persons", "1", written)) {
            outcome.unwrap();
        }
        let batch = ReadBatch {
            object: "persons".to_owned(),
            ids: vec!["1".to_owned()],
            fields: fields.clone(),
            for_write: false,
        };
        let read = line.run(line.provider.read(&Settings::default(), Arc::new(batch)));
        let object = read.unwrap().remove(0).unwrap();
        for (field, value) in fields.iter().zip(values) {
            let held = &object.fields[&field.name];
            let held = line.provider.from_wire(field.data_type, held).unwrap();
            assert_eq!(held.hash(), value.hash(), "{}: {held:?}", field.name);
        }
        object
    };
    round_trip(values.iter().map(|(_, _, value)| value.clone()).collect());
    let held = world.admin("GET", "/objects/pipedrive/persons/1", Value::Null);
    let emails = held["fields"]["emails"].as_array().unwrap();
    assert_eq!(
        (emails.len(), &emails[1]["value"]),
        (2, &json!("home@x.test"))
    );
    round_trip(vec![Canonical::Null; fields.len()]);
}

#[test]
fn parts_of_money_are_written_one_by_one() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    world.pd("POST", "/v2/deals", json!({"title": "x"}));
    let value = field(&format!("{BUDGET}.value"), DataType::Number);
    let currency = field(&format!("{BUDGET}.currency"), DataType::Text);
    let number = |text: &str| Canonical::number(text).unwrap();
    let both = vec![
        (value.clone(), number("5")),
        (currency.clone(), Canonical::text("EUR")),
    ];
    line.write(update("deals", "1", both)).remove(0).unwrap();
    line.write(update("deals", "1", vec![(value.clone(), number("7"))]))
        .remove(0)
        .unwrap();
    let held = |world: &World| {
        world.admin("GET", "/objects/pipedrive/deals/1", Value::Null)["fields"][BUDGET].take()
    };
    assert_eq!(held(&world), json!({"value": 7, "currency": "EUR"}));
    let none = vec![(value, Canonical::Null), (currency, Canonical::Null)];
    line.write(update("deals", "1", none)).remove(0).unwrap();
    assert_eq!(held(&world), Value::Null);
}

#[test]
fn what_a_write_replaced_is_found_in_the_changelog() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    world.pd("POST", "/v2/deals", json!({"title": "read"}));
    let old = json!({"fields": {"title": "read"}, "modified_at": "2026-01-02T03:04:05Z"});
    world.admin("PATCH", "/objects/pipedrive/deals/1", old);
    world.admin(
        "PATCH",
        "/objects/pipedrive/deals/1",
        json!({"fields": {"title": "theirs"}}),
    );
    let title = field("title", DataType::Text);
    let ours = vec![(title.clone(), Canonical::text("ours"))];
    line.write(update("deals", "1", ours)).remove(0).unwrap();
    let done = DoneBatch {
        object: "deals".to_owned(),
        records: vec![DoneRecord {
            crm_id: "1".to_owned(),
            modified_at: Some(1_767_323_045_000),
            fields: vec![DoneField {
                field: title,
                read: Canonical::text("read"),
                written: Canonical::text("ours"),
            }],
        }],
    };
    let look = line
        .provider
        .overwritten(&Settings::default(), Arc::new(done))
        .unwrap();
    let lost: Vec<Overwritten> = line.run(look).unwrap().remove(0);
    assert_eq!(lost.len(), 1);
    assert_eq!(lost[0].value, "theirs");
    assert_eq!(lost[0].source.as_deref(), Some("app userId:98"));
}

#[test]
fn gone_records_are_told_from_unknown_paths() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    for (object, name) in [
        ("persons", "name"),
        ("deals", "title"),
        ("products", "name"),
    ] {
        world.pd("POST", &format!("/v2/{object}"), json!({name: "x"}));
        let text = || vec![(field(name, DataType::Text), Canonical::text("y"))];
        line.write(update(object, "1", text())).remove(0).unwrap();
        let delete = WriteBatch {
            kind: WriteKind::Delete,
            ..update(object, "1", Vec::new())
        };
        line.write(delete.clone()).remove(0).unwrap();
        for batch in [
            delete,
            update(object, "1", text()),
            update(object, "77", text()),
        ] {
            let failure = line.write(batch).remove(0).unwrap_err();
            assert_eq!(failure.class, ErrorClass::NotFound, "{object}");
        }
    }
}

#[test]
fn leads_and_notes_are_those_of_the_first_version() {
    let world = World::new();
    let line = Line::new(&world, "pipedrive");
    world.pd("POST", "/v2/persons", json!({"name": "Ada"}));
    assert_eq!(
        world.pd("POST", "/v1/leads", json!({"title": "x"})).status,
        400
    );
    let key = "d000000000000000000000000000000000000001";
    let lead = WriteBatch {
        object: "leads".to_owned(),
        kind: WriteKind::Upsert,
        external_id_field: Some(key.to_owned()),
        creates_only: false,
        records: vec![WriteRecord {
            external_id: Some("L-1".to_owned()),
            fields: vec![
                (field("title", DataType::Text), Canonical::text("Acme")),
                (
                    field("person_id", DataType::Reference),
                    Canonical::text("1"),
                ),
                (
                    field("value.amount", DataType::Number),
                    Canonical::number("5").unwrap(),
                ),
                (
                    field("value.currency", DataType::Text),
                    Canonical::text("EUR"),
                ),
            ],
            ..WriteRecord::default()
        }],
    };
    let first = line.write(lead.clone()).remove(0).unwrap();
    let again = line.write(lead).remove(0).unwrap();
    assert!(first.created && !again.created && first.crm_id == again.crm_id);
    let held = world
        .pd("GET", &format!("/v1/leads/{}", first.crm_id), Value::Null)
        .json();
    assert_eq!(
        held["data"]["value"],
        json!({"amount": 5, "currency": "EUR"})
    );
    assert_eq!(held["data"][key], "L-1");
    let note = world.pd("POST", "/v1/notes", json!({"content": "x", "person_id": 1}));
    assert_eq!(note.status, 201);
    let content = vec![(field("content", DataType::Text), Canonical::text("y"))];
    line.write(update("notes", "1", content)).remove(0).unwrap();
}
