//! Faults, log and the other knobs, over real sockets.

mod common;

use common::World;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn create(world: &World, name: &str) -> Result<u16, String> {
    let headers = [("Authorization", "Bearer sf-token")];
    let body = json!({"Name": name}).to_string();
    let path = format!("{}/sobjects/Account", common::VERSION);
    let reply = world.call(world.salesforce, "POST", &path, &headers, body);
    reply
        .map(|reply| reply.status)
        .map_err(|error| error.to_string())
}

#[test]
fn faults_match_act_and_run_out() {
    let world = World::new();
    let fault = json!({"vendor": "salesforce", "method": "post", "path": "/sobjects/", "skip": 1, "times": 2,
        "status": 503, "headers": {"Retry-After": "7"}});
    world.admin("POST", "/faults", fault);
    let statuses: Vec<_> = (0..4)
        .map(|n| create(&world, &n.to_string()).unwrap())
        .collect();
    assert_eq!(statuses, [201, 503, 503, 201]);
    assert_eq!(world.count("salesforce", "Account"), 2);
    let listed = world.admin("GET", "/faults", Value::Null);
    assert_eq!(listed["faults"][0]["remaining"], 0);
    assert_eq!(world.admin("DELETE", "/faults", Value::Null)["removed"], 1);
    // Applied all the same, and only the answer replaced.
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "salesforce", "status": 500, "applied": true, "body": "<html>"}),
    );
    assert_eq!(create(&world, "applied"), Ok(500));
    assert_eq!(world.count("salesforce", "Account"), 3);
}

#[test]
fn dropped_connections_differ_by_what_was_applied() {
    let world = World::new();
    for (drop, applied) in [("before", 0), ("after", 1), ("partial", 1)] {
        let before = world.count("salesforce", "Account");
        world.admin(
            "POST",
            "/faults",
            json!({"vendor": "salesforce", "drop": drop}),
        );
        assert!(create(&world, drop).is_err(), "{drop}");
        assert_eq!(
            world.count("salesforce", "Account"),
            before + applied,
            "{drop}"
        );
    }
    assert_eq!(create(&world, "alive"), Ok(201));
    let log = world.admin(
        "GET",
        "/requests?vendor=salesforce&method=POST",
        Value::Null,
    );
    let statuses: Vec<_> = log["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["status"].clone())
        .collect();
    assert_eq!(statuses, [Value::Null, Value::Null, json!(201), json!(201)]);
}

#[test]
fn a_delayed_answer_holds_up_nobody_else() {
    let world = World::new();
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "salesforce", "path": "/limits", "delay_ms": 1500}),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| world.sf("GET", "/limits", Value::Null));
        std::thread::sleep(Duration::from_millis(100));
        let started = Instant::now();
        assert_eq!(create(&world, "quick"), Ok(201));
        assert!(started.elapsed() < Duration::from_secs(1));
    });
}

#[test]
fn chosen_records_fail_in_every_kind_of_call() {
    let world = World::new();
    let fail = json!({"keys": ["bad"], "code": "UNABLE_TO_LOCK_ROW", "message": "busy"});
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "salesforce", "times": "unlimited", "fail_records": fail}),
    );
    let single = world.sf(
        "PATCH",
        "/sobjects/Account/External_Key__c/bad",
        json!({"Name": "x"}),
    );
    assert_eq!(
        (single.status, single.json()[0]["errorCode"].as_str()),
        (400, Some("UNABLE_TO_LOCK_ROW"))
    );
    let record =
        |key: &str| json!({"attributes": {"type": "Account"}, "Name": key, "External_Key__c": key});
    let body = json!({"records": [record("good"), record("bad")]});
    let results = world
        .sf("PATCH", "/composite/sobjects/Account/External_Key__c", body)
        .json();
    assert_eq!(results[0]["success"], true);
    assert_eq!(results[1]["errors"][0]["statusCode"], "UNABLE_TO_LOCK_ROW");
    let fail = json!({"keys": ["bad"], "code": "LOCKED", "message": "busy"});
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "hubspot", "fail_records": fail}),
    );
    let input =
        |key: &str| json!({"id": key, "idProperty": "external_key", "properties": {"city": "x"}});
    let body = || json!({"inputs": [input("good"), input("bad")]});
    let first = world.hs("POST", "/objects/companies/batch/upsert", body());
    assert_eq!(
        (first.status, first.json()["errors"][0]["category"].as_str()),
        (207, Some("LOCKED"))
    );
    assert_eq!(
        world
            .hs("POST", "/objects/companies/batch/upsert", body())
            .status,
        200
    );
}

