//! The table's own rules and triggers, and tables of other shapes.

use crm_suites::desk::COLUMNS;
use crm_suites::{Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    what_a_before_trigger_makes_of_a_value_is_what_is_sent,
    what_an_after_trigger_changes_is_captured,
);

async fn what_a_before_trigger_makes_of_a_value_is_what_is_sent(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.db
        .execute(
            "CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN NEW.phone := replace(NEW.phone, ' ', ''); NEW.last_name := initcap(NEW.last_name); RETURN NEW; END $$;
             CREATE TRIGGER tidy BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION tidy()",
        )
        .await;
    let written = live
        .write("p1", json!({"phone": "+49 30 1"}))
        .await
        .expect("committed");
    assert_eq!(written.values["phone"], "+49301");
    live.assert_both("p1", "phone", "+49301").await;
    // The last name changed along: it is an edit like any other.
    live.agree().await;
    live.assert_both("p1", "last_name", "Byron P1").await;
    assert_eq!(
        live.audit("p1").await[1..],
        ["realtime applied", "reconcile applied"]
    );
    // The CRM's value that a trigger of the table changes goes back, and both sides settle.
    live.edit_in_crm("p1", json!({"phone": "+1 2 3"})).await;
    live.db.execute("UPDATE people SET phone = 'mine'").await;
    live.agree().await;
    live.assert_both("p1", "phone", "+123").await;
}

async fn what_an_after_trigger_changes_is_captured(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(3).await;
    live.db
        .execute(
            "CREATE FUNCTION spread() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF pg_trigger_depth() = 1 THEN
                     UPDATE people SET first_name = 'after ' || NEW.phone WHERE id = NEW.id;
                     UPDATE people SET phone = NEW.phone WHERE id <> NEW.id;
                 END IF;
                 RETURN NULL;
             END $$;
             CREATE TRIGGER spread AFTER UPDATE OF phone ON people FOR EACH ROW EXECUTE FUNCTION spread()",
        )
        .await;
    live.write("p2", json!({"phone": "all"}))
        .await
        .expect("committed");
    live.assert_both("p2", "phone", "all").await;
    live.agree().await;
    live.assert_both("p2", "first_name", "after all").await;
    live.assert_both("p1", "phone", "all").await;
    live.assert_both("p3", "phone", "all").await;
    // Nothing of it outlives a conflict.
    live.edit_in_crm("p2", json!({"email": "theirs@b.example"}))
        .await;
    live.write("p2", json!({"phone": "none"}))
        .await
        .expect("conflict");
    assert_eq!(live.cell("p1", "phone").await, "all");
    assert_eq!(live.db.count("crm.change").await, 0);
}

#[tokio::test]
async fn a_sharded_table_needs_both_keys() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute("CREATE TABLE sharded (tenant int, id int, phone text, PRIMARY KEY (tenant, id)); INSERT INTO sharded VALUES (1, 7, 'a'), (2, 7, 'b')")
        .await;
    let map: i32 = live
        .db
        .one(
            "SELECT crm.map_object('stub', 'sharded', 'account', shard_column => 'tenant')",
            &[],
        )
        .await;
    live.db
        .execute(&format!("SELECT crm.map_field({map}, 'phone', 'phone')"))
        .await;
    for (tenant, phone) in [(1, "a"), (2, "b")] {
        let insert = "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'account', jsonb_build_object('name', 'Acme', 'phone', $1::text)) RETURNING crm_id";
        let id: String = live.db.one(insert, &[&phone]).await;
        live.db
            .rows(
                "SELECT crm.link($1, '7', $2, $3)",
                &[&map, &id, &tenant.to_string()],
            )
            .await;
    }
    let call = |shard: &str| {
        format!("SELECT outcome FROM crm.write('sharded', '7', '{{\"phone\": \"new\"}}'{shard})")
    };
    let error = live.db.error(&call("")).await;
    assert_eq!(error.code().code(), "P0002", "{error:?}");
    assert_eq!(
        live.db
            .one::<String>(&call(", shard_key => '2'"), &[])
            .await,
        "committed"
    );
    let rows = live.db.text("SELECT * FROM sharded ORDER BY tenant").await;
    assert_eq!(rows, "1 | 7 | a\n2 | 7 | new");
    let records = live
        .db
        .text("SELECT fields ->> 'phone' FROM crm_stub.records ORDER BY 1")
        .await;
    assert_eq!(records, "a\nnew");
    let read: Json = live
        .db
        .one(
            "SELECT crm.read_live('sharded', '7', shard_key => '1')",
            &[],
        )
        .await;
    assert_eq!(read, json!({"phone": "a"}));
    // Plain edits, with what a conflict does to the row.
    live.db.execute("UPDATE crm_stub.records SET fields = fields || '{\"phone\": \"theirs\"}' WHERE fields ->> 'phone' = 'a'").await;
    live.db.execute("UPDATE sharded SET phone = 'mine'").await;
    live.quiet().await;
    let rows = live.db.text("SELECT * FROM sharded ORDER BY tenant").await;
    assert_eq!(rows, "1 | 7 | theirs\n2 | 7 | mine");
    live.db.assert_checked().await;
}

/// Names that need quotes, a domain over text, a key that is a number, a partitioned table.
#[tokio::test]
async fn tables_of_odd_shapes() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute(
            r#"CREATE SCHEMA "Odd one"; CREATE DOMAIN short AS text CHECK (length(VALUE) < 10);
               CREATE TABLE "Odd one"."The people" ("Key" bigint PRIMARY KEY, "The phone" short, "select" varchar(20), plain text DEFAULT 'd')
               PARTITION BY RANGE ("Key");
               CREATE TABLE "Odd one".part PARTITION OF "Odd one"."The people" FOR VALUES FROM (0) TO (100);
               INSERT INTO "Odd one"."The people" VALUES (1, 'a', 'b')"#,
        )
        .await;
    let map: i32 = live
        .db
        .one(
            r#"SELECT crm.map_object('stub', '"Odd one"."The people"', 'account')"#,
            &[],
        )
        .await;
    live.db
        .execute(&format!(
            "SELECT crm.map_field({map}, 'The phone', 'phone'); SELECT crm.map_field({map}, 'select', 'x_select')"
        ))
        .await;
    let insert = "INSERT INTO crm_stub.records (connection, crm_object, fields) VALUES ('stub', 'account', '{\"name\": \"Acme\", \"phone\": \"a\", \"x_select\": \"b\"}') RETURNING crm_id";
    let id: String = live.db.one(insert, &[]).await;
    live.db
        .rows("SELECT crm.link($1, '1', $2)", &[&map, &id])
        .await;
    let call = |changes: &str| {
        format!(r#"SELECT outcome FROM crm.write('"Odd one"."The people"', '1', '{changes}')"#)
    };
    assert_eq!(
        live.db
            .one::<String>(&call(r#"{"The phone": "new", "select": "it''s"}"#), &[])
            .await,
        "committed"
    );
    assert_eq!(
        live.db
            .text(r#"SELECT * FROM "Odd one"."The people""#)
            .await,
        "1 | new | it's | d"
    );
    let error = live
        .db
        .error(&call(r#"{"The phone": "much too long"}"#))
        .await;
    assert_eq!(error.code().code(), "23514", "{error:?}");
    let error = live
        .db
        .error(r#"SELECT crm.write('"Odd one"."The people"', 'one', '{"select": "x"}')"#)
        .await;
    assert_eq!(error.code().code(), "22P02", "{error:?}");
    live.quiet().await;
    live.db.assert_checked().await;
    assert_eq!(COLUMNS.len(), 4);
}
