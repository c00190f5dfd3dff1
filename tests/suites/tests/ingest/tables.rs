//! Rows are written as the application would write them, whatever its tables are like.

use crm_suites::{Database, Live, Vendor};

use crate::CLUSTER;

/// A database with a connection to the stub and this table `t`, mapped as a contact, which these
/// fields of the CRM go into.
pub async fn taking(table: &str, fields: &[(&str, &str)]) -> Live {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute(&format!("SELECT crm.unmap_object({})", live.map))
        .await;
    live.db.execute(table).await;
    let map = "SELECT crm.map_object('stub', 't', 'contact', external_id_field => 'external_key', on_insert => 'create',
                                     on_crm_insert => 'insert', on_crm_delete => 'delete')";
    let map: i32 = live.db.one(map, &[]).await;
    for (column, field) in fields {
        let sql = "SELECT crm.map_field($1, $2::text::name, $3)";
        live.db.rows(sql, &[&map, column, field]).await;
    }
    live
}

/// Somebody edits every record in the CRM.
pub async fn edited(db: &Database, fields: &str) {
    let sql = format!("UPDATE crm_stub.records SET fields = fields || '{fields}'");
    db.execute(&sql).await;
}

pub async fn made(db: &Database, records: &[&str]) {
    for fields in records {
        let sql = format!(
            "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'contact', '{fields}')"
        );
        db.execute(&sql).await;
    }
}

async fn nothing_is_open(live: &Live) {
    let open = "SELECT coalesce((SELECT string_agg(record_key || ': ' || error, '; ') FROM crm.dead_letters), '')
                       || coalesce((SELECT string_agg(c::text, '; ') FROM crm.conflicts c), '')";
    assert_eq!(live.db.text(open).await, "");
}

