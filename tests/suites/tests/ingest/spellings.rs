//! Columns whose types have a spelling of their own: what a CRM user typed stays as it was typed.

use crm_suites::{Json, Live, json};

use crate::tables::{edited, made, taking};

/// A column's type, what is typed in the CRM, and what else may be typed there later.
const TYPED: &[(&str, &str, &str)] = &[
    ("interval", "1 week", "36 hours"),
    ("interval(0)", "1.5 days", "90 minutes"),
    ("int4range", "[1,5]", "(5,9]"),
    ("daterange", "[2026-01-01,2026-01-31]", "(,2026-01-31]"),
    ("int4multirange", "{[1,3],[2,5]}", "{[7,8]}"),
    ("bytea", "abc", "def"),
    ("money", "1234.5", "7"),
    ("time", "9:05 PM", "9:06"),
    ("time(0)", "09:05", "allballs"),
    ("timetz", "9:05 PM +01", "z 10:00"),
    ("inet", "10.0.0.1/32", "10.0.0.002/8"),
    ("cidr", "10.1", "192.168"),
    ("macaddr", "08002b010203", "08-00-2b-01-02-04"),
    ("point", "1, 2", "(3 , 4)"),
    ("box", "(0,0),(1,1)", "1,1,3,3"),
    ("int[]", "{1, 2}", "{ 3 }"),
    ("tsvector", "b a", "d c"),
    ("tsquery", "a&b", "c|d"),
    ("jsonpath", "$.a", "$ . b"),
    ("varbit", "B101", "B11"),
    ("bool", "yes", "off"),
    ("pg_lsn", "0/ab", "1/cd"),
    ("character(5)", "ab", "cd"),
];

fn name(place: usize) -> String {
    format!("c{place}")
}

/// What is typed into each field, by name.
fn typed(which: impl Fn(&(&str, &str, &str)) -> String) -> serde_json::Map<String, Json> {
    let fields = TYPED.iter().enumerate();
    fields
        .map(|(n, typed)| (format!("x_{}", name(n)), which(typed).into()))
        .collect()
}

/// A table with a column of each of these types, mapped as text.
async fn table_of(types: &[&str]) -> Live {
    let columns: Vec<String> = types
        .iter()
        .enumerate()
        .map(|(n, data_type)| format!("{} {data_type}", name(n)))
        .collect();
    let table = format!(
        "CREATE TABLE t (id int PRIMARY KEY, name text, {})",
        columns.join(", ")
    );
    let live = taking(&table, &[("name", "last_name")]).await;
    for n in 0..types.len() {
        let sql = "SELECT crm.map_field(map_id, $1::text::name, 'x_' || $1::text, data_type => 'text') FROM crm.object_map";
        live.db.rows(sql, &[&name(n)]).await;
    }
    live
}

/// Every row holds what its columns' types make of what was typed.
async fn assert_cast(live: &Live, which: impl Fn(&(&str, &str, &str)) -> String) {
    let casts: Vec<String> = TYPED
        .iter()
        .enumerate()
        .map(|(n, typed)| {
            let column = name(n);
            let (data_type, text) = (typed.0, which(typed));
            format!("CASE WHEN {column}::text IS DISTINCT FROM ('{text}'::{data_type})::text THEN '{data_type} ' || coalesce({column}::text, 'null') END")
        })
        .collect();
    let wrong = format!("SELECT concat_ws(', ', {}) FROM t", casts.join(", "));
    for wrong in live.db.all::<String>(&wrong, &[]).await {
        assert_eq!(wrong, "");
    }
}

async fn assert_in_crm(live: &Live, fields: &serde_json::Map<String, Json>) {
    let held = "SELECT (SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(r.fields) f WHERE f.key LIKE 'x\\_%') FROM crm_stub.records r";
    for held in live.db.all::<Json>(held, &[]).await {
        assert_eq!(held, Json::Object(fields.clone()));
    }
}

async fn write(live: &Live, changes: Json) {
    let outcome = "SELECT outcome FROM crm.write('t', '1', $1)";
    let outcome: String = live.db.one(outcome, &[&changes]).await;
    assert_eq!(outcome, "committed");
}

const WRITES: &str = "crm.audit_log WHERE path NOT IN ('ingest') AND operation = 'update'";

