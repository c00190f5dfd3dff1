//! HubSpot's associations, custom objects, erasure and property groups, over real sockets.

mod common;

use common::World;
use serde_json::{Value, json};

fn create(world: &World, object: &str, body: Value) -> String {
    let made = world.hs("POST", &format!("/objects/{object}"), body);
    assert_eq!(made.status, 201, "{}", made.text);
    made.json()["id"].as_str().unwrap().to_owned()
}

fn named(world: &World, object: &str, property: &str, value: &str) -> String {
    create(world, object, json!({"properties": {property: value}}))
}

fn v4(world: &World, method: &str, path: &str, body: Value) -> common::Reply {
    at(world, method, &format!("/crm/v4{path}"), body)
}

fn at(world: &World, method: &str, path: &str, body: Value) -> common::Reply {
    let headers = [
        ("Authorization", "Bearer hs-token"),
        ("Content-Type", "application/json"),
    ];
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    world
        .call(world.hubspot, method, path, &headers, body)
        .unwrap()
}

fn to(id: &str, kinds: &[u32]) -> Value {
    let kinds: Vec<_> = kinds
        .iter()
        .map(|id| json!({"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": id}))
        .collect();
    json!({"to": {"id": id}, "types": kinds})
}

fn ids(list: &Value) -> Vec<u64> {
    let list = list.as_array().unwrap();
    list.iter()
        .map(|one| one["toObjectId"].as_u64().unwrap())
        .collect()
}

#[test]
fn a_creation_keeps_its_associations() {
    let world = World::new();
    let acme = named(&world, "companies", "name", "Acme");
    let ada = create(
        &world,
        "contacts",
        json!({"properties": {"lastname": "Ada"}, "associations": [to(&acme, &[279, 1])]}),
    );
    let held = v4(
        &world,
        "GET",
        &format!("/objects/contact/{ada}/associations/0-2"),
        Value::Null,
    );
    let held = held.json();
    assert_eq!(
        held["results"][0]["toObjectId"],
        acme.parse::<u64>().unwrap()
    );
    let kinds = &held["results"][0]["associationTypes"];
    assert_eq!(
        kinds[0],
        json!({"category": "HUBSPOT_DEFINED", "typeId": 1, "label": "Primary"})
    );
    assert_eq!(
        kinds[1],
        json!({"category": "HUBSPOT_DEFINED", "typeId": 279, "label": null})
    );
    // The other direction is there too, and a record that is read shows both.
    let back = v4(
        &world,
        "GET",
        &format!("/objects/companies/{acme}/associations/contacts"),
        Value::Null,
    );
    assert_eq!(ids(&back.json()["results"]), [ada.parse::<u64>().unwrap()]);
    let path = format!("/objects/contacts/{ada}?associations=companies,deals");
    let read = world.hs("GET", &path, Value::Null).json();
    assert_eq!(
        read["associations"],
        json!({"companies": {"results": [
            {"id": acme, "type": "contact_to_company_primary"},
            {"id": acme, "type": "contact_to_company"},
        ]}})
    );
    // Batches as well.
    let batch = json!({"inputs": [
        {"properties": {"lastname": "Bob"}, "associations": [to(&acme, &[279])]},
        {"properties": {"lastname": "Cyd"}, "associations": []},
    ]});
    let made = world.hs("POST", "/objects/contacts/batch/create", batch);
    assert_eq!(made.status, 201, "{}", made.text);
    let back = v4(
        &world,
        "GET",
        &format!("/objects/0-2/{acme}/associations/0-1"),
        Value::Null,
    );
    assert_eq!(ids(&back.json()["results"]).len(), 2);
}

