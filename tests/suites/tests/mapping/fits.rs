//! `crm.map_field()` and `crm.check_mapping()` hold a mapping against what the CRM says.

use std::time::{Duration, Instant};

use crm_suites::desk::map_people;
use crm_suites::{Crm, Desk, Gate, Sim, Vendor, eventually, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    what_the_suites_map_fits,
    a_mapping_that_cannot_work_is_refused,
    numbers_on_text_fields_arrive_or_are_refused,
    many_fields_are_mapped_with_few_questions,
);
crm_suites::with_more_crms!(
    what_the_suites_map_fits,
    a_mapping_that_cannot_work_is_refused,
    numbers_on_text_fields_arrive_or_are_refused,
    many_fields_are_mapped_with_few_questions,
);

/// Path of the request that asks for the fields of people.
fn path(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Stub | Vendor::Salesforce => "/describe",
        Vendor::HubSpot => "/crm/v3/properties",
        Vendor::Pipedrive => "/personFields",
        Vendor::Zoho => "/settings/fields",
        // The definitions of one table, all at once.
        Vendor::Dynamics365 => "/$batch",
    }
}

async fn what_the_suites_map_fits(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    for (column, arguments) in [
        ("title", ""),
        ("score", ""),
        ("born", ""),
        ("seen", ""),
        ("opted_out", ""),
        ("interests", ""),
        ("source", "data_type => 'choice'"),
    ] {
        desk.map_field(column, arguments).await;
    }
    let sql = "SELECT count(*) FROM crm.check_mapping($1) WHERE severity <> 'info'";
    let found: i64 = desk.db.one(sql, &[&desk.map]).await;
    let all = format!("SELECT c::text FROM crm.check_mapping({}) c", desk.map);
    assert_eq!(found, 0, "{}", desk.db.text(&all).await);
}

async fn a_mapping_that_cannot_work_is_refused(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    let map = desk.map;
    // What Pipedrive has of its own it does not list as a whole.
    if vendor != Vendor::Pipedrive {
        let sql = format!("SELECT crm.map_field({map}, 'notes', 'no_such_field')");
        let error = desk.db.error(&sql).await;
        assert_eq!(error.code().code(), "42703", "{error:?}");
        assert!(error.message().contains("no_such_field"), "{error:?}");
        assert!(error.detail().is_some_and(|d| d.contains(vendor.name())));
        assert!(error.hint().is_some());
    }
    let field = match vendor {
        Vendor::Stub => "account_id",
        _ => vendor.field("born"),
    };
    let sql = format!("SELECT crm.map_field({map}, 'opted_out', '{field}')");
    let error = desk.db.error(&sql).await;
    assert_eq!(error.code().code(), "42804", "{error:?}");
    let fixed = match vendor {
        Vendor::Stub => return,
        Vendor::Salesforce => "CreatedDate",
        Vendor::HubSpot => "createdate",
        Vendor::Pipedrive => "add_time",
        Vendor::Zoho => "Created_Time",
        Vendor::Dynamics365 => "createdon",
    };
    let sql = format!("SELECT crm.map_field({map}, 'seen', '{fixed}', direction => 'outbound')");
    let error = desk.db.error(&sql).await;
    assert_eq!(error.code().code(), "22023", "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("inbound")));
    let sql = format!("SELECT crm.map_field({map}, 'seen', '{fixed}', direction => 'inbound')");
    desk.db.execute(&sql).await;
}

/// A number or a boolean reaches a text field as its text, or the mapping says what to do.
async fn numbers_on_text_fields_arrive_or_are_refused(vendor: Vendor) {
    let desk = Desk::open_with(&CLUSTER, vendor, "on_insert => 'create'").await;
    let field = vendor.field("title");
    for (column, key, value, as_text) in [
        ("score", "p1", "1.50", "1.50"),
        ("opted_out", "p2", "true", "true"),
    ] {
        let map = |data_type: &str| {
            format!(
                "SELECT crm.map_field({}, '{column}', '{field}', direction => 'outbound'{data_type})",
                desk.map
            )
        };
        let session = desk.db.session().await;
        if matches!(vendor, Vendor::Stub | Vendor::HubSpot) {
            session.execute(&map("")).await;
        } else {
            let error = desk.db.error(&map("")).await;
            assert_eq!(error.code().code(), "42804", "{error:?}");
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains("data_type => 'text'"), "{error:?}");
            session.execute(&map(", data_type => 'text'")).await;
        }
        let insert = format!(
            "INSERT INTO people (id, last_name, {column}) VALUES ('{key}', 'One', {value})"
        );
        desk.db.execute(&insert).await;
        desk.db.drain().await;
        assert_eq!(desk.db.count("crm.dead_letters").await, 0);
        if !matches!(vendor, Vendor::Stub | Vendor::HubSpot) {
            assert_eq!(desk.field(key, "title").await, as_text);
        }
        session
            .execute(&format!("SELECT crm.unmap_field({}, '{column}')", desk.map))
            .await;
    }
}

