//! Code of a table's owner has a bounded time of the worker, whatever kind of code it is: the
//! record at fault is quarantined with the reason, and everybody else goes on.

use std::time::{Duration, Instant};

use crm_suites::{Cluster, eventually, json};

use crate::possession::{PEOPLE, Possession};

/// Nobody else waits longer, where a row may take a second: the record at fault is tried more than
/// once, and so are its neighbours in one statement with it, before it is known.
const OTHERS_WAIT: Duration = Duration::from_secs(12);

/// Sleeps for one value, and does not let itself be cancelled if it can help it.
const STUBBORN: &str = "
    CREATE FUNCTION m.think(about text) RETURNS text LANGUAGE plpgsql AS $$
    BEGIN
        IF about LIKE 'slow%' THEN
            PERFORM set_config('statement_timeout', '0', false);
            LOOP
                BEGIN
                    LOOP
                        BEGIN
                            PERFORM pg_sleep(1);
                        EXCEPTION WHEN query_canceled THEN
                        END;
                    END LOOP;
                EXCEPTION WHEN query_canceled THEN
                    NULL;
                END;
            END LOOP;
        END IF;
        RETURN about;
    END $$";

/// With `people` rows that are on both sides, and a table of somebody else that is mapped, too.
async fn possession(cluster: &Cluster, people: usize, arguments: &str, code: &str) -> Possession {
    let db = cluster.database().await;
    let arguments = format!(", on_insert => 'create'{arguments}");
    let possession = Possession::in_database(db, PEOPLE, "bidirectional", &arguments).await;
    let db = &possession.db;
    possession.owner.execute(STUBBORN).await;
    let sql = format!(
        "INSERT INTO m.people SELECT 'p' || n, 'Last', 'First' FROM generate_series(1, {people}) n"
    );
    possession.owner.execute(&sql).await;
    db.execute(
        "CREATE TABLE others (id text PRIMARY KEY, name text);
         SELECT crm.map_object('stub', 'others', 'account', external_id_field => 'external_key', on_insert => 'create')",
    )
    .await;
    db.execute("SELECT crm.map_field(2, 'name', 'name')").await;
    db.drain().await;
    possession.owner.execute(code).await;
    possession
}

fn cluster() -> Cluster {
    Cluster::with(&[("pg_crm.transform_timeout", "1s")])
}

