//! What a table's own code raises is its record's, whatever the SQLSTATE claims: a lock, a
//! deadlock, a cancel, the server's end. Such a record is tried again a number of times and ends as
//! a dead letter; its neighbours go on at once.

use std::sync::LazyLock;

use crm_suites::{Cluster, eventually, json};

use crate::possession::{PEOPLE, Possession};

/// Codes that speak of what passes, or of what is nobody's fault.
const CODES: [&str; 9] = [
    "40001", "40P01", "55P03", "57014", "53200", "08006", "57P01", "42P01", "58030",
];
const GOOD: i64 = 20;

static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::with(&[("pg_crm.max_attempts", "2")]));

const CODE: &str = "
    CREATE FUNCTION m.fuss(about text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        IF about LIKE 'e_____' THEN RAISE EXCEPTION 'raised %', about USING ERRCODE = substr(about, 2); END IF;
        RETURN about;
    END $$;
    CREATE FUNCTION m.shape(value jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb(m.fuss($1 #>> '{}')) $$;
    CREATE FUNCTION m.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM m.fuss(NEW.phone); RETURN NEW; END $$;
    CREATE FUNCTION m.fired_at_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM m.fuss(OLD.notes); RETURN OLD; END $$";

/// Rows `e40001` and so on, and `good1` and so on, of which `notes` says which they are.
fn rows() -> String {
    let bad = CODES.iter().map(|code| format!("('e{code}')"));
    let good = (1..=GOOD).map(|n| format!("('good{n}')"));
    let ids: Vec<String> = bad.chain(good).collect();
    format!(
        "INSERT INTO m.people (id, email, phone, notes) SELECT id, 'Last', 'First', id FROM (VALUES {}) AS r (id)",
        ids.join(", ")
    )
}

fn expected() -> Vec<String> {
    let mut ids: Vec<String> = CODES.iter().map(|code| format!("e{code}")).collect();
    ids.sort();
    ids
}

async fn possession(direction: &str, arguments: &str, code: &str) -> Possession {
    let db = CLUSTER.database().await;
    let arguments = format!(", on_insert => 'create'{arguments}");
    let possession = Possession::in_database(db, PEOPLE, direction, &arguments).await;
    possession.owner.execute(CODE).await;
    possession.owner.execute(code).await;
    possession
}

/// Rows that are on both sides, with that code.
async fn linked(arguments: &str, code: &str) -> Possession {
    let possession = possession("bidirectional", arguments, "SELECT 1").await;
    possession.owner.execute(&rows()).await;
    possession.db.drain().await;
    possession.owner.execute(code).await;
    possession
}

impl Possession {
    async fn map_with(&self, transform: &str) {
        let sql = format!(
            "SELECT crm.alter_field({}, 'phone', 'first_name', direction => 'bidirectional', {transform} => 'm.shape(jsonb)')",
            self.map
        );
        self.db.execute(&sql).await;
    }

    /// By record: its id, and in the CRM its first name is to be that of the row.
    async fn edit_all(&self) {
        let sql = "SELECT record_key, crm_id FROM crm.ledger WHERE crm_id IS NOT NULL";
        for row in self.db.rows(sql, &[]).await {
            let (key, id): (String, String) = (row.get(0), row.get(1));
            let name = json!({"first_name": key});
            self.crm.edit(&self.db, "contact", &id, &name).await;
        }
    }

    /// Has the worker look for changes in the CRM, and does not wait for what it finds.
    async fn look(&self) {
        let sql = "SELECT crm.ingest_now(1, '1 ms')";
        self.db.execute(sql).await;
    }

    async fn ends(&self, path: &str) {
        let sql = "SELECT record_key FROM crm.dead_letters WHERE path = $1 ORDER BY 1";
        eventually("those at fault are dead letters", async || {
            (self.db.all::<String>(sql, &[&path]).await == expected()).then_some(())
        })
        .await;
        let sql = "SELECT DISTINCT error_class FROM crm.dead_letters";
        assert_eq!(self.db.all::<String>(sql, &[]).await, ["transient"]);
        let sql = "SELECT count(*) FROM crm.dead_letters WHERE error LIKE '%raised e%'";
        assert_eq!(self.db.one::<i64>(sql, &[]).await, CODES.len() as i64);
        self.db.assert_checked().await;
    }

    /// Which rows a policy fails for is not known without it: the deep check says so. Then the
    /// policy goes.
    async fn policy_ends(&self) {
        let sql = "SELECT detail FROM crm.check(deep => true)";
        let told: Vec<String> = self.db.all(sql, &[]).await;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("cannot be read: raised e"), "{told:?}");
        let sql = "ALTER TABLE m.people DISABLE ROW LEVEL SECURITY";
        self.owner.execute(sql).await;
    }

    /// The others were not kept waiting by it.
    async fn goes_on(&self, count: &str) {
        eventually("the others go on", async || {
            (self.db.one::<i64>(count, &[]).await == GOOD).then_some(())
        })
        .await;
    }
}

const SENT: &str =
    "SELECT count(*) FROM crm_stub.records WHERE fields ->> 'external_key' LIKE 'good%'";
const TAKEN: &str = "SELECT count(*) FROM m.people WHERE phone LIKE 'good%'";

#[tokio::test]
async fn of_a_transform_that_goes_out() {
    let possession = possession("bidirectional", "", "SELECT 1").await;
    possession.map_with("transform_out").await;
    let sql = rows().replace("'First'", "id");
    possession.owner.execute(&sql).await;
    possession.db.drain_but_for_the_dead().await;
    possession.goes_on(SENT).await;
    possession.ends("batch").await;
}

#[tokio::test]
async fn of_a_policy_as_rows_go_out() {
    let code = "ALTER TABLE m.people ENABLE ROW LEVEL SECURITY; ALTER TABLE m.people FORCE ROW LEVEL SECURITY;
                CREATE POLICY fussy ON m.people USING (m.fuss(id) IS NOT NULL)";
    let possession = possession("outbound", "", code).await;
    // As a superuser, whom no policy binds.
    possession.db.execute(&rows()).await;
    possession.db.drain_but_for_the_dead().await;
    possession.goes_on(SENT).await;
    possession.policy_ends().await;
    possession.ends("batch").await;
}

#[tokio::test]
async fn of_a_trigger_as_rows_take_what_the_crm_holds() {
    let code =
        "CREATE TRIGGER fired BEFORE UPDATE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()";
    let possession = linked("", code).await;
    possession.edit_all().await;
    possession.look().await;
    possession.goes_on(TAKEN).await;
    possession.ends("ingest").await;
}

#[tokio::test]
async fn of_a_transform_as_values_come_in() {
    let possession = linked("", "SELECT 1").await;
    possession.map_with("transform_in").await;
    possession.edit_all().await;
    possession.look().await;
    possession.goes_on(TAKEN).await;
    possession.ends("ingest").await;
}

#[tokio::test]
async fn of_a_trigger_as_rows_are_inserted() {
    let code =
        "CREATE TRIGGER fired BEFORE INSERT ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()";
    let possession = possession("bidirectional", ", on_crm_insert => 'insert'", code).await;
    let names: Vec<String> = expected()
        .into_iter()
        .chain((1..=GOOD).map(|n| format!("good{n}")))
        .collect();
    possession.born(&names).await;
    possession.look().await;
    possession.goes_on(TAKEN).await;
    let sql = "SELECT count(*) FROM crm.dead_letters WHERE path = 'ingest' AND error_class = 'transient' AND error LIKE '%raised e%'";
    eventually("those at fault are dead letters", async || {
        (possession.db.one::<i64>(sql, &[]).await == CODES.len() as i64).then_some(())
    })
    .await;
    possession.db.assert_checked().await;
}

/// Records that no row is linked to are looked for by their keys.
#[tokio::test]
async fn of_a_policy_as_keys_are_looked_for() {
    let db = CLUSTER.database().await;
    let arguments = ", on_insert => 'ignore', on_crm_insert => 'insert'";
    let possession = Possession::in_database(db, PEOPLE, "bidirectional", arguments).await;
    let db = &possession.db;
    possession.owner.execute(CODE).await;
    possession.owner.execute(&rows()).await;
    let code = "ALTER TABLE m.people ENABLE ROW LEVEL SECURITY; ALTER TABLE m.people FORCE ROW LEVEL SECURITY;
                CREATE POLICY fussy ON m.people USING (m.fuss(id) IS NOT NULL)";
    possession.owner.execute(code).await;
    let sql = "SELECT id FROM m.people";
    let keys: Vec<String> = db.all(sql, &[]).await;
    possession.born(&keys).await;
    db.execute("SELECT crm.ingest_now(1, '1 ms')").await;
    let linked =
        "SELECT count(*) FROM crm.ledger WHERE crm_id IS NOT NULL AND record_key LIKE 'good%'";
    possession.goes_on(linked).await;
    let sql = "SELECT count(*) FROM crm.dead_letters WHERE path = 'ingest' AND error_class = 'transient' AND error LIKE '%raised e%'";
    eventually("those at fault are dead letters", async || {
        (db.one::<i64>(sql, &[]).await == CODES.len() as i64).then_some(())
    })
    .await;
    // No twins of them were made.
    assert_eq!(db.count("m.people").await, keys.len() as i64);
    possession.policy_ends().await;
    db.assert_checked().await;
}

#[tokio::test]
async fn of_a_trigger_as_rows_are_deleted() {
    let code = "CREATE TRIGGER fired BEFORE DELETE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired_at_delete()";
    let possession = linked(", on_crm_delete => 'delete'", code).await;
    let ids = "SELECT crm_id FROM crm.ledger WHERE crm_id IS NOT NULL";
    for id in possession.db.all::<String>(ids, &[]).await {
        possession.crm.delete(&possession.db, "contact", &id).await;
    }
    possession.look().await;
    possession
        .goes_on(&format!(
            "SELECT {GOOD} - count(*) FROM m.people WHERE id LIKE 'good%'"
        ))
        .await;
    possession.ends("ingest").await;
}

/// The reconciler has a row take what the CRM holds: a person is to decide once it was refused
/// often enough.
#[tokio::test]
async fn of_a_trigger_as_the_reconciler_sets_rows_right() {
    let code =
        "CREATE TRIGGER fired BEFORE UPDATE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()";
    let possession = linked("", code).await;
    let db = &possession.db;
    possession.edit_all().await;
    // As a superuser, and before anybody looked for the changes.
    db.execute("UPDATE m.people SET phone = 'Mine'").await;
    let flush = "SELECT crm.flush(timeout => '1 s')";
    eventually("those at fault are conflicts", async || {
        let _: Option<bool> = db.one(flush, &[]).await;
        let sql = "SELECT record_key FROM crm.conflicts WHERE conflict_type = 'mapping_mismatch' ORDER BY 1";
        (db.all::<String>(sql, &[]).await == expected()).then_some(())
    })
    .await;
    possession.goes_on(TAKEN).await;
    db.assert_checked().await;
}