#[test]
fn expiring_tokens_by_fault_hits_the_request_itself() {
    let world = World::new();
    world.admin(
        "POST",
        "/faults",
        json!({"vendor": "hubspot", "expire_tokens": true}),
    );
    let list = || world.hs("GET", "/objects/contacts", Value::Null).status;
    assert_eq!((list(), list()), (401, 401));
    world.admin(
        "POST",
        "/tokens",
        json!({"vendor": "hubspot", "issue": "hs-token"}),
    );
    assert_eq!(list(), 200);
}

#[test]
fn edits_are_a_users_and_all_or_nothing() {
    let world = World::new();
    let edits =
        json!([{"fields": {"Name": "a", "External_Key__c": "1"}}, {"fields": {"Name": "b"}}]);
    let ids = world.admin("POST", "/objects/salesforce/Account", edits)["ids"].clone();
    let path = format!("/objects/salesforce/Account/{}", ids[0].as_str().unwrap());
    let before = world.admin("GET", &path, Value::Null);
    assert_eq!(
        (&before["version"], &before["modified_by"]),
        (&json!(1), &json!("human"))
    );
    let edits = json!([{"id": ids[0], "fields": {"Name": "A"}}, {"id": ids[1], "fields": {"External_Key__c": "1"}}]);
    let refused = world
        .call(
            world.admin,
            "PATCH",
            "/objects/salesforce/Account",
            &[],
            edits.to_string(),
        )
        .unwrap();
    assert_eq!(refused.status, 400);
    assert_eq!(world.admin("GET", &path, Value::Null), before);
    let edit = json!({"fields": {"Name": "A"}, "by": "integration", "modified_at": "2030-01-01T00:00:00Z"});
    let after = world.admin("PATCH", &path, edit);
    assert_eq!(
        (&after["version"], &after["modified_by"]),
        (&json!(2), &json!("integration"))
    );
    assert_eq!(after["modified_at"], "2030-01-01T00:00:00.000Z");
    world.call(world.admin, "DELETE", &path, &[], "").unwrap();
    assert_eq!(world.count("salesforce", "Account"), 1);
    let back = world.admin("PATCH", &path, json!({"deleted": false}));
    assert_eq!(
        (&back["deleted"], &back["version"]),
        (&json!(false), &json!(4))
    );
}

#[test]
fn fields_can_be_added_changed_and_taken_away() {
    let world = World::new();
    let define = |body: Value| world.admin("POST", "/schema/salesforce/Contact", body);
    define(
        json!({"fields": [{"name": "Tier__c", "type": "picklist", "values": ["A"], "restricted": true}]}),
    );
    let made = |tier: Value| {
        world.sf(
            "POST",
            "/sobjects/Contact",
            json!({"LastName": "x", "Tier__c": tier}),
        )
    };
    assert_eq!(
        (made(json!("A")).status, made(json!("B")).status),
        (201, 400)
    );
    define(json!({"fields": [{"name": "Tier__c", "type": "double"}]}));
    assert_eq!(made(json!(2)).status, 201);
    define(json!({"remove": ["Tier__c"]}));
    assert_eq!(made(json!(2)).json()[0]["errorCode"], "INVALID_FIELD");
    world.admin(
        "POST",
        "/schema/salesforce/Widget__c",
        json!({"code": "a0W", "fields": [{"name": "Name", "type": "string", "length": 80}]}),
    );
    let made = world.sf("POST", "/sobjects/Widget__c", json!({"Name": "x"}));
    assert!(made.json()["id"].as_str().unwrap().starts_with("a0W"));
}

