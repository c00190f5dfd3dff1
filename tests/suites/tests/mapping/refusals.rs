//! What was accepted in silence once, and could only go wrong.

use crm_suites::{Cluster, Desk, Vendor};

use crate::CLUSTER;

/// What a refusal says: its SQLSTATE, a part of its message and one of its HINT.
async fn refused(desk: &Desk, statement: &str, code: &str, message: &str, hint: &str) {
    let error = desk.db.error(statement).await;
    assert_eq!(error.code().code(), code, "{statement}: {error:?}");
    assert!(error.message().contains(message), "{statement}: {error:?}");
    let said = error.hint().unwrap_or_default();
    assert!(said.contains(hint), "{statement}: {error:?}");
}

#[tokio::test]
async fn one_object_by_two_spellings() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let spelt = "SELECT crm.map_object('stub', 'people', 'Contact')";
    refused(&desk, spelt, "42710", "already", "crm.map_field()").await;
}

#[tokio::test]
async fn names_that_are_blank_or_look_like_others() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    for (object, message) in [
        ("''", "must name"),
        ("E'\\t'", "must name"),
        ("U&'\\00a0'", "must name"),
        ("'lead '", "white space"),
        ("U&'\\00a0lead'", "white space"),
        ("'le ad'", "white space"),
    ] {
        let map = format!("SELECT crm.map_object('stub', 'people', {object})");
        refused(&desk, &map, "22023", message, "Contact").await;
    }
    for (name, message) in [
        ("''", "must have a name"),
        ("'  '", "must have a name"),
        ("U&'\\3000'", "must have a name"),
        ("U&'s\\00a0'", "white space"),
        ("' s'", "white space"),
    ] {
        let create = format!("SELECT crm.create_connection({name}, 'stub')");
        refused(&desk, &create, "22023", message, "For example").await;
    }
    let session = desk.db.session().await;
    session
        .execute("SET log_min_messages = notice; SELECT crm.create_connection('sTuB', 'stub')")
        .await;
    assert!(
        CLUSTER
            .log()
            .contains(r#""sTuB" differs from "stub" by case alone"#)
    );
}

#[tokio::test]
async fn tables_that_lose_their_rows() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE UNLOGGED TABLE light (id int PRIMARY KEY, name text);
             CREATE TABLE parts (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE UNLOGGED TABLE part PARTITION OF parts DEFAULT",
        )
        .await;
    for table in ["light", "parts"] {
        let map = format!("SELECT crm.map_object('stub', '{table}', 'lead')");
        refused(&desk, &map, "42809", "unlogged", "SET LOGGED").await;
    }
    desk.db
        .execute("ALTER TABLE light SET LOGGED; SELECT crm.map_object('stub', 'light', 'lead')")
        .await;
    desk.db.execute("ALTER TABLE light SET UNLOGGED").await;
    let said = "SELECT state || ': ' || reason FROM crm.status WHERE relation = 'light'::regclass";
    let said: String = desk.db.one(said, &[]).await;
    assert!(
        said.starts_with("error: ") && said.contains("unlogged"),
        "{said}"
    );
}

#[tokio::test]
async fn tables_of_the_system() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    for table in [
        "crm.connection",
        "crm_stub.records",
        "pg_catalog.pg_class",
        "information_schema.sql_parts",
    ] {
        let map = format!("SELECT crm.map_object('stub', '{table}', 'lead', key_column => 'oid')");
        refused(&desk, &map, "42809", "belongs to the system", "of your own").await;
    }
}

#[tokio::test]
async fn a_page_for_an_address() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    for (url, address) in [
        (
            "https://acme.lightning.force.com/lightning/page/home",
            "https://acme.lightning.force.com.",
        ),
        (
            "https://acme.my.salesforce.com/?x=y",
            "https://acme.my.salesforce.com.",
        ),
    ] {
        let connect =
            format!("SELECT crm.create_connection('sf', 'salesforce', base_url => '{url}')");
        refused(&desk, &connect, "22023", "more than an address", address).await;
    }
    desk.db
        .execute("SELECT crm.create_connection('sf', 'salesforce', base_url => 'https://acme.my.salesforce.com/')")
        .await;
}

#[tokio::test]
async fn settings_that_nobody_knows() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let error = desk.db.error("SET pg_crm.batch_row = 5").await;
    assert_eq!(error.code().code(), "42602", "{error:?}");
    desk.db.execute("SET pg_crm.actor = 'dana'").await;
}