impl Possession {
    async fn ids(&self) -> Vec<(String, String)> {
        let sql =
            "SELECT record_key, crm_id FROM crm.ledger WHERE map_id = $1 AND crm_id IS NOT NULL";
        let rows = self.db.rows(sql, &[&self.map]).await;
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Writes of the other map go on until `is_done`; the slowest of them.
    async fn others_until(&self, is_done: &str) -> Duration {
        let mut slowest = Duration::ZERO;
        self.db.execute("SELECT crm.ingest_now(1, '1 ms')").await;
        eventually("it is done", async || {
            let start = Instant::now();
            self.db
                .execute("INSERT INTO others SELECT 'o' || count(*), 'Other' FROM others")
                .await;
            let done: bool = self.db.one("SELECT crm.flush(2, '30 s')", &[]).await;
            assert!(done, "the other map's flush");
            slowest = slowest.max(start.elapsed());
            self.db.one::<bool>(is_done, &[]).await.then_some(())
        })
        .await;
        slowest
    }

    /// The key of the one record that was quarantined, and that was for its time.
    async fn quarantined(&self) -> String {
        let sql = "SELECT record_key, error FROM crm.dead_letters WHERE map_id = $1 AND path = 'ingest' ORDER BY 1";
        let letters = eventually("one is quarantined", async || {
            let rows = self.db.rows(sql, &[&self.map]).await;
            let letters: Vec<(String, String)> =
                rows.iter().map(|row| (row.get(0), row.get(1))).collect();
            (!letters.is_empty()).then_some(letters)
        })
        .await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert!(letters[0].1.contains("took longer than"), "{letters:?}");
        letters.into_iter().next().expect("one").0
    }
}

#[tokio::test]
async fn a_trigger_that_sleeps_costs_its_record_alone() {
    let cluster = cluster();
    let possession = possession(
        &cluster,
        60,
        "",
        "CREATE FUNCTION m.fired() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.notes := m.think(NEW.phone); RETURN NEW; END $$;
         CREATE TRIGGER fired BEFORE UPDATE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()",
    )
    .await;
    let db = &possession.db;
    let worker = db.worker().await;
    for (key, id) in possession.ids().await {
        let name = if key == "p30" { "slow" } else { "Theirs" };
        possession
            .crm
            .edit(db, "contact", &id, &json!({"first_name": name}))
            .await;
    }
    let slowest = possession
        .others_until("SELECT count(*) >= 59 FROM m.people WHERE phone = 'Theirs'")
        .await;
    assert!(slowest < OTHERS_WAIT, "{slowest:?}");
    assert_eq!(possession.quarantined().await, "p30");
    assert_eq!(db.worker().await, worker);
    db.assert_checked().await;
}

#[tokio::test]
async fn a_default_that_sleeps_costs_its_record_alone() {
    let cluster = cluster();
    let possession = possession(
        &cluster,
        1,
        ", on_crm_insert => 'insert'",
        "ALTER TABLE m.people ADD CHECK (m.think(phone) IS NOT NULL)",
    )
    .await;
    let db = &possession.db;
    let people: Vec<_> = (1..=30)
        .map(|n| {
            let name = if n == 10 { "slow" } else { "New" };
            let person = json!({"first_name": name, "last_name": format!("Born {n}")});
            person.as_object().expect("an object").clone()
        })
        .collect();
    possession.crm.create(db, "contact", &people).await;
    let slowest = possession
        .others_until("SELECT count(*) = 29 FROM m.people WHERE phone = 'New'")
        .await;
    assert!(slowest < OTHERS_WAIT, "{slowest:?}");
    possession.quarantined().await;
    db.assert_checked().await;
}

#[tokio::test]
async fn a_delete_that_sleeps_leaves_its_row() {
    let cluster = cluster();
    let possession = possession(
        &cluster,
        2,
        ", on_crm_delete => 'delete'",
        "CREATE FUNCTION m.fired() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF OLD.id = 'p1' THEN PERFORM m.think('slow'); END IF; RETURN OLD; END $$;
         CREATE TRIGGER fired BEFORE DELETE ON m.people FOR EACH ROW EXECUTE FUNCTION m.fired()",
    )
    .await;
    let db = &possession.db;
    for (_, id) in possession.ids().await {
        possession.crm.delete(db, "contact", &id).await;
    }
    let slowest = possession
        .others_until("SELECT count(*) = 1 FROM m.people")
        .await;
    assert!(slowest < OTHERS_WAIT, "{slowest:?}");
    eventually("its status says why", async || {
        let sql = "SELECT last_error FROM crm.status_wide WHERE map_id = 1 AND last_error LIKE '%took longer than%'";
        db.all::<String>(sql, &[]).await.pop()
    })
    .await;
    db.assert_checked().await;
}

#[tokio::test]
async fn a_policy_that_sleeps_costs_its_record_alone() {
    let cluster = cluster();
    let possession = possession(
        &cluster,
        20,
        "",
        "ALTER TABLE m.people ENABLE ROW LEVEL SECURITY;
         ALTER TABLE m.people FORCE ROW LEVEL SECURITY;
         CREATE POLICY slow ON m.people USING (m.think(CASE id WHEN 'p7' THEN 'slow' END) IS NULL OR id = 'p7')",
    )
    .await;
    let db = &possession.db;
    // Out: as a superuser, whom no policy binds.
    db.execute("UPDATE m.people SET email = 'Mine'").await;
    let out =
        "SELECT count(*) = 19 FROM crm_stub.records r WHERE r.fields ->> 'last_name' = 'Mine'";
    let slowest = possession.others_until(out).await;
    assert!(slowest < OTHERS_WAIT, "{slowest:?}");
    for (_, id) in possession.ids().await {
        possession
            .crm
            .edit(db, "contact", &id, &json!({"first_name": "Theirs"}))
            .await;
    }
    let slowest = possession
        .others_until("SELECT count(*) >= 19 FROM m.people WHERE phone = 'Theirs'")
        .await;
    assert!(slowest < OTHERS_WAIT, "{slowest:?}");
    assert_eq!(possession.quarantined().await, "p7");
    // The policy sleeps for whoever reads that row, until the caller's own limit; the tables can be
    // checked.
    db.execute("SET statement_timeout = '2s'").await;
    let start = Instant::now();
    let error = db.error("SELECT * FROM crm.check(deep => true)").await;
    assert_eq!(error.code().code(), "57014", "{error:?}");
    assert!(start.elapsed() < OTHERS_WAIT, "{:?}", start.elapsed());
    assert_eq!(db.text("SELECT * FROM crm.check()").await, "");
}

/// Records that no row is linked to are looked for by their keys.
#[tokio::test]
async fn a_policy_that_sleeps_at_one_key_costs_its_record_alone() {
    let cluster = cluster();
    let db = cluster.database().await;
    let arguments = ", on_insert => 'ignore', on_crm_insert => 'insert'";
    let possession = Possession::in_database(db, PEOPLE, "bidirectional", arguments).await;
    possession.owner.execute(STUBBORN).await;
    possession
        .owner
        .execute(
            "INSERT INTO m.people SELECT 'p' || n, 'Last', 'First' FROM generate_series(1, 20) n;
             ALTER TABLE m.people ENABLE ROW LEVEL SECURITY;
             ALTER TABLE m.people FORCE ROW LEVEL SECURITY;
             CREATE POLICY slow ON m.people USING (m.think(CASE id WHEN 'p7' THEN 'slow' END) IS NULL OR id = 'p7')",
        )
        .await;
    let db = &possession.db;
    let keys: Vec<String> = (1..=22).map(|n| format!("p{n}")).collect();
    possession.born(&keys).await;
    db.execute("SELECT crm.ingest_now(1, '1 ms')").await;
    eventually("the others have their rows", async || {
        let sql = "SELECT count(*) = 21 FROM crm.ledger WHERE crm_id IS NOT NULL";
        db.one::<bool>(sql, &[]).await.then_some(())
    })
    .await;
    possession.quarantined().await;
    // No twin of it was made.
    assert_eq!(db.count("m.people WHERE id = 'p7'").await, 1);
}