#[test]
fn mistakes_list_what_is_known() {
    let world = World::new();
    for (method, path, body, word) in [
        (
            "POST",
            "/faults",
            json!({"vendor": "salesforce", "statsu": 1}),
            "`status`",
        ),
        (
            "POST",
            "/faults",
            json!({"vendor": "salesforce"}),
            "delay_ms",
        ),
        (
            "POST",
            "/faults",
            json!({"vendor": "sap", "status": 500}),
            "hubspot",
        ),
        ("POST", "/config", json!({"latency": 1}), "`latency_ms`"),
        (
            "POST",
            "/tokens",
            json!({"vendor": "hubspot", "revok": "x"}),
            "`revoke`",
        ),
        (
            "POST",
            "/objects/hubspot/contacts",
            json!({"field": {}}),
            "`fields`",
        ),
        (
            "POST",
            "/schema/hubspot/contacts",
            json!({"fields": [{"name": "x", "type": "int"}]}),
            "enumeration",
        ),
        ("GET", "/requests?verb=GET", Value::Null, "vendor, since"),
    ] {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let reply = world.call(world.admin, method, path, &[], body).unwrap();
        assert_eq!(reply.status, 400, "{path}");
        assert!(reply.text.contains(word), "{path}: {}", reply.text);
    }
}

#[test]
fn the_log_masks_tokens_counts_and_resets() {
    let world = World::new();
    create(&world, "x").unwrap();
    let log = world.admin("GET", "/requests", Value::Null);
    assert_eq!(log["requests"][0]["headers"]["authorization"], "Bearer ***");
    assert!(!log.to_string().contains("sf-token"));
    let last = log["last"].as_u64().unwrap();
    create(&world, "y").unwrap();
    let newer = world.admin("GET", &format!("/requests?since={last}"), Value::Null);
    assert_eq!(newer["requests"].as_array().unwrap().len(), 1);
    let stats = world.admin("GET", "/requests/stats", Value::Null);
    assert_eq!(stats["salesforce"]["statuses"]["201"], 2);
    world.admin(
        "POST",
        "/tokens",
        json!({"vendor": "salesforce", "revoke": "all"}),
    );
    assert_eq!(create(&world, "z"), Ok(401));
    world.admin("POST", "/reset", Value::Null);
    assert_eq!(
        (create(&world, "z"), world.count("salesforce", "Account")),
        (Ok(201), 1)
    );
}

#[test]
fn compressed_requests_are_understood() {
    use std::io::Write;
    let world = World::new();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(json!({"Name": "zipped"}).to_string().as_bytes())
        .unwrap();
    let headers = [
        ("Authorization", "Bearer sf-token"),
        ("Content-Encoding", "gzip"),
    ];
    let path = format!("{}/sobjects/Account", common::VERSION);
    let made = world
        .call(
            world.salesforce,
            "POST",
            &path,
            &headers,
            encoder.finish().unwrap(),
        )
        .unwrap();
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(world.count("salesforce", "Account"), 1);
}

/// The name of an account, and the status of an update of it.
fn rename(world: &World, id: &str, headers: &[(&str, &str)], name: &str) -> u16 {
    let path = format!("/sobjects/Account/{id}");
    let reply = world.sf_with("PATCH", &path, headers, json!({"Name": name}));
    reply.status
}

