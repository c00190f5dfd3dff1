//! What Pipedrive does with searches, filters, lists and values, over real sockets.

mod common;

use common::{Reply, World};
use serde_json::{Value, json};

const KEY: &str = "a000000000000000000000000000000000000001";
const SCORE: &str = "a000000000000000000000000000000000000003";
const BUDGET: &str = "d000000000000000000000000000000000000002";

fn make(world: &World, object: &str, body: Value) -> u64 {
    let made = world.pd("POST", &format!("/v2/{object}"), body);
    made.json()["data"]["id"]
        .as_u64()
        .unwrap_or_else(|| panic!("{}", made.text))
}

fn people(world: &World) {
    let org = make(
        world,
        "organizations",
        json!({"name": "Acme", "address": {"value": "1 Main St, Oslo"}}),
    );
    make(
        world,
        "persons",
        json!({"name": "Ada Byron", "org_id": org, "emails": [{"value": "Ada@x.test"}], "phones": [{"value": "+47 1"}]}),
    );
    make(
        world,
        "persons",
        json!({"name": "Bo", "custom_fields": {KEY: "ada", SCORE: 12.5}}),
    );
    make(world, "persons", json!({"name": "Cy"}));
    let note = world.pd(
        "POST",
        "/v1/notes",
        json!({"content": "met Ada", "person_id": 3}),
    );
    assert_eq!(note.status, 201);
    make(
        world,
        "deals",
        json!({"title": "Ada's deal", "person_id": 1, "org_id": org}),
    );
}

fn ids(reply: &Reply) -> Vec<String> {
    let items = reply.json()["data"]["items"].as_array().cloned();
    let items = items.unwrap_or_else(|| panic!("{}", reply.text));
    let one = |item: &Value| {
        format!(
            "{} {}",
            item["item"]["type"].as_str().unwrap(),
            item["item"]["id"]
        )
    };
    items.iter().map(one).collect()
}

#[test]
fn searches_find_items_by_a_term() {
    let world = World::new();
    people(&world);
    let get = |path: &str| world.pd("GET", &format!("/v2/{path}"), Value::Null);
    let found = |path: &str| ids(&get(path)).join(",");
    for (path, told) in [
        // What is the term as a whole comes first.
        ("persons/search?term=ADA", "person 2,person 1,person 3"),
        ("persons/search?term=ada&exact_match=true", "person 2"),
        (
            "persons/search?term=ada%40X.test&exact_match=true&fields=email",
            "person 1",
        ),
        ("persons/search?term=ada&fields=name", "person 1"),
        (
            "persons/search?term=ada&fields=name,notes",
            "person 1,person 3",
        ),
        ("persons/search?term=12.5&fields=custom_fields", "person 2"),
        ("persons/search?term=ada&organization_id=1", "person 1"),
        ("persons/search?term=c&exact_match=true", ""),
        ("deals/search?term=ada&status=open", "deal 1"),
        ("deals/search?term=ada&status=won", ""),
        ("deals/search?term=ada&person_id=2", ""),
        (
            "organizations/search?term=oslo&fields=address",
            "organization 1",
        ),
        ("itemSearch?term=ada", "person 2,deal 1,person 1,person 3"),
        ("itemSearch?term=ada&item_types=deal,organization", "deal 1"),
        ("itemSearch?term=ada&fields=title", "deal 1"),
    ] {
        assert_eq!(found(path), told, "{path}");
    }
    let shown = get("persons/search?term=byron").json()["data"]["items"][0]["item"].clone();
    assert_eq!(shown["emails"], json!(["Ada@x.test"]));
    assert_eq!(shown["organization"], json!({"id": 1, "name": "Acme"}));
    assert!(shown.get("org_id").is_none());
    let page = get("persons/search?term=ada&limit=2").json();
    let cursor = page["additional_data"]["next_cursor"].as_str().unwrap();
    let next = get(&format!("persons/search?term=ada&limit=2&cursor={cursor}"));
    assert_eq!(ids(&next), ["person 3"]);
    assert_eq!(next.json()["additional_data"]["next_cursor"], Value::Null);
    for strange in [
        "persons/search",
        "persons/search?term=a",
        "persons/search?term=ada&fields=title",
        "persons/search?term=ada&exact_match=1",
        "persons/search?term=ada&limit=101",
        "persons/search?term=ada&status=open",
        "itemSearch?term=ada&item_types=note",
    ] {
        assert_eq!(get(strange).status, 400, "{strange}");
    }
    assert_eq!(
        get("itemSearch?term=ada&search_for_related_items=true").status,
        501
    );
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "pipedrive", "search_lag_ms": 60_000}),
    );
    assert_eq!(found("itemSearch?term=ada"), "");
}