#[tokio::test]
async fn columns_that_are_not_mapped_may_be_of_types_that_are_never_empty() {
    let live = taking(
        "CREATE SCHEMA kinds;
         CREATE DOMAIN kinds.code AS text NOT NULL;
         CREATE DOMAIN kinds.\"Short\" AS varchar(3) NOT NULL CHECK (VALUE <> '');
         CREATE TYPE kinds.\"mood \" AS ENUM ('sad', 'glad');
         CREATE TYPE kinds.pair AS (a int, b kinds.code);
         CREATE TABLE t (id int PRIMARY KEY, name text, c kinds.code DEFAULT 'x', short kinds.\"Short\" DEFAULT 'abc',
                         mood kinds.\"mood \", tags kinds.\"mood \"[], pair kinds.pair, twice int GENERATED ALWAYS AS (id * 2) STORED)",
        &[("name", "last_name"), ("short", "x_short"), ("mood", "x_mood"), ("tags", "x_tags"), ("pair", "x_pair")],
    )
    .await;
    live.db.execute("INSERT INTO t VALUES (1, 'Ada')").await;
    live.db.drain().await;
    edited(
        &live.db,
        r#"{"last_name": "Ada, edited", "x_short": "new", "x_mood": "glad", "x_tags": ["sad", "glad"], "x_pair": {"a": 1, "b": "y"}}"#,
    )
    .await;
    made(
        &live.db,
        &[r#"{"last_name": "Bob", "external_key": "2", "x_short": "bob", "x_mood": "sad", "x_pair": {"a": 2, "b": "z"}}"#],
    )
    .await;
    live.ingest().await;
    nothing_is_open(&live).await;
    let rows = "SELECT t::text FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        [
            r#"(1,"Ada, edited",x,new,glad,"{glad,sad}","(1,y)",2)"#,
            r#"(2,Bob,x,bob,sad,,"(2,z)",4)"#
        ]
    );
    // What the type refuses is refused as ever.
    edited(&live.db, r#"{"x_short": "much too long"}"#).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 2);
    edited(&live.db, r#"{"x_short": "ok"}"#).await;
    live.ingest().await;
    let write = r#"SELECT outcome FROM crm.write('t', '1', '{"name": "written", "mood": "sad", "pair": {"a": 3, "b": "w"}}')"#;
    assert_eq!(live.db.text(write).await, "committed");
    let row = "SELECT concat_ws(' ', name, mood, pair) FROM t WHERE id = 1";
    assert_eq!(live.db.text(row).await, "written sad (3,w)");
}

#[tokio::test]
async fn constraints_that_are_put_off_are_checked_with_each_row() {
    let live = taking(
        "CREATE TABLE par (id int PRIMARY KEY);
         INSERT INTO par VALUES (1), (2);
         CREATE TABLE t (id int PRIMARY KEY, name text, a int REFERENCES par DEFERRABLE INITIALLY DEFERRED,
                         b int REFERENCES par DEFERRABLE INITIALLY DEFERRED)",
        &[("name", "last_name"), ("a", "x_a")],
    )
    .await;
    live.db.execute("INSERT INTO t VALUES (1, 'one', 1)").await;
    live.db.drain().await;
    edited(&live.db, r#"{"x_a": 2, "last_name": "one, edited"}"#).await;
    made(
        &live.db,
        &[
            r#"{"last_name": "two", "x_a": 1, "external_key": "2"}"#,
            r#"{"last_name": "no parent", "x_a": 7, "external_key": "3"}"#,
        ],
    )
    .await;
    live.ingest().await;
    let rows = "SELECT t::text FROM t ORDER BY id";
    let rows = live.db.all::<String>(rows, &[]).await;
    assert_eq!(rows, [r#"(1,"one, edited",2,)"#, "(2,two,1,)"]);
    let dead: Vec<String> = live.db.all("SELECT error FROM crm.dead_letters", &[]).await;
    assert!(dead.len() == 1 && dead[0].contains("t_a_fkey"), "{dead:?}");
    // A caller's own transaction checks them when its caller has it so.
    let session = live.db.session().await;
    session.execute("BEGIN").await;
    let write = r#"SELECT outcome FROM crm.write('t', '1', '{"a": 9}')"#;
    assert_eq!(session.text(write).await, "committed");
    session.execute("INSERT INTO par VALUES (9); COMMIT").await;
    assert_eq!(
        live.db.text("SELECT a::text FROM t WHERE id = 1").await,
        "9"
    );
}

#[tokio::test]
async fn rows_that_need_each_other_come_in_in_any_order() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text UNIQUE, boss int REFERENCES t)",
        &[("name", "last_name"), ("boss", "x_boss")],
    )
    .await;
    let session = live.db.session().await;
    session
        .execute("INSERT INTO t VALUES (1, 'ada', NULL), (2, 'bob', NULL)")
        .await;
    live.db.drain().await;
    // Bosses come last; one that is none of ours is among them; a name goes on to a new row, and
    // another to whom it was not.
    let edit = "UPDATE crm_stub.records SET fields = fields || CASE fields->>'external_key'
                WHEN '1' THEN '{\"last_name\": \"ada the elder\", \"x_boss\": 6}'::jsonb ELSE '{\"x_boss\": 77}' END";
    live.db.execute(edit).await;
    made(
        &live.db,
        &[
            r#"{"last_name": "ada", "external_key": "3", "x_boss": 4}"#,
            r#"{"last_name": "four", "external_key": "4", "x_boss": 5}"#,
            r#"{"last_name": "five", "external_key": "5", "x_boss": 6}"#,
            r#"{"last_name": "six", "external_key": "6"}"#,
        ],
    )
    .await;
    live.ingest().await;
    let rows = "SELECT concat_ws(' ', id, name, boss) FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        [
            "1 ada the elder 6",
            "2 bob",
            "3 ada 4",
            "4 four 5",
            "5 five 6",
            "6 six"
        ]
    );
    let dead: Vec<String> = live
        .db
        .all("SELECT record_key FROM crm.dead_letters", &[])
        .await;
    assert_eq!(dead, ["2"]);
}