fn account(world: &World) -> String {
    let made = world.sf(
        "POST",
        "/sobjects/Account",
        json!({"Name": "x", "Phone": "1"}),
    );
    made.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn somebody_edits_right_before_or_after_a_request() {
    let world = World::new();
    let id = account(&world);
    let path = format!("/sobjects/Account/{id}");
    let record = format!("/objects/salesforce/Account/{id}");
    let held = || world.admin("GET", &record, Value::Null);
    let intrusion = |when: &str, fields: Value| {
        json!({"vendor": "salesforce", "method": "PATCH", "path": "/sobjects/Account/", "times": 2,
            "edit": {"object": "Account", "id": id, "fields": fields, "when": when}})
    };
    // Before: the request still overwrites what it names, and knows nothing of the rest.
    world.admin(
        "POST",
        "/faults",
        intrusion("before", json!({"Name": "theirs", "Phone": "2"})),
    );
    assert_eq!(rename(&world, &id, &[], "ours"), 204);
    let fields = &held()["fields"];
    assert_eq!(
        (&fields["Name"], &fields["Phone"]),
        (&json!("ours"), &json!("2"))
    );
    // ... unless it is conditional.
    let tag = world
        .sf("GET", &path, Value::Null)
        .header("etag")
        .to_owned();
    assert_eq!(
        rename(&world, &id, &[("If-Match", &tag)], "ours again"),
        412
    );
    assert_eq!(held()["fields"]["Name"], "theirs");
    assert_eq!(held()["modified_by"], "human");
    // Used up: nobody comes between.
    assert_eq!(rename(&world, &id, &[], "ours"), 204);
    assert_eq!(held()["fields"]["Name"], "ours");
    // After: the last word is theirs, and a second request meets it.
    let fault = world.admin(
        "POST",
        "/faults",
        intrusion("after", json!({"Name": "later"})),
    );
    let tag = world
        .sf("GET", &path, Value::Null)
        .header("etag")
        .to_owned();
    assert_eq!(rename(&world, &id, &[("If-Match", &tag)], "ours"), 204);
    assert_eq!(held()["fields"]["Name"], "later");
    let log = world.admin("GET", "/requests?method=PATCH", Value::Null);
    let entries = log["requests"].as_array().unwrap();
    assert_eq!(entries.last().unwrap()["faults"], json!([fault["id"]]));
    // A deletion, and the edit of an app.
    let gone = json!({"vendor": "salesforce", "method": "PATCH", "edit":
        {"object": "Account", "id": id, "when": "before", "deleted": true, "by": "integration"}});
    world.admin("DELETE", "/faults", Value::Null);
    world.admin("POST", "/faults", gone);
    assert_eq!(rename(&world, &id, &[], "ours"), 404);
    assert_eq!(
        (&held()["deleted"], &held()["modified_by"]),
        (&json!(true), &json!("integration"))
    );
}

#[test]
fn an_edit_that_cannot_be_is_told() {
    let world = World::new();
    let id = account(&world);
    let edit = |object: &str, id: &str, fields: Value| json!({"object": object, "id": id, "fields": fields, "when": "before"});
    let fine = edit("Account", &id, json!({"Name": "y"}));
    for refused in [
        json!({"edit": fine}),
        json!({"vendor": "salesforce", "edit": edit("Nothing", &id, json!({}))}),
        json!({"vendor": "salesforce", "edit": {"object": "Account", "id": id}}),
        json!({"vendor": "salesforce", "edit": fine, "fail_records": {"code": "X"}}),
    ] {
        let body = refused.to_string();
        let reply = world
            .call(world.admin, "POST", "/faults", &[], body)
            .unwrap();
        assert!(
            [400, 404].contains(&reply.status),
            "{refused}: {}",
            reply.text
        );
    }
    for (id, fields) in [
        (id.as_str(), json!({"Nothing__c": 1})),
        ("001zzzzzzzzzzzz", json!({})),
    ] {
        let fault = json!({"vendor": "salesforce", "edit": edit("Account", id, fields)});
        world.admin("POST", "/faults", fault);
        let reply = world.sf("GET", "/limits", Value::Null);
        assert_eq!(reply.status, 500);
        assert!(
            reply.text.contains("edit of a fault failed"),
            "{}",
            reply.text
        );
    }
}