#[test]
fn a_creation_with_a_wrong_association_creates_nothing() {
    let world = World::new();
    let acme = named(&world, "companies", "name", "Acme");
    for (associations, status) in [
        (json!([to(&acme, &[341])]), 400),
        (json!([to(&acme, &[])]), 400),
        (json!([to("1", &[279])]), 404),
        (
            json!([{"to": {"id": acme}, "types": [{"associationCategory": "USER_DEFINED", "associationTypeId": 279}]}]),
            400,
        ),
        (json!("x"), 400),
    ] {
        let body = json!({"properties": {"lastname": "Ada"}, "associations": associations});
        let made = world.hs("POST", "/objects/contacts", body.clone());
        assert_eq!(made.status, status, "{}", made.text);
        let made = world.hs(
            "POST",
            "/objects/contacts/batch/create",
            json!({"inputs": [body]}),
        );
        assert_eq!(made.status, status, "{}", made.text);
    }
    assert_eq!(world.count("hubspot", "contacts"), 0);
}

#[test]
fn batches_associate_read_and_take_apart() {
    let world = World::new();
    let (acme, bolt) = (
        named(&world, "companies", "name", "Acme"),
        named(&world, "companies", "name", "Bolt"),
    );
    let (ada, bob) = (
        named(&world, "contacts", "lastname", "Ada"),
        named(&world, "contacts", "lastname", "Bob"),
    );
    let pair = "/associations/contacts/companies";
    let input = |from: &str, id: &str, kinds: &[u32]| {
        let mut input = to(id, kinds);
        input["from"] = json!({"id": from});
        input
    };
    let inputs = json!({"inputs": [input(&ada, &acme, &[1]), input(&bob, "1", &[279])]});
    let made = v4(&world, "POST", &format!("{pair}/batch/create"), inputs);
    assert_eq!(made.status, 207, "{}", made.text);
    let body = made.json();
    assert_eq!(body["numErrors"], 1);
    assert_eq!(
        body["errors"][0]["subCategory"],
        "crm.associations.TO_OBJECT_NOT_FOUND"
    );
    assert_eq!(body["results"][0]["labels"], json!(["Primary"]));
    assert_eq!(body["results"][0]["fromObjectTypeId"], "0-1");
    // A type that does not belong there fails all of them.
    let inputs = json!({"inputs": [input(&ada, &bolt, &[279]), input(&bob, &acme, &[280])]});
    let made = v4(&world, "POST", &format!("{pair}/batch/create"), inputs);
    assert_eq!(made.status, 400, "{}", made.text);
    // The primary company moves.
    let inputs = json!({"inputs": [input(&ada, &bolt, &[1])]});
    let made = v4(&world, "POST", &format!("{pair}/batch/create"), inputs);
    assert_eq!(made.status, 201, "{}", made.text);
    let inputs = json!({"inputs": [{"from": {"id": bob}, "to": {"id": acme}}]});
    let made = v4(
        &world,
        "POST",
        &format!("{pair}/batch/associate/default"),
        inputs,
    );
    assert_eq!(made.status, 200, "{}", made.text);
    let cyd = named(&world, "contacts", "lastname", "Cyd");
    let inputs = json!({"inputs": [{"id": ada}, {"id": bob}, {"id": cyd}]});
    let read = v4(&world, "POST", &format!("{pair}/batch/read"), inputs);
    assert_eq!(read.status, 207, "{}", read.text);
    let read = read.json();
    let of_ada = &read["results"][0];
    assert_eq!(of_ada["from"]["id"], ada.as_str());
    let primary = |entry: &Value| {
        let kinds = entry["associationTypes"].as_array().unwrap();
        kinds.iter().any(|kind| kind["typeId"] == 1)
    };
    let list: Vec<bool> = of_ada["to"]
        .as_array()
        .unwrap()
        .iter()
        .map(primary)
        .collect();
    assert_eq!(list, [false, true]);
    assert_eq!(
        read["errors"][0]["subCategory"],
        "crm.associations.NO_ASSOCIATIONS_FOUND"
    );
    assert_eq!(read["errors"][0]["context"]["fromObjectId"], json!([cyd]));
    // Without its label it is still an association; without the plain type it is none.
    let archive = |kinds: &[u32]| {
        let inputs = json!({"inputs": [input(&ada, &bolt, kinds)]});
        let done = v4(
            &world,
            "POST",
            &format!("{pair}/batch/labels/archive"),
            inputs,
        );
        assert_eq!(done.status, 204, "{}", done.text);
        let path = format!("/objects/contacts/{ada}/associations/companies");
        ids(&v4(&world, "GET", &path, Value::Null).json()["results"]).len()
    };
    assert_eq!(archive(&[1]), 2);
    assert_eq!(archive(&[279]), 1);
    let inputs = json!({"inputs": [{"from": {"id": ada}, "to": [{"id": acme}]}]});
    let done = v4(&world, "POST", &format!("{pair}/batch/archive"), inputs);
    assert_eq!(done.status, 204);
    let path = format!("/objects/contacts/{ada}/associations/companies");
    assert_eq!(
        v4(&world, "GET", &path, Value::Null).json()["results"],
        json!([])
    );
    let many: Vec<_> = (0..2001).map(|_| input(&ada, &acme, &[279])).collect();
    let made = v4(
        &world,
        "POST",
        &format!("{pair}/batch/create"),
        json!({"inputs": many}),
    );
    assert_eq!(made.status, 400);
    // The newest version knows one status.
    let path = "/crm/associations/2026-09/contacts/companies/batch/read";
    let read = at(&world, "POST", path, json!({"inputs": [{"id": cyd}]}));
    assert_eq!((read.status, &read.json()["numErrors"]), (200, &json!(1)));
    // Version 3 says it in words.
    let path = "/associations/contacts/companies/batch/create";
    let inputs = json!({"inputs": [{"from": {"id": cyd}, "to": {"id": acme}, "type": "contact_to_company"}]});
    let made = world.hs("POST", path, inputs);
    assert_eq!(made.status, 201, "{}", made.text);
    let path = format!("/objects/contacts/{cyd}/associations/companies");
    let read = world.hs("GET", &path, Value::Null).json();
    assert_eq!(
        read["results"],
        json!([{"id": acme, "type": "contact_to_company"}])
    );
}