#[tokio::test]
async fn what_a_trigger_keeps_from_happening_is_not_told_as_done() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text, phone text);
         CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             RETURN CASE WHEN TG_OP = 'DELETE' THEN CASE WHEN OLD.id <> 3 THEN OLD END WHEN NEW.name NOT LIKE 'no%' THEN NEW END;
         END $$;
         CREATE TRIGGER swallow BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION swallow()",
        &[("name", "last_name")],
    )
    .await;
    live.db
        .execute("INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 4) n")
        .await;
    live.db.drain().await;
    let edit = "UPDATE crm_stub.records SET fields = fields || CASE fields->>'external_key'
                WHEN '1' THEN '{\"last_name\": \"no\"}'::jsonb ELSE '{\"last_name\": \"yes\"}' END";
    live.db.execute(edit).await;
    made(
        &live.db,
        &[
            r#"{"last_name": "not this one", "external_key": "5"}"#,
            r#"{"last_name": "this one", "external_key": "6"}"#,
        ],
    )
    .await;
    live.ingest().await;
    let rows = "SELECT concat_ws(' ', id, name) FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        ["1 row 1", "2 yes", "3 yes", "4 yes", "6 this one"]
    );
    let dead =
        "SELECT vendor_code || ': ' || error FROM crm.dead_letters ORDER BY record_key = '1' DESC";
    assert_eq!(
        live.db.all::<String>(dead, &[]).await,
        [
            "refused_by_table: a trigger, a rule or a policy of the table prevented the row from being changed",
            "refused_by_table: a trigger, a rule or a policy of the table prevented the row from being inserted",
        ]
    );
    let told = "SELECT count(*) FROM crm.audit_log WHERE path = 'ingest' AND result = 'applied' AND fields::text LIKE '%no%'";
    assert_eq!(live.db.one::<i64>(told, &[]).await, 0);
    // A row that stays is none that was deleted.
    let delete =
        "UPDATE crm_stub.records SET deleted = true WHERE fields->>'external_key' IN ('3', '4')";
    live.db.execute(delete).await;
    live.ingest().await;
    assert_eq!(
        live.db
            .text("SELECT string_agg(id::text, ' ' ORDER BY id) FROM t")
            .await,
        "1 2 3 6"
    );
    let told = "SELECT string_agg(record_key || ' ' || operation, ', ' ORDER BY record_key) FROM crm.audit_log
                WHERE path = 'ingest' AND operation IN ('delete', 'unlink')";
    assert_eq!(live.db.text(told).await, "3 unlink, 4 delete");
    let said = live.db.text("SELECT last_error FROM crm.status_wide").await;
    assert!(
        said.contains("prevented the row from being deleted"),
        "{said}"
    );
}

