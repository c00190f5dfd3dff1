//! Several Salesforce requests in one: Composite, graphs, batches and trees, over real sockets.

mod common;

use common::{VERSION, World};
use serde_json::{Value, json};

fn sub(reference: &str, method: &str, path: &str, body: Value) -> Value {
    let mut entry = json!({
        "referenceId": reference,
        "method": method,
        "url": format!("{VERSION}{path}"),
    });
    if !body.is_null() {
        entry["body"] = body;
    }
    entry
}

fn account(reference: &str, name: &str) -> Value {
    sub(
        reference,
        "POST",
        "/sobjects/Account",
        json!({"Name": name}),
    )
}

fn statuses(list: &Value) -> Vec<u64> {
    let list = list.as_array().unwrap_or_else(|| panic!("{list}"));
    list.iter()
        .map(|one| one["httpStatusCode"].as_u64().unwrap())
        .collect()
}

#[test]
fn requests_refer_to_earlier_answers() {
    let world = World::new();
    let composite = |list: Value, all_or_none: bool| {
        let body = json!({"allOrNone": all_or_none, "compositeRequest": list});
        world.sf("POST", "/composite", body)
    };
    let done = composite(
        json!([
            account("acme", "Acme \"Quoted\""),
            sub(
                "found",
                "GET",
                "/query?q=SELECT+Id,Name+FROM+Account+WHERE+Id='@{acme.id}'",
                Value::Null
            ),
            sub(
                "ada",
                "POST",
                "/sobjects/Contact",
                json!({
                    "LastName": "@{found.records[0].Name}", "AccountId": "@{found.records[0].Id}",
                })
            ),
            sub(
                "held",
                "GET",
                "/sobjects/Contact/@{ada.id}?fields=LastName,AccountId",
                Value::Null
            ),
        ]),
        true,
    );
    let done = done.json()["compositeResponse"].clone();
    assert_eq!(statuses(&done), [201, 200, 201, 200], "{done}");
    assert_eq!(done[3]["body"]["LastName"], "Acme \"Quoted\"");
    assert_eq!(done[3]["body"]["AccountId"], done[0]["body"]["id"]);
    assert!(
        done[0]["httpHeaders"]["Location"]
            .as_str()
            .unwrap()
            .contains("/sobjects/Account/001")
    );
    // What depends on a failure does not run; what does not, does.
    let done = composite(
        json!([
            account("bad", ""),
            sub(
                "child",
                "POST",
                "/sobjects/Contact",
                json!({"LastName": "x", "AccountId": "@{bad.id}"})
            ),
            account("good", "Bolt"),
        ]),
        false,
    );
    let done = done.json()["compositeResponse"].clone();
    assert_eq!(statuses(&done), [400, 400, 201]);
    assert_eq!(done[1]["body"][0]["errorCode"], "PROCESSING_HALTED");
    // With allOrNone nothing is left, and only the culprit has an error of its own.
    let before = world.count("salesforce", "Account");
    let done = composite(
        json!([account("a", "A"), account("b", ""), account("c", "C")]),
        true,
    );
    let done = done.json()["compositeResponse"].clone();
    let codes: Vec<_> = done
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["body"][0]["errorCode"].clone())
        .collect();
    assert_eq!(
        codes,
        [
            "PROCESSING_HALTED",
            "REQUIRED_FIELD_MISSING",
            "PROCESSING_HALTED"
        ]
    );
    assert_eq!(world.count("salesforce", "Account"), before);
}