async fn many_fields_are_mapped_with_few_questions(vendor: Vendor) {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, vendor).await;
    crm.forget(&db).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    for column in ["title", "score", "born"] {
        desk.map_field(column, "").await;
    }
    let asked = desk.crm.asked(&desk.db).await;
    let asked = asked.iter().filter(|line| line.contains(path(vendor)));
    assert_eq!(asked.count(), 1, "seven columns");
}

/// Read by one name, written by another, to a table that the mapping names.
#[tokio::test]
async fn lookups_of_dynamics_are_mapped_by_the_names_that_work() {
    let desk = Desk::open(&CLUSTER, Vendor::Dynamics365).await;
    let map = |field: &str, direction: &str| {
        format!(
            "SELECT crm.map_field({}, 'notes', '{field}', data_type => 'reference', direction => '{direction}')",
            desk.map
        )
    };
    for (field, code) in [
        ("parentcustomerid/accounts", "42703"),
        ("parentcustomerid", "22023"),
    ] {
        let error = desk.db.error(&map(field, "outbound")).await;
        assert_eq!(error.code().code(), code, "{field}: {error:?}");
    }
    // A column that is no lookup has another name in what is asked.
    let as_text = map("parentcustomerid", "inbound").replace("'reference'", "'text'");
    let error = desk.db.error(&as_text).await;
    let hint = error.hint().unwrap_or_default();
    assert!(hint.contains("data_type => 'reference'"), "{error:?}");
    for (field, direction) in [
        ("parentcustomerid", "inbound"),
        ("_parentcustomerid_value", "inbound"),
        (
            "parentcustomerid/parentcustomerid_account/accounts",
            "bidirectional",
        ),
    ] {
        desk.db.execute(&map(field, direction)).await;
        let sql = "SELECT count(*) FROM crm.check_mapping($1) WHERE severity <> 'info'";
        assert_eq!(desk.db.one::<i64>(sql, &[&desk.map]).await, 0, "{field}");
        let unmap = format!("SELECT crm.unmap_field({}, 'notes')", desk.map);
        desk.db.execute(&unmap).await;
    }
}

#[tokio::test]
async fn a_field_that_an_administrator_just_made_is_mapped_at_once() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let spec = json!({"fields": [{"name": "Fresh__c", "type": "string", "length": 10}]});
    desk.crm.sim().post("schema/salesforce/Contact", &spec);
    let sql = format!("SELECT crm.map_field({}, 'notes', 'Fresh__c')", desk.map);
    desk.db.execute(&sql).await;
    desk.crm.sim().post(
        "schema/salesforce/Contact",
        &json!({"remove": ["Fresh__c"]}),
    );
    let sql = "SELECT code FROM crm.check_mapping($1) WHERE severity = 'error'";
    let codes: Vec<String> = desk.db.all(sql, &[&desk.map]).await;
    assert_eq!(codes, ["unknown_field"]);
}