#[test]
fn a_search_by_a_field_tells_case() {
    let world = World::new();
    for key in ["K-1", "k-1", "xK-1"] {
        make(
            &world,
            "persons",
            json!({"name": "x", "custom_fields": {KEY: key}}),
        );
    }
    let find = |rest: &str| {
        let path = format!("/v2/itemSearch/field?entity_type=person&field={KEY}&{rest}");
        let reply = world.pd("GET", &path, Value::Null);
        let data = reply.json()["data"].as_array().cloned().unwrap_or_default();
        let ids = data.iter().map(|item| item["id"].to_string());
        (reply.status, ids.collect::<Vec<_>>().join(","))
    };
    let ok = |ids: &str| (200, ids.to_owned());
    assert_eq!(find("term=K-1"), ok("1"));
    assert_eq!(find("term=K-1&match=exact"), ok("1"));
    assert_eq!(find("term=K-&match=beginning"), ok("1"));
    assert_eq!(find("term=K-&match=middle"), ok("1,3"));
    assert_eq!(find("term=-1&match=middle&limit=1&cursor=1"), ok("2"));
    assert_eq!(find("term=K&match=middle").0, 400);
    // Options cannot be searched.
    let path = "/v2/itemSearch/field?entity_type=person&field=a000000000000000000000000000000000000008&term=1";
    assert_eq!(world.pd("GET", path, Value::Null).status, 400);
}

fn field_id(world: &World, kind: &str, key: &str) -> Value {
    let fields = world
        .pd("GET", &format!("/v1/{kind}Fields?limit=500"), Value::Null)
        .json();
    let fields = fields["data"].as_array().unwrap().clone();
    let field = fields.iter().find(|field| field["key"] == key);
    field.unwrap_or_else(|| panic!("{key}"))["id"].clone()
}

#[test]
fn lists_are_narrowed_by_filters() {
    let world = World::new();
    people(&world);
    let line = |key: &str, operator: &str, value: Value| json!({"object": "person", "field_id": field_id(&world, "person", key).to_string(), "operator": operator, "value": value, "extra_value": null});
    let conditions = |all: Vec<Value>, any: Vec<Value>| json!({"glue": "and", "conditions": [{"glue": "and", "conditions": all}, {"glue": "or", "conditions": any}]});
    let add = |conditions: Value| {
        world.pd(
            "POST",
            "/v1/filters",
            json!({"name": "f", "type": "people", "conditions": conditions}),
        )
    };
    let found = |conditions: Value| {
        let made = add(conditions);
        let id = made.json()["data"]["id"]
            .as_u64()
            .unwrap_or_else(|| panic!("{}", made.text));
        let list = world
            .pd("GET", &format!("/v2/persons?filter_id={id}"), Value::Null)
            .json();
        let ids = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|person| person["id"].to_string());
        ids.collect::<Vec<_>>().join(",")
    };
    for (all, any, ids) in [
        (vec![line("name", "=", json!("ada byron"))], vec![], "1"),
        (vec![line("name", "!=", json!("Bo"))], vec![], "1,3"),
        (vec![line("name", "LIKE '$%'", json!("a"))], vec![], "1"),
        (vec![line("name", "LIKE '%$%'", json!("y"))], vec![], "1,3"),
        (
            vec![line("name", "NOT LIKE '$%'", json!("a"))],
            vec![],
            "2,3",
        ),
        (vec![line(SCORE, ">=", json!("9"))], vec![], "2"),
        (vec![line(SCORE, "IS NULL", Value::Null)], vec![], "1,3"),
        (vec![line("org_id", "=", json!("1"))], vec![], "1"),
        (vec![line("emails", "=", json!("ada@x.test"))], vec![], "1"),
        (
            vec![],
            vec![line(KEY, "=", json!("ada")), line("name", "=", json!("Cy"))],
            "2,3",
        ),
        (
            vec![line("org_id", "IS NULL", Value::Null)],
            vec![
                line("name", "=", json!("Ada Byron")),
                line("name", "=", json!("Cy")),
            ],
            "3",
        ),
        (vec![], vec![], "1,2,3"),
    ] {
        assert_eq!(
            found(conditions(all.clone(), any.clone())),
            ids,
            "{all:?} {any:?}"
        );
    }
    let name = line("name", "=", json!("x"));
    let mut odd = name.clone();
    odd["operator"] = json!("~");
    let mut foreign = name.clone();
    foreign["object"] = json!("organization");
    let mut unknown = name.clone();
    unknown["field_id"] = json!("1");
    let mut empty = name.clone();
    empty["value"] = Value::Null;
    for (bad, status) in [
        (conditions(vec![odd], vec![]), 400),
        (conditions(vec![foreign], vec![]), 501),
        (conditions(vec![unknown], vec![]), 400),
        (conditions(vec![empty], vec![]), 400),
        (conditions(vec![name.clone(); 17], vec![]), 400),
        (json!({"glue": "or", "conditions": []}), 400),
        (Value::Null, 400),
    ] {
        assert_eq!(add(bad.clone()).status, status, "{bad}");
    }
    let changed = json!({"name": "g", "conditions": conditions(vec![line("name", "=", json!("Cy"))], vec![])});
    assert_eq!(world.pd("PUT", "/v1/filters/1", changed).status, 200);
    let list = world
        .pd("GET", "/v2/persons?filter_id=1", Value::Null)
        .json();
    assert_eq!(list["data"][0]["id"], 3);
    let one = world.pd("GET", "/v1/filters/1", Value::Null).json();
    assert_eq!(
        (&one["data"]["name"], &one["data"]["type"]),
        (&json!("g"), &json!("people"))
    );
    assert!(one["data"]["conditions"]["conditions"].is_array());
    assert_eq!(
        world
            .pd("GET", "/v1/filters?type=deals", Value::Null)
            .json()["data"],
        json!([])
    );
    assert_eq!(
        world.pd("GET", "/v2/deals?filter_id=1", Value::Null).status,
        400
    );
    assert_eq!(world.pd("DELETE", "/v1/filters/1", Value::Null).status, 200);
    assert_eq!(
        world
            .pd("GET", "/v2/persons?filter_id=1", Value::Null)
            .status,
        400
    );
    assert_eq!(world.pd("GET", "/v1/filters/1", Value::Null).status, 404);
    assert_eq!(world.pd("GET", "/v2/filters", Value::Null).status, 404);
}