#[test]
fn an_envelope_that_is_not_sound_runs_nothing() {
    let world = World::new();
    let mut barred = account("b", "B");
    barred["httpHeaders"] = json!({"Authorization": "x"});
    let mut lower = account("b", "B");
    lower["method"] = json!("post");
    let mut nameless = account("b", "B");
    nameless.as_object_mut().unwrap().remove("referenceId");
    let queries = (0..6).map(|n| {
        sub(
            &format!("q{n}"),
            "GET",
            "/query?q=SELECT+Id+FROM+Account",
            Value::Null,
        )
    });
    let many = (0..26).map(|n| account(&format!("a{n}"), "A"));
    for list in [
        json!([account("a", "A"), barred]),
        json!([account("a", "A"), lower]),
        json!([account("a", "A"), nameless]),
        json!([account("a", "A"), account("a", "B")]),
        json!([account("a.b", "A")]),
        json!([]),
        std::iter::once(account("a", "A")).chain(queries).collect(),
        many.collect(),
    ] {
        let refused = world.sf("POST", "/composite", json!({"compositeRequest": list}));
        assert_eq!(refused.status, 400, "{}", refused.text);
    }
    assert_eq!(world.count("salesforce", "Account"), 0);
    // Conditions hold for a request of an envelope as for one by itself.
    let made = world
        .sf("POST", "/sobjects/Account", json!({"Name": "A"}))
        .json();
    let mut update = sub(
        "u",
        "PATCH",
        &format!("/sobjects/Account/{}", made["id"].as_str().unwrap()),
        json!({"Name": "B"}),
    );
    update["httpHeaders"] = json!({"If-Match": "\"other\""});
    let done = world
        .sf("POST", "/composite", json!({"compositeRequest": [update]}))
        .json();
    assert_eq!(statuses(&done["compositeResponse"]), [412]);
}

#[test]
fn graphs_stand_and_fall_by_themselves() {
    let world = World::new();
    let graph = |id: &str, list: Value| json!({"graphId": id, "compositeRequest": list});
    let send = |graphs: Value| world.sf("POST", "/composite/graph", json!({"graphs": graphs}));
    let family = |name: &str, child: &str| {
        json!([
            account("parent", name),
            sub(
                "child",
                "POST",
                "/sobjects/Contact",
                json!({"LastName": child, "AccountId": "@{parent.id}"})
            ),
        ])
    };
    let done = send(json!([
        graph("1", family("Acme", "Ada")),
        graph("2", family("Bolt", "")),
        graph("3", family("Cog", "Cyd"))
    ]));
    assert_eq!(done.status, 200, "{}", done.text);
    let done = done.json()["graphs"].clone();
    let good: Vec<_> = done
        .as_array()
        .unwrap()
        .iter()
        .map(|graph| graph["isSuccessful"].clone())
        .collect();
    assert_eq!(good, [true, false, true]);
    let failed = &done[1]["graphResponse"]["compositeResponse"];
    assert_eq!(statuses(failed), [400, 400]);
    assert_eq!(failed[0]["body"][0]["errorCode"], "PROCESSING_HALTED");
    assert_eq!(failed[1]["body"][0]["errorCode"], "REQUIRED_FIELD_MISSING");
    assert_eq!(
        (
            world.count("salesforce", "Account"),
            world.count("salesforce", "Contact")
        ),
        (2, 2)
    );
    // After fourteen failures nothing more is tried.
    let bad = (0..14).map(|n| graph(&format!("b{n}"), json!([account("a", "")])));
    let graphs: Value = bad
        .chain([graph("last", json!([account("a", "Last")]))])
        .collect();
    let done = send(graphs).json()["graphs"].clone();
    assert_eq!(done[14]["isSuccessful"], false);
    assert_eq!(world.count("salesforce", "Account"), 2);
    let chain: Value = (0..16)
        .map(|n| {
            let name = if n == 0 {
                "x".into()
            } else {
                format!("@{{r{}.id}}", n - 1)
            };
            account(&format!("r{n}"), &name)
        })
        .collect();
    let wide: Value = (0..501).map(|n| account(&format!("r{n}"), "x")).collect();
    let query = json!([sub(
        "q",
        "GET",
        "/query?q=SELECT+Id+FROM+Account",
        Value::Null
    )]);
    let twins = json!([graph("1", family("A", "B")), graph("1", family("A", "B"))]);
    let many: Value = (0..76)
        .map(|n| graph(&format!("g{n}"), json!([account("a", "A")])))
        .collect();
    for graphs in [
        json!([graph("1", chain)]),
        json!([graph("1", wide)]),
        json!([graph("1", query)]),
        twins,
        many,
    ] {
        assert_eq!(send(graphs).status, 400);
    }
    assert_eq!(world.count("salesforce", "Account"), 2);
}

