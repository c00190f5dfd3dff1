//! What SOQL does beyond the fields of one object, over real sockets.

mod common;

use common::{VERSION, World};
use serde_json::{Value, json};

fn query(world: &World, soql: &str) -> common::Reply {
    let codes = [
        ("%", "%25"),
        (" ", "+"),
        ("'", "%27"),
        ("<", "%3C"),
        (">", "%3E"),
    ];
    let soql = codes
        .iter()
        .fold(soql.to_owned(), |soql, (c, code)| soql.replace(c, code));
    world.sf("GET", &format!("/query?q={soql}"), Value::Null)
}

fn rows(world: &World, soql: &str) -> Vec<Value> {
    let reply = query(world, soql);
    assert_eq!(reply.status, 200, "{soql}: {}", reply.text);
    let mut body = reply.json();
    assert_eq!(body["done"], true, "{soql}");
    let Value::Array(rows) = body["records"].take() else {
        panic!("{soql}: {}", reply.text)
    };
    assert_eq!(body["totalSize"], rows.len(), "{soql}");
    rows
}

/// Two accounts, one of them below the other, and five contacts, one without an account.
fn filled() -> World {
    let world = World::new();
    let record = |kind: &str, fields: Value| {
        let mut record = json!({"attributes": {"type": kind}});
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        record
    };
    let of = |key: &str| json!({"External_Key__c": key});
    // A collection is read before it is written, so the parent must be there already.
    let parents = json!([record(
        "Account",
        json!({"Name": "Acme", "External_Key__c": "A", "Industry": "Banking"})
    ),]);
    let accounts = json!([record(
        "Account",
        json!({"Name": "Bolt", "External_Key__c": "B", "Parent": of("A")})
    ),]);
    let people = json!([
        record(
            "Contact",
            json!({"LastName": "Ada", "Account": of("A"), "Score__c": 1.5, "Title": "Boss"})
        ),
        record(
            "Contact",
            json!({"LastName": "Bob", "Account": of("B"), "Score__c": 2, "Title": "boss"})
        ),
        record(
            "Contact",
            json!({"LastName": "Cyd", "Account": of("B"), "Score__c": 4, "Title": "Clerk"})
        ),
        record(
            "Contact",
            json!({"LastName": "Dan", "Account": of("B"), "Title": "Clerk"})
        ),
        record("Contact", json!({"LastName": "Eve"})),
    ]);
    for records in [parents, accounts, people] {
        let made = world.sf(
            "POST",
            "/composite/sobjects",
            json!({"records": records, "allOrNone": true}),
        );
        let made = made.json();
        assert!(
            made.as_array()
                .unwrap()
                .iter()
                .all(|one| one["success"] == true),
            "{made}"
        );
    }
    world
}

