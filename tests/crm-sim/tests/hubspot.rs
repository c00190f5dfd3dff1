//! What is easy to get wrong about HubSpot, over real sockets.

mod common;

use common::World;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn create(world: &World, properties: Value) -> Value {
    let made = world.hs(
        "POST",
        "/objects/contacts",
        json!({"properties": properties}),
    );
    assert_eq!(made.status, 201, "{}", made.text);
    made.json()
}

#[test]
fn everything_is_text_or_null() {
    let world = World::new();
    let made = create(
        &world,
        json!({
            "score": "12.50", "newsletter": true, "birth_date": "1767225600000", "last_seen": "2026-01-02T03:04:05.678+01:00",
            "interests": "data;cloud", "email": "Ada@Example.test", "city": " Oslo ",
        }),
    );
    let id = made["id"].as_str().unwrap();
    let names = "score,newsletter,birth_date,last_seen,interests,email,city,phone,nonsense";
    let held = world
        .hs(
            "GET",
            &format!("/objects/0-1/{id}?properties={names}"),
            Value::Null,
        )
        .json();
    let held = held["properties"].as_object().unwrap();
    assert_eq!(held["score"], "12.50");
    assert_eq!(held["newsletter"], "true");
    assert_eq!(held["birth_date"], "2026-01-01");
    assert_eq!(held["last_seen"], "2026-01-02T02:04:05.678Z");
    assert_eq!(held["interests"], "data;cloud");
    assert_eq!(held["email"], "ada@example.test");
    assert_eq!(held["city"], " Oslo ");
    assert_eq!(held["phone"], Value::Null);
    assert!(!held.contains_key("nonsense") && !held.contains_key("lastname"));
    let path = format!("/objects/contacts/{id}?propertiesWithHistory=city");
    world.hs("PATCH", &path, json!({"properties": {"city": ""}}));
    let held = world.hs("GET", &path, Value::Null).json();
    let history = &held["propertiesWithHistory"]["city"];
    assert_eq!(
        (&history[0]["value"], &history[1]["value"]),
        (&json!(""), &json!(" Oslo "))
    );
    assert_eq!(history[0]["sourceType"], "INTEGRATION");
}