#[tokio::test]
async fn the_audit_says_what_the_row_holds() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text, note json, score numeric(8, 2));
         CREATE FUNCTION make() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             NEW.name := upper(NEW.name);
             RETURN NEW;
         END $$;
         CREATE TRIGGER make BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION make()",
        &[],
    )
    .await;
    for (column, field) in [
        ("name", "last_name"),
        ("note", "x_note"),
        ("score", "x_score"),
    ] {
        let sql = "SELECT crm.map_field(map_id, $1::text::name, $2, direction => 'inbound') FROM crm.object_map";
        live.db.rows(sql, &[&column, &field]).await;
    }
    live.db.execute("INSERT INTO t VALUES (1, 'ada')").await;
    live.db.drain().await;
    edited(
        &live.db,
        r#"{"last_name": "edited", "x_note": {"a": 1}, "x_score": 1.5}"#,
    )
    .await;
    made(
        &live.db,
        &[r#"{"last_name": "new", "external_key": "2", "x_score": 2}"#],
    )
    .await;
    live.ingest().await;
    nothing_is_open(&live).await;
    let rows = "SELECT t::text FROM t ORDER BY id";
    assert_eq!(
        live.db.all::<String>(rows, &[]).await,
        [r#"(1,EDITED,"{""a"": 1}",1.50)"#, "(2,NEW,,2.00)"]
    );
    let told = "SELECT record_key || ' ' || (fields - 'x_note')::text FROM crm.audit_log
                WHERE path = 'ingest' AND operation IN ('update', 'insert') ORDER BY record_key";
    assert_eq!(
        live.db.all::<String>(told, &[]).await,
        [
            r#"1 {"x_score": {"new": 1.5, "old": null}, "last_name": {"crm": "edited", "new": "EDITED", "old": "ADA"}}"#,
            r#"2 {"x_score": {"new": 2}, "last_name": {"crm": "new", "new": "NEW"}}"#,
        ]
    );
}

#[tokio::test]
async fn keys_that_came_from_the_crm_are_not_drawn_again() {
    for key in [
        "bigint GENERATED ALWAYS AS IDENTITY",
        "int GENERATED BY DEFAULT AS IDENTITY (INCREMENT 7)",
        "serial",
        "bigint DEFAULT nextval('other')",
    ] {
        let table = format!(
            "CREATE SEQUENCE other CACHE 5; CREATE TABLE t (id {key} PRIMARY KEY, name text)"
        );
        let live = taking(&table, &[("name", "last_name")]).await;
        let drawn = "INSERT INTO t (name) VALUES ('drawn') RETURNING id::int8";
        made(&live.db, &[r#"{"last_name": "a", "external_key": "1"}"#]).await;
        live.ingest().await;
        nothing_is_open(&live).await;
        assert_eq!(live.db.text("SELECT id FROM t").await, "1", "{key}");
        let session = live.db.session().await;
        assert!(session.one::<i64>(drawn, &[]).await > 1, "{key}");
        // A small step, a leap, one behind, one far beyond what the column's sequence may reach,
        // and one that bears none.
        made(
            &live.db,
            &[
                r#"{"last_name": "b", "external_key": "50"}"#,
                r#"{"last_name": "c", "external_key": "1000000"}"#,
                r#"{"last_name": "d", "external_key": "3"}"#,
                r#"{"last_name": "e", "external_key": "-4"}"#,
                r#"{"last_name": "f"}"#,
            ],
        )
        .await;
        live.ingest().await;
        nothing_is_open(&live).await;
        let session = live.db.session().await;
        assert!(session.one::<i64>(drawn, &[]).await > 1_000_000, "{key}");
        let keys = "SELECT string_agg(name, '' ORDER BY name) FROM t WHERE name <> 'drawn'";
        assert_eq!(live.db.text(keys).await, "abcdef");
        live.db.drain().await;
        assert_eq!(live.db.count("crm.dead_letters").await, 0);
    }
}

/// Sequences that descend, and keys close to their ends.
#[tokio::test]
async fn one_record_does_not_use_up_the_keys() {
    for (key, near, far) in [
        ("int GENERATED BY DEFAULT AS IDENTITY", "7", "2147483647"),
        ("smallint GENERATED ALWAYS AS IDENTITY", "7", "32766"),
        ("smallserial", "7", "32767"),
        (
            "int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1 START -1)",
            "-7",
            "-2147483648",
        ),
        (
            "int GENERATED BY DEFAULT AS IDENTITY (INCREMENT -3 START -1)",
            "-5000",
            "-2147483645",
        ),
    ] {
        let table = format!("CREATE TABLE t (id {key} PRIMARY KEY, name text)");
        let live = taking(&table, &[("name", "last_name")]).await;
        let record = |key: &str| format!(r#"{{"last_name": "crm", "external_key": "{key}"}}"#);
        made(&live.db, &[&record(far), &record(near)]).await;
        live.ingest().await;
        nothing_is_open(&live).await;
        assert_eq!(live.db.count("t").await, 2, "{key}");
        for _ in 0..3 {
            let drawn = "INSERT INTO t (name) VALUES ('drawn') RETURNING abs(id::int8)";
            let drawn: i64 = live.db.one(drawn, &[]).await;
            let near: i64 = near.parse().unwrap();
            assert!(
                drawn > near.abs() && drawn < near.abs() + 20,
                "{key}: {drawn}"
            );
        }
        live.db.drain().await;
        assert_eq!(live.db.count("crm.dead_letters").await, 0);
    }
    // A sequence that comes to its end is followed to it.
    let live = taking(
        "CREATE TABLE t (id smallint GENERATED BY DEFAULT AS IDENTITY (START 32760) PRIMARY KEY, name text)",
        &[("name", "last_name")],
    )
    .await;
    made(
        &live.db,
        &[r#"{"last_name": "crm", "external_key": "32765"}"#],
    )
    .await;
    live.ingest().await;
    let drawn = "INSERT INTO t (name) VALUES ('drawn') RETURNING id::int8";
    assert_eq!(live.db.one::<i64>(drawn, &[]).await, 32766);
}

/// Whoever draws from the sequence meanwhile gets nothing twice.
#[tokio::test]
async fn a_sequence_never_runs_backwards() {
    let live = taking(
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)",
        &[("name", "last_name")],
    )
    .await;
    let session = live.db.session().await;
    session
        .execute("BEGIN; INSERT INTO t (name) VALUES ('open')")
        .await;
    made(
        &live.db,
        &[
            r#"{"last_name": "far", "external_key": "5000"}"#,
            r#"{"last_name": "near", "external_key": "20"}"#,
        ],
    )
    .await;
    // The large gap waits for whoever has drawn; the small one does not.
    live.db
        .rows("SELECT crm.ingest_now(timeout => '2s')", &[])
        .await;
    let names = "SELECT string_agg(name, ' ' ORDER BY id) FROM t";
    assert_eq!(live.db.text(names).await, "near");
    session.execute("COMMIT").await;
    live.ingest().await;
    assert_eq!(live.db.text(names).await, "open near far");
    nothing_is_open(&live).await;
    let drawn = "INSERT INTO t (name) VALUES ('drawn') RETURNING id";
    assert_eq!(live.db.one::<i64>(drawn, &[]).await, 5001);
}

#[tokio::test]
async fn what_no_crm_can_hold_in_a_row_is_that_cells_matter_alone() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text, until timestamptz, since date, score numeric, phone text)",
        &[("name", "last_name"), ("phone", "phone"), ("since", "x_since")],
    )
    .await;
    for (column, field) in [("until", "x_until"), ("score", "x_score")] {
        let sql = "SELECT crm.map_field(map_id, $1::text::name, $2, direction => 'inbound') FROM crm.object_map";
        live.db.rows(sql, &[&column, &field]).await;
    }
    live.db
        .execute("INSERT INTO t VALUES (1, 'a', 'infinity', NULL, 'NaN', '1')")
        .await;
    live.db.drain().await;
    edited(
        &live.db,
        r#"{"x_until": "2027-01-01T00:00:00Z", "x_score": 1.5, "last_name": "a, edited"}"#,
    )
    .await;
    live.ingest().await;
    nothing_is_open(&live).await;
    let row = "SELECT concat_ws(' ', name, until AT TIME ZONE 'UTC', since, score, phone) FROM t";
    assert_eq!(
        live.db.text(row).await,
        "a, edited 2027-01-01 00:00:00 1.5 1"
    );
    let told = "SELECT fields->'x_until' FROM crm.audit_log WHERE path = 'ingest' AND operation = 'update'";
    assert_eq!(
        live.db.text(told).await,
        r#"{"new": "2027-01-01T00:00:00.000Z", "old": "infinity"}"#
    );
    // An edit that the CRM cannot be sent is no reason for other fields of the record to stay out.
    live.db
        .execute("UPDATE t SET since = '0044-03-15 BC', until = '-infinity'")
        .await;
    live.db.drain_but_for_the_dead().await;
    edited(
        &live.db,
        r#"{"last_name": "b", "x_until": "2028-01-01T00:00:00Z"}"#,
    )
    .await;
    live.ingest().await;
    assert_eq!(
        live.db.text(row).await,
        "b 2028-01-01 00:00:00 0044-03-15 BC 1.5 1"
    );
    let dead = "SELECT count(*) FROM crm.dead_letters WHERE path = 'ingest'";
    assert_eq!(live.db.one::<i64>(dead, &[]).await, 0);
}