#[tokio::test]
async fn new_records_need_what_the_crm_requires() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Salesforce, "on_insert => 'create'").await;
    let codes = "SELECT code || ' ' || field FROM crm.check_mapping($1) WHERE severity = 'warning'";
    assert_eq!(
        desk.db.all::<String>(codes, &[&desk.map]).await,
        [""; 0],
        "LastName is mapped"
    );
    let sql = format!("SELECT crm.unmap_field({}, 'last_name')", desk.map);
    desk.db.execute(&sql).await;
    assert_eq!(
        desk.db.all::<String>(codes, &[&desk.map]).await,
        ["required_unmapped LastName"]
    );
}

#[tokio::test]
async fn texts_that_have_no_room_are_found() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let found = "SELECT code FROM crm.check_mapping($1) WHERE field = 'FirstName'";
    assert_eq!(
        desk.db.all::<String>(found, &[&desk.map]).await,
        ["unbounded"]
    );
    desk.db
        .execute(
            "INSERT INTO people (id, first_name, last_name) VALUES ('p1', repeat('x', 41), 'x')",
        )
        .await;
    assert_eq!(
        desk.db.all::<String>(found, &[&desk.map]).await,
        ["content_too_long"]
    );
}

#[tokio::test]
async fn what_one_side_does_not_keep_of_the_other_is_told_and_remembered() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    let spec = |scale: u32| json!({"fields": [{"name": "Odd__c", "type": "double", "precision": 18, "scale": scale}]});
    let define = |scale| {
        desk.crm
            .sim()
            .post("schema/salesforce/Contact", &spec(scale))
    };
    define(1);
    desk.db
        .execute(
            "CREATE DOMAIN odd AS numeric(12, 2);
             ALTER TABLE people ADD odd odd, ADD whole int, ADD big numeric(20, 1)",
        )
        .await;
    let told = "SELECT code FROM crm.check_mapping($1) WHERE field = 'Odd__c' ORDER BY code";
    let scale = "SELECT (described ->> 'scale')::int FROM crm.field_map WHERE crm_field = 'Odd__c'";
    for (column, direction, codes) in [
        ("odd", "outbound", &["fewer_decimals"][..]),
        ("whole", "inbound", &["more_decimals"]),
        ("big", "bidirectional", &["fewer_digits"]),
    ] {
        let map = format!(
            "SELECT crm.map_field({}, '{column}', 'Odd__c', direction => '{direction}')",
            desk.map
        );
        desk.db.execute(&map).await;
        assert_eq!(desk.db.one::<i32>(scale, &[]).await, 1);
        let found: Vec<String> = desk.db.all(told, &[&desk.map]).await;
        assert_eq!(found, codes, "{column}");
        if column != "big" {
            let unmap = format!("SELECT crm.unmap_field({}, '{column}')", desk.map);
            desk.db.execute(&unmap).await;
        }
    }
    // What the CRM's administrator changed is known once the mapping is checked.
    let remove = json!({"remove": ["Odd__c"]});
    desk.crm.sim().post("schema/salesforce/Contact", &remove);
    define(3);
    let found: Vec<String> = desk.db.all(told, &[&desk.map]).await;
    assert_eq!(found, ["fewer_digits", "more_decimals"]);
    assert_eq!(desk.db.one::<i32>(scale, &[]).await, 3);
}