#[test]
fn errors_embed_what_is_wrong_with_each_property() {
    let world = World::new();
    let body = json!({"properties": {"nope": "1", "interests": "data;zoos", "score": "many"}});
    let error = world.hs("POST", "/objects/contacts", body);
    assert_eq!(error.status, 400);
    let error = error.json();
    assert_eq!(error["category"], "VALIDATION_ERROR");
    let codes: BTreeSet<_> = error["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["code"].as_str().unwrap())
        .collect();
    assert_eq!(
        codes,
        BTreeSet::from(["INVALID_INTEGER", "INVALID_OPTION", "PROPERTY_DOESNT_EXIST"])
    );
    let message = error["message"].as_str().unwrap();
    let embedded = message
        .strip_prefix("Property values were not valid: ")
        .unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(embedded)
            .unwrap()
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn taken_values_conflict_as_the_vendor_has_it() {
    let world = World::new();
    let first = create(&world, json!({"email": "a@x.test", "external_key": "K"}));
    let again = |properties: Value| {
        world.hs(
            "POST",
            "/objects/contacts",
            json!({"properties": properties}),
        )
    };
    let email = again(json!({"email": "A@x.test"}));
    assert_eq!(email.status, 409);
    assert!(
        email.json()["message"]
            .as_str()
            .unwrap()
            .ends_with(first["id"].as_str().unwrap())
    );
    let key = again(json!({"external_key": "K"}));
    assert_eq!(
        (key.status, key.json()["errors"][0]["code"].as_str()),
        (400, Some("CONFLICTING_UNIQUE_VALUE"))
    );
    // Archiving frees the values.
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        world
            .hs("DELETE", &format!("/objects/contacts/{id}"), Value::Null)
            .status,
        204
    );
    assert_eq!(
        world
            .hs("GET", &format!("/objects/contacts/{id}"), Value::Null)
            .status,
        404
    );
    assert_eq!(
        world
            .hs(
                "GET",
                &format!("/objects/contacts/{id}?archived=true"),
                Value::Null
            )
            .status,
        200
    );
    assert_eq!(
        again(json!({"email": "a@x.test", "external_key": "K"})).status,
        201
    );
}

fn upsert(keys: &[&str], city: &str) -> Value {
    let inputs = keys.iter().map(|key| {
        json!({"id": key, "idProperty": "external_key", "properties": {"city": city}, "objectWriteTraceId": key})
    });
    json!({"inputs": inputs.collect::<Vec<_>>()})
}

#[test]
fn batches_answer_in_another_order_and_name_the_trace() {
    let world = World::new();
    let keys: Vec<String> = (0..100).map(|n| format!("K{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let answer = world.hs(
        "POST",
        "/objects/contacts/batch/upsert",
        upsert(&keys, "Oslo"),
    );
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    let traces: Vec<_> = answer["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["objectWriteTraceId"].as_str().unwrap())
        .collect();
    assert_ne!(traces, keys);
    assert_eq!(
        traces.iter().collect::<BTreeSet<_>>(),
        keys.iter().collect()
    );
    assert!(
        answer["results"]
            .as_array()
            .unwrap()
            .iter()
            .all(|r| r["new"] == true)
    );
    let too_many: Vec<&str> = keys.iter().copied().chain(["one more"]).collect();
    assert_eq!(
        world
            .hs(
                "POST",
                "/objects/contacts/batch/upsert",
                upsert(&too_many, "x")
            )
            .status,
        400
    );
    assert_eq!(
        world
            .hs(
                "POST",
                "/objects/contacts/batch/upsert",
                upsert(&["a", "a"], "x")
            )
            .status,
        400
    );
    assert_eq!(world.count("hubspot", "contacts"), 100);
}

#[test]
fn a_batch_fails_whole_or_in_part_by_what_is_wrong() {
    let world = World::new();
    let id = create(&world, json!({"external_key": "K", "city": "Oslo"}))["id"].clone();
    let update = |second: Value| {
        let inputs = json!([{"id": id, "properties": {"city": "Rome"}, "objectWriteTraceId": "one"}, second]);
        world.hs(
            "POST",
            "/objects/contacts/batch/update",
            json!({"inputs": inputs}),
        )
    };
    let city = || {
        world.admin("GET", "/objects/hubspot/contacts", Value::Null)["records"][0]["fields"]["city"]
            .clone()
    };
    let invalid = update(json!({"id": "5", "properties": {"lifecyclestage": "nonsense"}}));
    assert_eq!((invalid.status, city()), (400, json!("Oslo")));
    let lost = update(json!({"id": "5", "properties": {"city": "x"}, "objectWriteTraceId": "two"}));
    assert_eq!((lost.status, city()), (207, json!("Rome")));
    let lost = lost.json();
    assert_eq!(
        (&lost["numErrors"], &lost["errors"][0]["category"]),
        (&json!(1), &json!("OBJECT_NOT_FOUND"))
    );
    assert_eq!(
        lost["errors"][0]["context"],
        json!({"ids": ["5"], "objectWriteTraceId": ["two"]})
    );
    assert_eq!(lost["results"][0]["objectWriteTraceId"], "one");
    // A value taken by another record is only found on writing, and takes everything back.
    create(&world, json!({"external_key": "Taken"}));
    let taken =
        update(json!({"id": "K", "idProperty": "external_key", "properties": {"city": "y"}}));
    assert_eq!(taken.status, 400, "inputs must agree on idProperty");
    let other = create(&world, json!({"city": "z"}))["id"].clone();
    let taken = update(json!({"id": other, "properties": {"external_key": "Taken"}}));
    assert_eq!(taken.status, 400);
    let undone = world.admin(
        "GET",
        &format!("/objects/hubspot/contacts/{}", id.as_str().unwrap()),
        Value::Null,
    );
    assert_eq!(undone["version"], 2, "only the update that gave 207 counts");
}

#[test]
fn search_stops_at_ten_thousand() {
    let world = World::new();
    let records: Vec<Value> = (0..10_050)
        .map(|n| json!({"fields": {"score": n.to_string()}}))
        .collect();
    world.admin("POST", "/objects/hubspot/contacts", Value::from(records));
    let search = |after: u32, operator: &str| {
        world.hs("POST", "/objects/contacts/search", json!({
            "filterGroups": [{"filters": [{"propertyName": "score", "operator": operator, "value": "50", "highValue": "60"}]}],
            "sorts": ["score"], "properties": ["score"], "limit": 100, "after": after.to_string(),
        }))
    };
    let first = search(0, "GTE").json();
    assert_eq!(
        (&first["total"], &first["results"][0]["properties"]["score"]),
        (&json!(10_000), &json!("50"))
    );
    assert_eq!(first["paging"]["next"]["after"], "100");
    let last = search(9_900, "GTE");
    assert_eq!(
        (
            last.status,
            last.json()["results"].as_array().unwrap().len()
        ),
        (200, 100)
    );
    assert_eq!(search(9_901, "GTE").status, 400);
    assert_eq!(search(0, "BETWEEN").json()["total"], 11);
    assert_eq!(search(0, "RESEMBLES").status, 400);
    assert_eq!(last.header("x-hubspot-ratelimit-max"), "");
}

#[test]
fn search_lags_behind_writes_when_told_to() {
    let world = World::new();
    let body =
        || json!({"filterGroups": [], "sorts": [], "properties": [], "limit": 10, "after": "0"});
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "hubspot", "search_lag_ms": 60_000}),
    );
    create(&world, json!({"city": "Oslo"}));
    let total = || world.hs("POST", "/objects/contacts/search", body()).json()["total"].clone();
    assert_eq!(total(), 0);
    world.admin("POST", "/clock", json!({"skew_s": 120}));
    assert_eq!(total(), 1);
}