#[test]
fn labels_are_made_used_and_deleted() {
    let world = World::new();
    let acme = named(&world, "companies", "name", "Acme");
    let ada = named(&world, "contacts", "lastname", "Ada");
    let body = json!({"label": "Billing", "name": "billing", "inverseLabel": "Billed by"});
    let made = v4(
        &world,
        "POST",
        "/associations/contacts/companies/labels",
        body,
    );
    assert_eq!(made.status, 200, "{}", made.text);
    let kind = made.json()["results"][0]["typeId"].as_u64().unwrap();
    let list = v4(&world, "GET", "/associations/0-1/0-2/labels", Value::Null).json();
    assert_eq!(list["results"].as_array().unwrap().len(), 3);
    let kinds = json!([{"associationCategory": "USER_DEFINED", "associationTypeId": kind}]);
    let path = format!("/objects/contacts/{ada}/associations/companies/{acme}");
    let made = v4(&world, "PUT", &path, kinds);
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json()["labels"], json!(["Billing"]));
    let back = format!("/objects/companies/{acme}/associations/contacts");
    let kinds =
        v4(&world, "GET", &back, Value::Null).json()["results"][0]["associationTypes"].clone();
    assert_eq!(kinds[1]["label"], "Billed by");
    let path = format!("/associations/contacts/companies/labels/{kind}");
    assert_eq!(v4(&world, "DELETE", &path, Value::Null).status, 204);
    let kinds =
        v4(&world, "GET", &back, Value::Null).json()["results"][0]["associationTypes"].clone();
    assert_eq!(kinds.as_array().unwrap().len(), 1);
    let own = "/associations/contacts/companies/labels/279";
    assert_eq!(v4(&world, "DELETE", own, Value::Null).status, 400);
}