#[tokio::test]
async fn an_array_for_a_text() {
    let db = CLUSTER.database().await;
    let crm = crm_suites::Crm::connect(&db, Vendor::Stub).await;
    let desk = Desk::furnish_as(db, crm, "bidirectional", "on_insert => 'ignore'", "").await;
    desk.link(1).await;
    for value in [r#"["a"]"#, r#"{"a": 1}"#] {
        let write = format!("SELECT crm.write('people', 'p1', '{{\"phone\": {value}}}')");
        refused(
            &desk,
            &write,
            "42804",
            "does not accept a JSON array or object",
            "Pass a string",
        )
        .await;
    }
    desk.map_field("interests", "").await;
    let write = "SELECT (crm.write('people', 'p1', '{\"interests\": [\"a\", \"b\"]}')).outcome";
    assert_eq!(desk.db.one::<String>(write, &[]).await, "committed");
}

/// Citus itself is nowhere to be had here: its catalog, of which that alone is asked, is made by
/// hand.
#[tokio::test]
async fn tables_of_citus() {
    let cluster = Cluster::start();
    let desk = Desk::open(&cluster, Vendor::Stub).await;
    desk.db
        .execute(
            "SET allow_system_table_mods = on;
             CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass PRIMARY KEY, partmethod \"char\", repmodel \"char\");
             GRANT SELECT ON pg_catalog.pg_dist_partition TO PUBLIC;
             CREATE TABLE spread (id int PRIMARY KEY, name text);
             CREATE TABLE local (id int PRIMARY KEY, name text);
             INSERT INTO pg_catalog.pg_dist_partition VALUES ('spread', 'h', 's')",
        )
        .await;
    let map = "SELECT crm.map_object('stub', 'spread', 'lead')";
    refused(
        &desk,
        map,
        "0A000",
        "a table of Citus",
        "undistribute_table()",
    )
    .await;
    desk.db
        .execute("SELECT crm.map_object('stub', 'local', 'lead')")
        .await;
    // Distributed later, whatever Citus said to that.
    desk.db
        .execute(
            "INSERT INTO pg_catalog.pg_dist_partition VALUES ('local', 'n', 't');
             ALTER TABLE local ADD COLUMN more text",
        )
        .await;
    desk.db.execute("SET ROLE crm_engine").await;
    let bound = "SELECT crm_internal.bind_map(map_id) FROM crm.object_map WHERE relation = 'local'::regclass";
    let trouble: String = desk.db.one(bound, &[]).await;
    assert!(trouble.contains("a Citus table"), "{trouble}");
}

/// What pg_crm makes for a map is not handed to Citus: its switch for that is off while the
/// statements run, and as it was afterwards. Whether Citus heeds it was tried elsewhere.
#[tokio::test]
async fn the_ddl_of_a_map_stays_where_it_is_made() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE TABLE seen (tag text, propagates text);
             CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 INSERT INTO public.seen VALUES (tg_tag, current_setting('citus.enable_ddl_propagation', true));
             END $$;
             CREATE EVENT TRIGGER see ON ddl_command_end EXECUTE FUNCTION see();
             SET citus.enable_ddl_propagation = on",
        )
        .await;
    desk.map_field("title", "").await;
    desk.db
        .execute(&format!("SELECT crm.unmap_object({})", desk.map))
        .await;
    let on = "seen WHERE propagates IS DISTINCT FROM 'off'";
    assert_eq!(desk.db.count(on).await, 0);
    assert!(desk.db.count("seen").await > 0, "no DDL was seen");
    let after: String = desk.db.one("SHOW citus.enable_ddl_propagation", &[]).await;
    assert_eq!(after, "on");
}

#[tokio::test]
async fn options_of_sending_that_mean_nothing() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let map = |more: &str| format!("SELECT crm.map_field(1, 'title', 'x_title', {more})");
    for option in [
        "send_null => false",
        "create_only => true",
        "create_default => '\"a\"'",
    ] {
        let statement = map(&format!("direction => 'inbound', {option}"));
        refused(&desk, &statement, "22023", "is inbound", "outbound").await;
    }
    for (more, message) in [
        ("create_default => '\" \"'", "sent as a text"),
        (
            "data_type => 'number', transform_out => 'shout(jsonb)', create_default => '\"a\"'",
            "sent as a number",
        ),
        ("create_default => '{}'", "sent as a text"),
    ] {
        desk.db
            .execute(
                "CREATE OR REPLACE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1'",
            )
            .await;
        refused(&desk, &map(more), "22023", message, "JSON value").await;
    }
    desk.db.execute(&map("create_default => '\"a\"'")).await;
    let inbound = "SELECT crm.alter_field(1, 'title', direction => 'inbound')";
    refused(&desk, inbound, "22023", "create_default", "omit").await;
    let both =
        "SELECT crm.alter_field(1, 'title', direction => 'inbound', create_default => 'null')";
    desk.db.execute(both).await;
}
