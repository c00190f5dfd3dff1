//! A dead letter of what could not come in names the fields that are at fault.

use crm_suites::{Json, json};

use crate::tables::{edited, made, taking};

/// The same with the columns that refuse the values, and their types.
fn refused(mut fields: Json) -> Json {
    for (field, column, column_type) in [
        ("last_name", "name", "character varying(5)"),
        ("x_score", "score", "numeric(4,1)"),
        ("x_code", "code", "public.short"),
        ("phone", "phone", "text"),
        ("first_name", "title", "text"),
    ] {
        if let Some(refused) = fields.get_mut(field)
            && refused.get("new").is_some()
        {
            refused["column"] = column.into();
            refused["type"] = column_type.into();
        }
    }
    fields
}

#[tokio::test]
async fn the_field_that_a_row_does_not_take_is_named() {
    let live = taking(
        "CREATE DOMAIN short AS text CHECK (length(VALUE) < 5);
         CREATE TABLE t (id int PRIMARY KEY, name varchar(5), score numeric(4, 1), code short, phone text CHECK (phone <> 'none'), title text,
                         CHECK (title <> name));
         CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.title = 'forbidden' THEN RAISE EXCEPTION 'not this title'; END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION guard()",
        &[("name", "last_name"), ("score", "x_score"), ("code", "x_code"), ("phone", "phone"), ("title", "first_name")],
    )
    .await;
    live.db.execute("INSERT INTO t (id) VALUES (1)").await;
    live.db.drain().await;
    let named = async |what: &str| -> Json {
        live.ingest().await;
        let fields = "SELECT fields FROM crm.dead_letters WHERE path = 'ingest'";
        let found: Vec<Json> = live.db.all(fields, &[]).await;
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        let audit = "SELECT fields FROM crm.audit_log WHERE path = 'ingest' AND result = 'dead' ORDER BY audit_id DESC LIMIT 1";
        assert_eq!(live.db.one::<Json>(audit, &[]).await, found[0]);
        found[0].clone()
    };
    for (what, fields, expected) in [
        (
            "too long",
            r#"{"last_name": "too long", "phone": "1", "x_score": 1}"#,
            json!({"last_name": {"new": "too long"}}),
        ),
        (
            "rounded",
            r#"{"last_name": "a", "phone": "2", "x_score": 1.25}"#,
            json!({"x_score": {"new": 1.25}}),
        ),
        (
            "two at once, by a domain and a check",
            r#"{"x_code": "longer", "phone": "none", "x_score": 2}"#,
            json!({"x_code": {"new": "longer"}, "phone": {"new": "none"}}),
        ),
        (
            "a trigger",
            r#"{"x_code": "a", "phone": "3", "first_name": "forbidden"}"#,
            json!({"first_name": {"new": "forbidden"}}),
        ),
        (
            "none alone",
            r#"{"first_name": "b", "last_name": "b", "phone": null, "x_score": null, "x_code": null}"#,
            json!({"first_name": {"new": "b"}, "last_name": {"new": "b"}}),
        ),
        (
            "alone",
            r#"{"first_name": null, "last_name": "too long"}"#,
            json!({"last_name": {"new": "too long"}}),
        ),
        (
            "unreadable",
            r#"{"last_name": "c", "x_score": "many"}"#,
            json!({"x_score": {}}),
        ),
    ] {
        edited(&live.db, fields).await;
        assert_eq!(named(what).await, refused(expected), "{what}");
        // Nothing of the trials stays.
        let row = "SELECT concat(name, score, code, phone, title) FROM t";
        assert_eq!(live.db.text(row).await, "", "{what}");
    }
    edited(&live.db, r#"{"last_name": "d", "x_score": 3}"#).await;
    made(
        &live.db,
        &[r#"{"external_key": "2", "last_name": "new", "x_score": 1234567, "phone": "4"}"#],
    )
    .await;
    let expected = refused(json!({"x_score": {"new": 1234567}}));
    assert_eq!(named("a new row").await, expected);
    assert_eq!(live.db.text("SELECT name FROM t").await, "d");
}

/// Passes show what they have shown: of a part of the last minutes, or of all records.
#[tokio::test]
async fn what_is_shown_once_more_is_told_once() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text, score numeric(4, 1))",
        &[("name", "last_name"), ("score", "x_score")],
    )
    .await;
    live.db.execute("INSERT INTO t (id) VALUES (1)").await;
    live.db.drain().await;
    let dead = async |pass: &str| -> (i64, i32) {
        let _: i64 = live.db.one(pass, &[]).await;
        let told = "SELECT (SELECT count(*) FROM crm.audit_log WHERE path = 'ingest' AND result = 'dead'), attempts FROM crm.dead_letters";
        let row = &live.db.rows(told, &[]).await[0];
        (row.get(0), row.get(1))
    };
    let every = "SELECT crm.backfill(max(map_id)) FROM crm.object_map";
    edited(&live.db, r#"{"x_score": 1.25}"#).await;
    for _ in 0..3 {
        assert_eq!(dead(every).await, (1, 1));
    }
    edited(&live.db, r#"{"x_score": 1.75}"#).await;
    for _ in 0..2 {
        assert_eq!(dead(every).await, (2, 2));
    }
    // Whoever has it tried again hears of it again.
    live.db.execute("SELECT crm.replay_all()").await;
    live.ingest().await;
    assert_eq!(dead(every).await, (3, 1));
    edited(&live.db, r#"{"x_score": 1.5}"#).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}

/// A map stops where nothing that comes in can be mapped. That records which failed before fail
/// again says nothing of the others.
#[tokio::test]
async fn records_that_fail_again_do_not_stop_the_map() {
    let live = taking(
        "CREATE TABLE t (id int PRIMARY KEY, name text, score numeric(4, 1))",
        &[("name", "last_name"), ("score", "x_score")],
    )
    .await;
    live.db
        .execute("INSERT INTO t (id) SELECT generate_series(1, 9)")
        .await;
    live.db.drain().await;
    live.db
        .execute("UPDATE crm_stub.records SET fields = fields || '{\"last_name\": \"new\"}' || CASE WHEN crm_id > (SELECT min(crm_id) FROM crm_stub.records) THEN '{\"x_score\": 1.25}' ELSE '{}' END::jsonb")
        .await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 8);
    live.db.execute("SELECT crm.replay_all()").await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 8);
    let state = "SELECT state FROM crm.status WHERE relation IN ('t', 'public.t')";
    assert_eq!(live.db.one::<String>(state, &[]).await, "idle");
    edited(&live.db, r#"{"x_score": 1.5}"#).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}

/// The table refuses whatever comes in: the map stops after a trial instead of making a dead letter
/// of each record, and nothing is lost by it.
#[tokio::test]
async fn a_map_whose_every_record_is_refused_stops_after_a_trial() {
    let live = taking(
        "CREATE TABLE t (id text PRIMARY KEY, name text CONSTRAINT never CHECK (name IS NULL))",
        &[("name", "last_name")],
    )
    .await;
    live.db
        .execute(
            "INSERT INTO crm_stub.records (connection, crm_object, fields)
             SELECT 'stub', 'contact', jsonb_build_object('external_key', 'k' || n, 'last_name', 'n' || n) FROM generate_series(1, 250) n",
        )
        .await;
    live.db.execute("SELECT crm.ingest_now()").await;
    let state = "SELECT state || ': ' || reason FROM crm.status WHERE relation = 't'::regclass";
    let state: String = live.db.one(state, &[]).await;
    assert!(state.starts_with("error: every record fails: "), "{state}");
    assert!(state.contains("never"), "{state}");
    assert_eq!(live.db.count("crm.dead_letters").await, 100);
    live.db.execute("ALTER TABLE t DROP CONSTRAINT never").await;
    live.db.execute("SELECT crm.replay_all()").await;
    live.ingest().await;
    assert_eq!(live.db.count("t WHERE name IS NOT NULL").await, 250);
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
}