#[tokio::test]
async fn what_a_type_spells_its_own_way_is_no_edit() {
    let types: Vec<&str> = TYPED.iter().map(|(data_type, _, _)| *data_type).collect();
    let live = table_of(&types).await;
    live.db.execute("INSERT INTO t VALUES (1, 'Ada')").await;
    live.db.drain().await;
    let first = typed(|t| t.1.to_owned());
    edited(&live.db, &Json::Object(first.clone()).to_string()).await;
    let mut new = first.clone();
    new.insert("last_name".to_owned(), "Grace".into());
    new.insert("external_key".to_owned(), "2".into());
    made(&live.db, &[&Json::Object(new).to_string()]).await;
    live.ingest().await;
    live.quiet().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
    assert_cast(&live, |t| t.1.to_owned()).await;
    assert_in_crm(&live, &first).await;
    // Other fields change on both sides: no difference is seen in these.
    edited(&live.db, r#"{"last_name": "Byron"}"#).await;
    live.ingest().await;
    write(&live, json!({"name": "King"})).await;
    live.db.drain().await;
    live.db.assert_checked().await;
    assert_in_crm(&live, &first).await;
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    assert_eq!(
        live.db
            .count(&format!("{WRITES} AND fields::text LIKE '%x\\_%'"))
            .await,
        0
    );
    // Real edits flow as ever: of the CRM,
    let second = typed(|t| t.2.to_owned());
    edited(&live.db, &Json::Object(second.clone()).to_string()).await;
    live.ingest().await;
    live.quiet().await;
    assert_cast(&live, |t| t.2.to_owned()).await;
    assert_in_crm(&live, &second).await;
    live.db.assert_checked().await;
    // and of the table.
    live.db
        .execute("UPDATE t SET c0 = '10 days', c2 = '[7,9)' WHERE id = 1")
        .await;
    live.quiet().await;
    write(&live, json!({"c6": "8"})).await;
    live.db.drain().await;
    let held = "SELECT (fields ->> 'x_c0') || ' ' || (fields ->> 'x_c2') || ' ' || (fields ->> 'x_c6') || ' ' || (fields ->> 'x_c7')
                FROM crm_stub.records WHERE fields ->> 'external_key' = '1'";
    assert_eq!(live.db.text(held).await, "10 days [7,9) $8.00 9:06");
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.db.assert_checked().await;
}

/// A trigger makes another value of it: that is an edit, and goes to the CRM.
#[tokio::test]
async fn what_a_trigger_makes_of_a_spelling_is_an_edit() {
    let live = table_of(&["interval", "int4range"]).await;
    live.db
        .execute(
            "CREATE FUNCTION make() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 NEW.c0 := NEW.c0 + interval '1 hour';
                 RETURN NEW;
             END $$;
             CREATE TRIGGER make BEFORE UPDATE OF c0 ON t FOR EACH ROW EXECUTE FUNCTION make();
             INSERT INTO t VALUES (1, 'Ada')",
        )
        .await;
    live.db.drain().await;
    edited(&live.db, r#"{"x_c0": "1 week", "x_c1": "[1,5]"}"#).await;
    live.ingest().await;
    live.quiet().await;
    let both = "SELECT concat_ws(' ', t.c0, t.c1, r.fields ->> 'x_c0', r.fields ->> 'x_c1') FROM t, crm_stub.records r";
    assert_eq!(
        live.db.text(both).await,
        "7 days 01:00:00 [1,6) 7 days 01:00:00 [1,5]"
    );
    live.db.assert_checked().await;
}

/// A type, what it holds, and what it would round.
const ROUNDED: &[(&str, &str, &str)] = &[
    ("time(0)", "12:00:00.000", "12:00:00.5"),
    ("timetz(1)", "12:00:00.5+01", "12:00:00.55+01"),
    ("time", "12:00:00.123456", "12:00:00.1234567"),
    ("interval(0)", "1.5 hours", "1.5 seconds"),
    ("interval hour", "2 hours", "90 minutes"),
    ("money", "12.30", "12.345"),
    ("numeric(6,2)[]", "{1.5}", "{1.505}"),
    (
        "timestamp(0)[]",
        "{2026-01-01 12:00}",
        "{2026-01-01 12:00:00.5}",
    ),
    ("bit(3)", "101", "1011"),
];

#[tokio::test]
async fn what_a_type_would_round_stays_out() {
    for (data_type, exact, rounded) in ROUNDED {
        let live = table_of(&[data_type]).await;
        live.db.execute("INSERT INTO t VALUES (1, 'Ada')").await;
        live.db.drain().await;
        edited(&live.db, &json!({ "x_c0": exact }).to_string()).await;
        live.ingest().await;
        live.quiet().await;
        let row = "SELECT c0::text FROM t";
        let held = live.db.text(row).await;
        assert_ne!(held, "", "{data_type}");
        edited(&live.db, &json!({ "x_c0": rounded }).to_string()).await;
        made(
            &live.db,
            &[&json!({ "x_c0": rounded, "external_key": "2" }).to_string()],
        )
        .await;
        live.ingest().await;
        live.quiet().await;
        let dead = "crm.dead_letters WHERE path = 'ingest' AND fields ? 'x_c0'";
        assert_eq!(live.db.count(dead).await, 2, "{data_type}");
        assert_eq!(live.db.text(row).await, held, "{data_type}");
        let typed = "SELECT DISTINCT fields ->> 'x_c0' FROM crm_stub.records";
        assert_eq!(live.db.text(typed).await, *rounded, "{data_type}");
    }
}