#[test]
fn batches_run_one_after_the_other() {
    let world = World::new();
    let entry = |method: &str, url: &str, body: Value| {
        let mut entry = json!({"method": method, "url": url});
        if !body.is_null() {
            entry["richInput"] = body;
        }
        entry
    };
    let list = json!([
        entry("POST", "v66.0/sobjects/Account", json!({"Name": "Acme"})),
        entry("POST", "v66.0/sobjects/Account", json!({})),
        entry(
            "GET",
            &format!("{VERSION}/query?q=SELECT+Name+FROM+Account"),
            Value::Null
        ),
    ]);
    let send = |halt: bool| {
        let body = json!({"haltOnError": halt, "batchRequests": list});
        world.sf("POST", "/composite/batch", body).json()
    };
    let codes = |done: &Value| -> Vec<u64> {
        let list = done["results"].as_array().unwrap();
        list.iter()
            .map(|one| one["statusCode"].as_u64().unwrap())
            .collect()
    };
    let done = send(false);
    assert_eq!(done["hasErrors"], true);
    assert_eq!(codes(&done), [201, 400, 200]);
    assert_eq!(done["results"][2]["result"]["totalSize"], 1);
    let done = send(true);
    assert_eq!(codes(&done), [201, 400, 412]);
    assert_eq!(
        done["results"][2]["result"][0]["errorCode"],
        "BATCH_PROCESSING_HALTED"
    );
}

#[test]
fn trees_are_created_as_a_whole() {
    let world = World::new();
    let contact = |reference: &str, name: &str| json!({"attributes": {"type": "Contact", "referenceId": reference}, "LastName": name});
    let root = |reference: &str, name: &str, people: Value| {
        json!({
            "attributes": {"type": "Account", "referenceId": reference},
            "Name": name,
            "Contacts": {"records": people},
            "ChildAccounts": {"records": [{
                "attributes": {"type": "Account", "referenceId": format!("{reference}c")}, "Name": "Child",
            }]},
        })
    };
    let send = |records: Value| {
        world.sf(
            "POST",
            "/composite/tree/Account",
            json!({"records": records}),
        )
    };
    let done = send(json!([root(
        "a",
        "Acme",
        json!([contact("p", "Ada"), contact("q", "Bob")])
    )]));
    assert_eq!(done.status, 201, "{}", done.text);
    let body = done.json();
    assert_eq!(body["hasErrors"], false);
    let references: Vec<_> = body["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["referenceId"].clone())
        .collect();
    assert_eq!(references, ["a", "ac", "p", "q"]);
    let query = "/query?q=SELECT+Id,(SELECT+LastName+FROM+Contacts+ORDER+BY+LastName),(SELECT+Id+FROM+ChildAccounts)+FROM+Account+WHERE+Name='Acme'";
    let held = world.sf("GET", query, Value::Null).json()["records"][0].clone();
    assert_eq!(held["Contacts"]["records"][1]["LastName"], "Bob");
    assert_eq!(held["ChildAccounts"]["totalSize"], 1);
    // One bad record, and there is nothing; only that one is named.
    let done = send(json!([
        root("a", "Bolt", json!([contact("p", "Ada"), contact("q", "")])),
        root("b", "Cog", json!([contact("r", "Cyd")]))
    ]));
    assert_eq!(done.status, 400, "{}", done.text);
    let body = done.json();
    assert_eq!(body["hasErrors"], true);
    assert_eq!(body["results"].as_array().unwrap().len(), 1);
    assert_eq!(body["results"][0]["referenceId"], "q");
    assert_eq!(
        body["results"][0]["errors"][0]["statusCode"],
        "REQUIRED_FIELD_MISSING"
    );
    assert_eq!(
        (
            world.count("salesforce", "Account"),
            world.count("salesforce", "Contact")
        ),
        (2, 2)
    );
    let many: Value = (0..201).map(|n| contact(&format!("p{n}"), "x")).collect();
    for records in [
        json!([root("a", "A", many)]),
        json!([root("a", "A", json!([contact("a", "x")]))]),
        json!([root("", "A", json!([contact("p", "x")]))]),
        json!([contact("p", "x")]),
    ] {
        assert_eq!(send(records).status, 400);
    }
    assert_eq!(world.count("salesforce", "Account"), 2);
}