/// A CRM that is down, and one that takes connections and says nothing.
#[tokio::test]
async fn a_crm_that_does_not_answer_keeps_nobody_from_mapping() {
    let db = CLUSTER.database().await;
    let sim = std::sync::Arc::new(Sim::start());
    let mut gate = Gate::before(&sim.salesforce);
    let crm = Crm::connect_through(&db, Vendor::Salesforce, &gate, sim).await;
    gate.shut();
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    let mapped = format!("crm.field_map WHERE map_id = {}", desk.map);
    assert_eq!(desk.db.count(&mapped).await, 4);
    let sql = "SELECT code FROM crm.check_mapping($1)";
    assert_eq!(
        desk.db.all::<String>(sql, &[&desk.map]).await,
        ["no_answer"]
    );
    gate.open();
    let sql = "SELECT count(*) FROM crm.check_mapping($1) WHERE severity = 'error'";
    assert_eq!(desk.db.one::<i64>(sql, &[&desk.map]).await, 0);
    // Silent: each call would wait, were what is known of the silence not kept.
    let beside = desk.crm.connect_beside(&desk.db, Vendor::HubSpot).await;
    beside.fault(json!({"path": "/crm/v3/properties", "delay_ms": 20_000, "times": 9}));
    let begun = Instant::now();
    map_people(&desk.db, Vendor::HubSpot, "people", "on_insert => 'ignore'").await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(9), "four columns took {took:?}");
}

#[tokio::test]
async fn while_the_crm_is_asked_nobody_waits_for_the_map() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.link(1).await;
    let other = desk.db.session().await;
    // New credentials ask anew.
    let sql = "SELECT crm.set_credentials('hubspot', '{\"access_token\": \"hs-token\"}')";
    desk.db.execute(sql).await;
    desk.crm
        .fault(json!({"path": "/crm/v3/properties", "delay_ms": 2500, "times": 1}));
    let sql = format!("SELECT crm.map_field({}, 'title', 'jobtitle')", desk.map);
    let mapping = other.execute(&sql);
    let work = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let begun = Instant::now();
        desk.db
            .execute("UPDATE people SET phone = 'meanwhile'")
            .await;
        assert!(desk.db.flush().await);
        begun.elapsed()
    };
    let ((), took) = tokio::join!(mapping, work);
    assert!(took < Duration::from_secs(2), "a flush took {took:?}");
    assert_eq!(desk.field("p1", "phone").await, "meanwhile");
}

/// Nobody can set a generated column, so nothing can come into it.
#[tokio::test]
async fn a_generated_column_is_mapped_outbound_or_not_at_all() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "ALTER TABLE people ADD full_name text GENERATED ALWAYS AS (first_name || ' ' || last_name) STORED,
                                ADD number int GENERATED ALWAYS AS IDENTITY, ADD later int NOT NULL DEFAULT 0",
        )
        .await;
    for column in ["full_name", "number"] {
        for direction in ["inbound", "bidirectional"] {
            let sql = format!(
                "SELECT crm.map_field({}, '{column}', 'x_title', direction => '{direction}', data_type => 'text')",
                desk.map
            );
            let error = desk.db.error(&sql).await;
            assert_eq!(error.code().code(), "22023", "{error:?}");
            assert!(
                error.message().contains("only be mapped outbound"),
                "{error:?}"
            );
        }
    }
    let map =
        "SELECT crm.map_field($1, $2::text::name, 'x_title', direction => $3, data_type => 'text')";
    desk.db
        .rows(map, &[&desk.map, &"full_name", &"outbound"])
        .await;
    desk.db
        .rows("SELECT crm.unmap_field($1, 'full_name')", &[&desk.map])
        .await;
    // One that becomes so stops its map, until it is mapped otherwise.
    desk.db.rows(map, &[&desk.map, &"later", &"inbound"]).await;
    desk.db
        .execute("ALTER TABLE people ALTER later DROP DEFAULT, ALTER later ADD GENERATED ALWAYS AS IDENTITY")
        .await;
    eventually("the map stops", async || {
        let reason = desk.db.text("SELECT reason FROM crm.status").await;
        reason
            .contains("\"later\" can only be mapped outbound")
            .then_some(())
    })
    .await;
    desk.db
        .rows(
            "SELECT crm.alter_field($1, 'later', direction => 'outbound')",
            &[&desk.map],
        )
        .await;
    assert_eq!(desk.db.text("SELECT state FROM crm.status").await, "idle");
}