#[test]
fn budgets_are_told_and_kept() {
    let world = World::new();
    let config = json!({"vendor": "hubspot", "interval_limit": 2, "interval_ms": 3_600_000});
    world.admin("POST", "/config", config);
    let list = || world.hs("GET", "/objects/contacts", Value::Null);
    assert_eq!(list().header("x-hubspot-ratelimit-remaining"), "1");
    assert_eq!(list().header("x-hubspot-ratelimit-remaining"), "0");
    let limited = list();
    assert_eq!(
        (limited.status, limited.json()["policyName"].as_str()),
        (429, Some("TEN_SECONDLY_ROLLING"))
    );
    let config = json!({"vendor": "hubspot", "interval_limit": 100, "daily_limit": 2});
    world.admin("POST", "/config", config);
    assert_eq!(list().json()["policyName"], "DAILY");
}

#[test]
fn expired_and_unknown_tokens_differ() {
    let world = World::new();
    let list = |token: &str| {
        let bearer = format!("Bearer {token}");
        world
            .call(
                world.hubspot,
                "GET",
                "/crm/v3/objects/contacts",
                &[("Authorization", &bearer)],
                "",
            )
            .unwrap()
    };
    assert_eq!(
        list("nonsense").json()["category"],
        "INVALID_AUTHENTICATION"
    );
    world.admin(
        "POST",
        "/tokens",
        json!({"vendor": "hubspot", "expire": "hs-token"}),
    );
    assert_eq!(
        list("hs-token").json()["category"],
        "EXPIRED_AUTHENTICATION"
    );
    world.admin(
        "POST",
        "/tokens",
        json!({"vendor": "hubspot", "rotate_refresh": true}),
    );
    let refresh = || {
        let form = "grant_type=refresh_token&client_id=hs-client&client_secret=hs-secret&refresh_token=hs-refresh";
        world
            .call(world.hubspot, "POST", "/oauth/v1/token", &[], form)
            .unwrap()
    };
    let issued = refresh().json();
    assert_eq!(list(issued["access_token"].as_str().unwrap()).status, 200);
    assert_ne!(issued["refresh_token"], "hs-refresh");
    assert_eq!(refresh().json()["status"], "BAD_REFRESH_TOKEN");
}

#[test]
fn a_history_tells_what_came_between_and_who_it_was() {
    let world = World::new();
    let made = create(&world, json!({"email": "a@x.test", "city": "Rome"}));
    let id = made["id"].as_str().unwrap();
    let fault = json!({"vendor": "hubspot", "method": "PATCH", "path": "/contacts/", "edit":
        {"object": "contacts", "id": id, "fields": {"city": "Oslo"}, "when": "before"}});
    world.admin("POST", "/faults", fault);
    let path = format!("/objects/contacts/{id}");
    for _ in 0..2 {
        // The second one changes nothing and so leaves no trace.
        let reply = world.hs("PATCH", &path, json!({"properties": {"city": "Bern"}}));
        assert_eq!(reply.status, 200);
    }
    let read = |ids: Vec<String>| {
        let inputs: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        let body = json!({"inputs": inputs, "properties": [], "propertiesWithHistory": ["city"]});
        world.hs("POST", "/objects/contacts/batch/read", body)
    };
    let found = read(vec![id.to_owned()]).json();
    let history = found["results"][0]["propertiesWithHistory"]["city"]
        .as_array()
        .unwrap();
    let told: Vec<_> = history
        .iter()
        .map(|entry| ["value", "sourceType", "sourceId"].map(|key| entry[key].as_str().unwrap()))
        .collect();
    let app = told[0][2];
    assert_eq!(
        told,
        [
            ["Bern", "INTEGRATION", app],
            ["Oslo", "CRM_UI", "userId:98"],
            ["Rome", "INTEGRATION", app]
        ]
    );
    // Half as many inputs as without histories.
    let many = |count: usize| (0..count).map(|n| n.to_string()).collect();
    assert_eq!(read(many(50)).status, 207);
    let refused = read(many(51));
    assert_eq!(
        (refused.status, &refused.json()["category"]),
        (400, &json!("VALIDATION_ERROR"))
    );
    let listed = |limit| {
        world.hs(
            "GET",
            &format!("/objects/contacts?propertiesWithHistory=city&limit={limit}"),
            Value::Null,
        )
    };
    assert_eq!((listed(50).status, listed(51).status), (200, 400));
}