#[test]
fn associations_follow_their_records() {
    let world = World::new();
    let acme = named(&world, "companies", "name", "Acme");
    let people: Vec<String> = ["Ada", "Bob", "Cyd"]
        .iter()
        .map(|name| {
            let body =
                json!({"properties": {"lastname": name}, "associations": [to(&acme, &[279])]});
            create(&world, "contacts", body)
        })
        .collect();
    let held = || {
        let path = format!("/objects/companies/{acme}/associations/contacts?limit=500");
        ids(&v4(&world, "GET", &path, Value::Null).json()["results"])
    };
    let number = |at: usize| people[at].parse::<u64>().unwrap();
    // Pages follow one another.
    let path = format!("/objects/companies/{acme}/associations/contacts?limit=2");
    let page = v4(&world, "GET", &path, Value::Null).json();
    assert_eq!(ids(&page["results"]), [number(0), number(1)]);
    let after = page["paging"]["next"]["after"].as_str().unwrap();
    let page = v4(&world, "GET", &format!("{path}&after={after}"), Value::Null).json();
    assert_eq!(ids(&page["results"]), [number(2)]);
    assert!(page["paging"].is_null());
    world.hs(
        "DELETE",
        &format!("/objects/contacts/{}", people[0]),
        Value::Null,
    );
    assert_eq!(held(), [number(1), number(2)]);
    let body = json!({"primaryObjectId": people[1], "objectIdToMerge": people[2]});
    assert_eq!(
        world.hs("POST", "/objects/contacts/merge", body).status,
        200
    );
    assert_eq!(held(), [number(1)]);
    let body = json!({"objectId": people[1]});
    assert_eq!(
        world
            .hs("POST", "/objects/contacts/gdpr-delete", body)
            .status,
        204
    );
    assert_eq!(held(), [0u64; 0]);
}

#[test]
fn erasure_leaves_nothing() {
    let world = World::new();
    let mail = json!({"properties": {"email": " Ada@X.Test", "external_key": "K"}});
    let ada = create(&world, "contacts", mail.clone());
    let purge = |body: Value| {
        world
            .hs("POST", "/objects/contacts/gdpr-delete", body)
            .status
    };
    assert_eq!(
        purge(json!({"objectId": "ada@x.test", "idProperty": "email"})),
        204
    );
    for archived in ["", "?archived=true"] {
        let path = format!("/objects/contacts/{ada}{archived}");
        assert_eq!(world.hs("GET", &path, Value::Null).status, 404);
    }
    let list = world.admin("GET", "/objects/hubspot/contacts?deleted=true", Value::Null);
    assert_eq!(list["total"], 0);
    // The address is free again, and nobody is found under it twice.
    assert_eq!(
        purge(json!({"objectId": "ada@x.test", "idProperty": "email"})),
        204
    );
    assert_eq!(purge(json!({"objectId": ada})), 404);
    assert_ne!(create(&world, "contacts", mail), ada);
}

#[test]
fn custom_objects_go_by_their_type_id() {
    let world = World::new();
    let fields = json!([
        {"name": "plate", "type": "string", "unique": true},
        {"name": "doors", "type": "number"},
    ]);
    let spec = json!({"label": "Car", "plural": "Cars", "code": "2-777", "fields": fields});
    world.admin("POST", "/schema/hubspot/cars", spec);
    let car = create(
        &world,
        "2-777",
        json!({"properties": {"plate": "A 1", "doors": 4}}),
    );
    for name in ["cars", "2-777", "p4101001_cars"] {
        let path = format!("/objects/{name}/A%201?idProperty=plate&properties=doors");
        let held = world.hs("GET", &path, Value::Null);
        assert_eq!(held.json()["id"], car.as_str(), "{name}: {}", held.text);
    }
    for path in ["/properties/2-777", "/objects/2-777?limit=1"] {
        assert_eq!(world.hs("GET", path, Value::Null).status, 200, "{path}");
    }
    let found = world.hs("POST", "/objects/2-777/search", json!({
        "filterGroups": [{"filters": [{"propertyName": "doors", "operator": "EQ", "value": "4"}]}],
    }));
    assert_eq!(found.json()["total"], 1, "{}", found.text);
    // A portal's own objects are associated by types of its own.
    let ada = named(&world, "contacts", "lastname", "Ada");
    let path = format!("/objects/2-777/{car}/associations/default/0-1/{ada}");
    let made = v4(&world, "PUT", &path, Value::Null);
    assert_eq!(made.status, 200, "{}", made.text);
    let spec = &made.json()["results"][0]["associationSpec"];
    assert_eq!(spec["associationCategory"], "USER_DEFINED");
    let list = world.hs("GET", "/schemas", Value::Null).json();
    assert_eq!(list["results"][0]["objectTypeId"], "2-777");
}