#[test]
fn lists_are_narrowed_by_links() {
    let world = World::new();
    people(&world);
    let count = |path: &str| {
        let reply = world.pd("GET", &format!("/v2/{path}"), Value::Null);
        (
            reply.status,
            reply.json()["data"].as_array().map_or(0, Vec::len),
        )
    };
    assert_eq!(count("persons?org_id=1"), (200, 1));
    assert_eq!(count("persons?org_id=2"), (200, 0));
    assert_eq!(count("persons?owner_id=7"), (200, 3));
    assert_eq!(count("persons?owner_id=8"), (200, 0));
    assert_eq!(
        count("deals?person_id=1&org_id=1&stage_id=1&pipeline_id=1"),
        (200, 1)
    );
    assert_eq!(count("deals?person_id=2"), (200, 0));
    assert_eq!(count("persons?org_id=x").0, 400);
    assert_eq!(count("organizations?org_id=1").0, 400);
    make(
        &world,
        "activities",
        json!({"subject": "x", "deal_id": 1, "done": true}),
    );
    assert_eq!(count("activities?deal_id=1&done=true"), (200, 1));
    assert_eq!(count("activities?done=false"), (200, 0));
    assert_eq!(count("persons/x").0, 400);
}

#[test]
fn values_are_doubles_and_labels_are_options() {
    let world = World::new();
    let call = |body: &str| {
        let headers = [
            ("x-api-token", "pd-token"),
            ("Content-Type", "application/json"),
        ];
        world
            .call(world.pipedrive, "POST", "/api/v2/deals", &headers, body)
            .unwrap()
    };
    let made = call(&format!(
        r#"{{"title": "x", "value": 1234567890123456789, "custom_fields": {{"{BUDGET}": {{"value": 0.1000000000000000055, "currency": "EUR"}}}}}}"#
    ));
    assert!(
        made.text.contains(r#""value":1.2345678901234568e+18"#),
        "{}",
        made.text
    );
    assert!(
        made.text.contains(r#""value":0.1,"#) || made.text.contains(r#""value":0.1}"#),
        "{}",
        made.text
    );
    for body in [
        r#"{"title": "x", "value": 1e400}"#.to_owned(),
        format!(
            r#"{{"title": "x", "custom_fields": {{"{BUDGET}": {{"value": 1e400, "currency": "EUR"}}}}}}"#
        ),
        format!(
            r#"{{"title": "x", "custom_fields": {{"{BUDGET}": {{"value": 1, "currency": "euro"}}}}}}"#
        ),
        r#"{"title": "x", "label_ids": [9]}"#.to_owned(),
        r#"{"title": "x", "label_ids": ["1"]}"#.to_owned(),
    ] {
        assert_eq!(call(&body).status, 400, "{body}");
    }
    let made = call(r#"{"title": "x", "label_ids": [2, 1, 2]}"#).json();
    assert_eq!(made["data"]["label_ids"], json!([1, 2]));
    let field = world
        .pd("GET", "/v2/dealFields/label_ids", Value::Null)
        .json();
    assert_eq!(
        field["data"]["options"][1],
        json!({"id": 2, "label": "Hot lead", "color": null})
    );
    assert_eq!(
        world.pd("GET", "/v2/dealFields/nope", Value::Null).status,
        404
    );
}