#[test]
fn parents_are_selected_filtered_and_sorted_by() {
    let world = filled();
    let found = rows(
        &world,
        "SELECT LastName, Account.Name, Account.Parent.Name, account.external_key__c FROM Contact ORDER BY LastName",
    );
    assert_eq!(found[0]["Account"]["Name"], "Acme");
    assert_eq!(found[0]["Account"]["Parent"], Value::Null);
    assert_eq!(found[0]["Account"]["External_Key__c"], "A");
    assert_eq!(found[0]["Account"]["attributes"]["type"], "Account");
    assert_eq!(found[1]["Account"]["Parent"]["Name"], "Acme");
    assert_eq!(found[4]["Account"], Value::Null);
    let names = |soql: &str| -> Vec<String> {
        let rows = rows(&world, soql);
        rows.iter()
            .map(|row| row["LastName"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        names(
            "SELECT LastName FROM Contact WHERE Account.Parent.Name = 'ACME' AND Score__c > 2 ORDER BY LastName"
        ),
        ["Cyd"]
    );
    assert_eq!(
        names("SELECT LastName FROM Contact WHERE Account.Name = null"),
        ["Eve"]
    );
    assert_eq!(
        names(
            "SELECT LastName FROM Contact WHERE AccountId != null ORDER BY Account.Name DESC, LastName LIMIT 2"
        ),
        ["Bob", "Cyd"]
    );
    assert_eq!(
        names(
            "SELECT LastName FROM Contact WHERE AccountId IN (SELECT Id FROM Account WHERE Industry = 'Banking')"
        ),
        ["Ada"]
    );
    assert_eq!(
        names(
            "SELECT LastName FROM Contact WHERE AccountId NOT IN (SELECT ParentId FROM Account WHERE ParentId != null) AND AccountId != null ORDER BY LastName LIMIT 1"
        ),
        ["Bob"]
    );
    for (soql, code) in [
        ("SELECT Company.Name FROM Contact", "INVALID_FIELD"),
        ("SELECT Account.Nope FROM Contact", "INVALID_FIELD"),
        ("SELECT LastName.Name FROM Contact", "INVALID_FIELD"),
        (
            "SELECT Id, (SELECT Id FROM Nope) FROM Account",
            "INVALID_TYPE",
        ),
    ] {
        let refused = query(&world, soql);
        assert_eq!(
            (refused.status, &refused.json()[0]["errorCode"]),
            (400, &json!(code)),
            "{soql}"
        );
    }
}

#[test]
fn children_are_listed_below_their_parents() {
    let world = filled();
    let found = rows(
        &world,
        "SELECT Name, (SELECT LastName, Account.Name FROM Contacts WHERE Title = 'clerk' ORDER BY LastName DESC LIMIT 1) FROM Account ORDER BY Name",
    );
    assert_eq!(found[0]["Contacts"], Value::Null);
    let below = &found[1]["Contacts"];
    assert_eq!(
        (&below["totalSize"], &below["done"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(below["records"][0]["LastName"], "Dan");
    assert_eq!(below["records"][0]["Account"]["Name"], "Bolt");
    let found = rows(
        &world,
        "SELECT Id, (SELECT Name FROM ChildAccounts) FROM Account WHERE Name = 'Acme'",
    );
    assert_eq!(found[0]["ChildAccounts"]["records"][0]["Name"], "Bolt");
    let described = world
        .sf("GET", "/sobjects/Account/describe", Value::Null)
        .json();
    let names: Vec<_> = described["childRelationships"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| child["relationshipName"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["ChildAccounts", "Contacts", "Opportunities"]);
}

#[test]
fn groups_and_aggregates() {
    let world = filled();
    let found = rows(
        &world,
        "SELECT Title, COUNT(Id) people, SUM(Score__c), AVG(Score__c) FROM Contact GROUP BY Title ORDER BY COUNT(Id) DESC, Title",
    );
    let shown: Vec<_> = found
        .iter()
        .map(|row| {
            (
                row["people"].clone(),
                row["expr0"].clone(),
                row["expr1"].clone(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (json!(2), json!(3.5), json!(1.75)),
            (json!(2), json!(4.0), json!(4.0)),
            (json!(1), Value::Null, Value::Null),
        ]
    );
    assert_eq!(found[0]["attributes"], json!({"type": "AggregateResult"}));
    let found = rows(
        &world,
        "SELECT Account.Name, MAX(LastName) last FROM Contact GROUP BY Account.Name HAVING COUNT(Id) > 1",
    );
    assert_eq!(
        (&found[0]["Name"], &found[0]["last"]),
        (&json!("Bolt"), &json!("Dan"))
    );
    assert_eq!(found.len(), 1);
    let found = rows(
        &world,
        "SELECT COUNT(Score__c), COUNT_DISTINCT(Title), MIN(Score__c) FROM Contact",
    );
    assert_eq!(
        (&found[0]["expr0"], &found[0]["expr1"], &found[0]["expr2"]),
        (&json!(3), &json!(2), &json!(1.5))
    );
    // Of nothing there is still one row.
    let found = rows(
        &world,
        "SELECT COUNT(Id), SUM(Score__c) FROM Contact WHERE LastName = 'Nobody'",
    );
    assert_eq!(
        (&found[0]["expr0"], &found[0]["expr1"]),
        (&json!(0), &Value::Null)
    );
    let found = query(
        &world,
        "SELECT COUNT() FROM Contact WHERE Account.Name = 'Bolt'",
    )
    .json();
    assert_eq!(
        (&found["totalSize"], &found["records"]),
        (&json!(3), &json!([]))
    );
    for soql in [
        "SELECT LastName, COUNT(Id) FROM Contact GROUP BY Title",
        "SELECT COUNT(), Title FROM Contact",
        "SELECT SUM(LastName) FROM Contact",
        "SELECT LastName name FROM Contact",
        "SELECT MEDIAN(Score__c) FROM Contact",
        "SELECT LastName FROM Contact HAVING COUNT(Id) > 1",
    ] {
        let refused = query(&world, soql);
        assert_eq!(
            (refused.status, &refused.json()[0]["errorCode"]),
            (400, &json!("MALFORMED_QUERY")),
            "{soql}"
        );
    }
}

#[test]
fn bulk_queries_take_parents_and_refuse_aggregates() {
    let world = filled();
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "salesforce", "bulk_latency_ms": 0}),
    );
    let job = |soql: &str| {
        let body = json!({"operation": "query", "query": soql});
        world.sf("POST", "/jobs/query", body)
    };
    let made = job("SELECT LastName, Account.Parent.Name FROM Contact ORDER BY LastName LIMIT 2");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let csv = world.sf("GET", &format!("/jobs/query/{id}/results"), Value::Null);
    assert_eq!(csv.text, "LastName,Account.Parent.Name\nAda,\nBob,Acme\n");
    for soql in [
        "SELECT COUNT(Id) FROM Contact",
        "SELECT Id, (SELECT Id FROM Contacts) FROM Account",
    ] {
        assert_eq!(job(soql).json()[0]["errorCode"], "API_ERROR", "{soql}");
    }
}

#[test]
fn a_definition_that_is_known_is_not_sent_again() {
    let world = World::new();
    let mut skew = 0;
    for path in ["/sobjects/Contact/describe", "/sobjects"] {
        let first = world.sf("GET", path, Value::Null);
        let since = first.header("last-modified").to_owned();
        let again =
            |since: &str| world.sf_with("GET", path, &[("If-Modified-Since", since)], Value::Null);
        let known = again(&since);
        assert_eq!((known.status, known.text.as_str()), (304, ""));
        assert_eq!(known.header("last-modified"), since);
        assert_eq!(again("Wed, 31 Dec 2025 23:59:59 GMT").status, 200);
        // Within one second nobody sees a difference.
        skew += 3600;
        world.admin("POST", "/clock", json!({"skew_s": skew}));
        let field = json!({"fields": [{"name": "Tier__c", "type": "string"}]});
        world.admin("POST", "/schema/salesforce/Contact", field);
        let changed = again(&since);
        assert_eq!(changed.status, 200);
        assert_ne!(changed.header("last-modified"), since);
    }
}

#[test]
fn values_are_kept_as_salesforce_keeps_them() {
    let world = World::new();
    world.admin("POST", "/schema/salesforce/Contact", json!({"fields": [
        {"name": "Exact__c", "type": "double", "precision": 18, "scale": 2, "exact": true},
        {"name": "Ref__c", "type": "double", "precision": 18, "scale": 0},
        {"name": "Mail__c", "type": "email", "lower": true},
        {"name": "Number_Key__c", "type": "double", "precision": 8, "scale": 0, "external_id": true, "unique": true},
    ]}));
    for (name, sent, kept) in [
        ("Score__c", json!(12.345), json!(12.35)),
        ("Score__c", json!(-0.005), json!(-0.01)),
        ("Score__c", json!(1.0 / 3.0), json!(0.33)),
        (
            "Score__c",
            json!("12345678901234.567"),
            json!(12345678901234.57),
        ),
        ("Exact__c", json!(12.345), json!(12.345)),
        ("Ref__c", json!(0.5), json!(1.0)),
        ("LeadSource", json!("wEb"), json!("Web")),
        ("LeadSource", json!("by hand"), json!("by hand")),
        (
            "Interests__c",
            json!("DATA;cloud;Data"),
            json!("Data;Cloud"),
        ),
        ("Email", json!(" Ada@X.Test "), json!("Ada@X.Test")),
        ("Mail__c", json!("Ada@X.Test"), json!("ada@x.test")),
        ("Title", json!(" \t "), Value::Null),
        (
            "Last_Seen__c",
            json!("2026-03-04T05:06:07.089+02:00"),
            json!("2026-03-04T03:06:07.000+0000"),
        ),
    ] {
        let made = world.sf(
            "POST",
            "/sobjects/Contact",
            json!({"LastName": "x", name: sent}),
        );
        assert_eq!(made.status, 201, "{name} {sent}: {}", made.text);
        let id = made.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(id.len(), 18);
        let held = world
            .sf(
                "GET",
                &format!("/sobjects/Contact/{}", &id[..15]),
                Value::Null,
            )
            .json();
        assert_eq!(held[name], kept, "{name} {sent}");
        assert_eq!(held["Id"], id.as_str());
    }
    for (name, sent, code) in [
        ("Score__c", json!(1e16), "NUMBER_OUTSIDE_VALID_RANGE"),
        // Rounded first.
        (
            "Score__c",
            json!("9999999999999999.995"),
            "NUMBER_OUTSIDE_VALID_RANGE",
        ),
        (
            "Interests__c",
            json!("Zoos"),
            "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
        ),
    ] {
        let made = world.sf(
            "POST",
            "/sobjects/Contact",
            json!({"LastName": "x", name: sent}),
        );
        assert_eq!(
            made.json()[0]["errorCode"],
            code,
            "{name} {sent}: {}",
            made.text
        );
    }
    // A number identifies records however it is spelled, and so does a short id.
    let key = |value: &str| {
        let path = format!("/sobjects/Contact/Number_Key__c/{value}");
        world.sf("PATCH", &path, json!({"LastName": "Key"})).status
    };
    assert_eq!([key("12"), key("12.0"), key("13")], [201, 200, 201]);
    let acme = world
        .sf("POST", "/sobjects/Account", json!({"Name": "Acme"}))
        .json();
    let acme = acme["id"].as_str().unwrap();
    let short = json!({"LastName": "x", "AccountId": acme[..15]});
    let id = world.sf("POST", "/sobjects/Contact", short).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let held = world
        .sf("GET", &format!("/sobjects/Contact/{id}"), Value::Null)
        .json();
    assert_eq!(held["AccountId"], acme);
}

#[test]
fn a_duplicate_rule_warns_or_blocks() {
    let world = World::new();
    let rule = |block: bool| {
        let rule = json!({"duplicates": {"fields": ["LastName", "Email"], "block": block}});
        world.admin("POST", "/schema/salesforce/Contact", rule);
    };
    rule(false);
    let ada = json!({"LastName": "Ada", "Email": "ada@x.test"});
    let create = |headers: &[(&str, &str)], body: &Value| {
        world.sf_with("POST", "/sobjects/Contact", headers, body.clone())
    };
    let insist = (
        "Sforce-Duplicate-Rule-Header",
        "allowSave=true; includeRecordDetails=false",
    );
    let assign = ("Sforce-Auto-Assign", "FALSE");
    let first = create(&[assign], &ada);
    assert_eq!(first.status, 201, "{}", first.text);
    let first = first.json()["id"].as_str().unwrap().to_owned();
    let same = json!({"LastName": "ADA", "Email": "Ada@x.test"});
    let refused = create(&[], &same);
    let found = &refused.json()[0];
    assert_eq!(
        (refused.status, &found["errorCode"]),
        (400, &json!("DUPLICATES_DETECTED"))
    );
    assert_eq!(found["duplicateResult"]["allowSave"], true);
    let records = &found["duplicateResult"]["matchResults"][0]["matchRecords"];
    assert_eq!(records[0]["record"]["Id"], first.as_str());
    // A record is no duplicate of itself, nor one that has nothing there.
    let path = format!("/sobjects/Contact/{first}");
    assert_eq!(world.sf("PATCH", &path, ada.clone()).status, 204);
    assert_eq!(create(&[], &json!({"LastName": "Ada"})).status, 201);
    let mut record = same.clone();
    record["attributes"] = json!({"type": "Contact"});
    let records = json!({"records": [record]});
    let refused = world
        .sf("POST", "/composite/sobjects", records.clone())
        .json();
    assert_eq!(refused[0]["errors"][0]["statusCode"], "DUPLICATES_DETECTED");
    let saved = world
        .sf_with("POST", "/composite/sobjects", &[insist], records)
        .json();
    assert_eq!(saved[0]["success"], true, "{saved}");
    assert_eq!(create(&[insist], &same).status, 201);
    rule(true);
    let refused = create(&[insist], &same).json();
    assert_eq!(refused[0]["duplicateResult"]["allowSave"], false);
    assert!(VERSION.ends_with("66.0"));
}