#[test]
fn custom_objects_are_made_by_the_api_too() {
    let world = World::new();
    let body = json!({
        "name": "boats", "labels": {"singular": "Boat", "plural": "Boats"}, "requiredProperties": ["hull"],
        "primaryDisplayProperty": "hull",
        "properties": [{"name": "hull", "label": "Hull", "type": "string", "fieldType": "text", "hasUniqueValue": true}],
    });
    let made = at(
        &world,
        "POST",
        "/crm-object-schemas/v3/schemas",
        body.clone(),
    );
    assert_eq!(made.status, 201, "{}", made.text);
    let code = made.json()["objectTypeId"].as_str().unwrap().to_owned();
    create(&world, &code, json!({"properties": {"hull": "H1"}}));
    let bad = world.hs("POST", "/objects/boats", json!({"properties": {}}));
    assert_eq!(bad.status, 400);
    let again = at(&world, "POST", "/crm-object-schemas/v3/schemas", body);
    assert_eq!(again.status, 409);
}

#[test]
fn values_are_kept_as_hubspot_keeps_them() {
    let world = World::new();
    for (name, sent, kept) in [
        ("score", json!("1e3"), json!("1000")),
        ("score", json!(" 007.50 "), json!("7.50")),
        ("score", json!(12.5), json!("12.5")),
        ("score", json!("-.5"), json!("-0.5")),
        (
            "score",
            json!("123456789012345678901234567890.10"),
            json!("123456789012345678901234567890.10"),
        ),
        ("email", json!(" Ada@X.Test "), json!("ada@x.test")),
        ("newsletter", json!(true), json!("true")),
        ("interests", json!("data;cloud;data"), json!("data;cloud")),
        (
            "last_seen",
            json!("2026-03-04T05:06:07+02:00"),
            json!("2026-03-04T03:06:07.000Z"),
        ),
        (
            "birth_date",
            json!(1_767_225_600_000u64),
            json!("2026-01-01"),
        ),
        ("lastname", json!(" Ada "), json!(" Ada ")),
        ("city", json!(""), json!(null)),
    ] {
        let made = world.hs(
            "POST",
            "/objects/contacts",
            json!({"properties": {name: sent}}),
        );
        assert_eq!(
            made.json()["properties"][name],
            kept,
            "{name} {sent}: {}",
            made.text
        );
        let id = made.json()["id"].as_str().unwrap().to_owned();
        world.hs("DELETE", &format!("/objects/contacts/{id}"), Value::Null);
    }
    for (name, sent) in [
        ("score", "1e999"),
        ("score", "1,5"),
        ("score", "NaN"),
        ("interests", "Data"),
    ] {
        let made = world.hs(
            "POST",
            "/objects/contacts",
            json!({"properties": {name: sent}}),
        );
        assert_eq!(made.status, 400, "{name} {sent}");
    }
    // What begins with a semicolon is added.
    let ada = create(
        &world,
        "contacts",
        json!({"properties": {"interests": "data"}}),
    );
    let body = json!({"properties": {"interests": ";cloud;data"}});
    let held = world
        .hs("PATCH", &format!("/objects/contacts/{ada}"), body)
        .json();
    assert_eq!(held["properties"]["interests"], "data;cloud");
}

#[test]
fn a_search_takes_eighteen_filters() {
    let world = World::new();
    named(&world, "contacts", "lastname", "Ada");
    let search = |groups: usize, filters: usize| {
        let filter = json!({"propertyName": "lastname", "operator": "HAS_PROPERTY"});
        let group = json!({"filters": vec![filter; filters]});
        let body = json!({"filterGroups": vec![group; groups]});
        world.hs("POST", "/objects/contacts/search", body)
    };
    assert_eq!(search(3, 6).json()["total"], 1);
    for (groups, filters) in [(6, 1), (1, 7), (4, 5)] {
        assert_eq!(search(groups, filters).status, 400, "{groups} x {filters}");
    }
}

#[test]
fn properties_have_groups() {
    let world = World::new();
    let tier = |group: &str| json!({"name": "tier", "label": "Tier", "type": "string", "fieldType": "text", "groupName": group});
    let made = world.hs("POST", "/properties/contacts", tier("billing"));
    assert_eq!(made.status, 400, "{}", made.text);
    let group = json!({"name": "billing", "label": "Billing"});
    assert_eq!(
        world
            .hs("POST", "/properties/contacts/groups", group.clone())
            .status,
        201
    );
    assert_eq!(
        world
            .hs("POST", "/properties/contacts/groups", group)
            .status,
        409
    );
    assert_eq!(
        world
            .hs("POST", "/properties/contacts", tier("billing"))
            .status,
        201
    );
    let held = world
        .hs("GET", "/properties/contacts/tier", Value::Null)
        .json();
    assert_eq!(held["groupName"], "billing");
    assert_eq!(
        world
            .hs("DELETE", "/properties/contacts/groups/billing", Value::Null)
            .status,
        400
    );
    let batch = json!({"inputs": [
        {"name": "a", "label": "A", "type": "string", "fieldType": "text", "groupName": "contactinformation"},
        {"name": "tier", "label": "T", "type": "string", "fieldType": "text", "groupName": "contactinformation"},
    ]});
    assert_eq!(
        world
            .hs("POST", "/properties/contacts/batch/create", batch)
            .status,
        409
    );
    assert_eq!(
        world
            .hs("GET", "/properties/contacts/a", Value::Null)
            .status,
        404
    );
    let gone = json!({"inputs": [{"name": "tier"}]});
    assert_eq!(
        world
            .hs("POST", "/properties/contacts/batch/archive", gone)
            .status,
        204
    );
    assert_eq!(
        world
            .hs("DELETE", "/properties/contacts/groups/billing", Value::Null)
            .status,
        204
    );
    let list = world
        .hs("GET", "/properties/contacts/groups", Value::Null)
        .json();
    assert_eq!(list["results"][0]["name"], "contactinformation");
}

#[test]
fn owners_and_pipelines_are_listed() {
    let world = World::new();
    let page = world.hs("GET", "/owners?limit=1", Value::Null).json();
    assert_eq!(page["results"][0]["firstName"], "Ada");
    let after = page["paging"]["next"]["after"].as_str().unwrap();
    let page = world
        .hs(
            "GET",
            &format!("/owners/?limit=1&after={after}"),
            Value::Null,
        )
        .json();
    assert_eq!(page["results"][0]["firstName"], "Grace");
    assert!(page["paging"].is_null());
    let one = world
        .hs("GET", "/owners/98?idProperty=userId", Value::Null)
        .json();
    assert_eq!(one["email"], "ada@portal.example");
    let stages = world
        .hs("GET", "/pipelines/0-3/default/stages", Value::Null)
        .json();
    assert_eq!(stages["results"].as_array().unwrap().len(), 7);
    let stage = world
        .hs(
            "GET",
            "/pipelines/deals/default/stages/closedwon",
            Value::Null,
        )
        .json();
    assert_eq!(stage["metadata"]["isClosed"], "true");
    let none = world.hs("GET", "/pipelines/contacts", Value::Null).json();
    assert_eq!(none["results"], json!([]));
}
