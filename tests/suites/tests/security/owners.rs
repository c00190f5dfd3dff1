//! Capture evaluates nothing of a type that the table's owner made, whichever way it got into the
//! table.

use crm_suites::eventually;

use crate::possession::{PEOPLE, Possession};

/// A type of the owner's with casts and operators that say as whom they run.
const TRAP: &str = "
    CREATE TYPE m.trap AS ENUM ('p1', 'p2', 'p3', 'a', 'b');
    CREATE FUNCTION m.to_text(m.trap) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM m.note('cast'); RETURN 'x'; END $$;
    CREATE FUNCTION m.to_varchar(m.trap) RETURNS varchar LANGUAGE plpgsql AS $$ BEGIN PERFORM m.note('cast'); RETURN 'x'; END $$;
    CREATE FUNCTION m.to_json(m.trap) RETURNS json LANGUAGE plpgsql AS $$ BEGIN PERFORM m.note('cast'); RETURN '1'; END $$;
    CREATE FUNCTION m.same(m.trap, m.trap) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN PERFORM m.note('operator'); RETURN true; END $$;
    CREATE OPERATOR m.= (LEFTARG = m.trap, RIGHTARG = m.trap, FUNCTION = m.same);
    CREATE CAST (m.trap AS text) WITH FUNCTION m.to_text(m.trap) AS ASSIGNMENT;
    CREATE CAST (m.trap AS varchar) WITH FUNCTION m.to_varchar(m.trap) AS ASSIGNMENT;
    CREATE CAST (m.trap AS json) WITH FUNCTION m.to_json(m.trap);
    CREATE CAST (varchar AS m.trap) WITH INOUT AS ASSIGNMENT;
    CREATE CAST (text AS m.trap) WITH INOUT AS ASSIGNMENT";

const WRITES: [&str; 4] = [
    "INSERT INTO m.people (id, email, phone) VALUES ('p2', 'a', '2'), ('p3', 'b', '3')",
    "UPDATE m.people SET phone = 'new', email = 'b'",
    "UPDATE m.people SET phone = 'newer', email = 'a' WHERE id = 'p2'",
    "DELETE FROM m.people WHERE id = 'p3'",
];

/// Writes as the owner and as a superuser, and puts the rows back. The worker may run the owner's
/// code meanwhile, as the owner; the sessions' own snapshots do not see that.
async fn write(possession: &Possession) {
    for session in [&possession.owner, &*possession.db] {
        let ran = "SELECT count(*) FROM m.witness";
        session
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await;
        let before: i64 = session.one(ran, &[]).await;
        for sql in WRITES {
            session.execute(sql).await;
        }
        session
            .execute("DELETE FROM m.people WHERE id = 'p2'")
            .await;
        assert_eq!(session.one::<i64>(ran, &[]).await, before);
        session.execute("COMMIT").await;
    }
    possession.assert_own_rights().await;
}

async fn trapped(table: &str, arguments: &str) -> Possession {
    let possession = Possession::of(table, "bidirectional", arguments).await;
    let owner = &possession.owner;
    owner.execute(TRAP).await;
    owner
        .execute("INSERT INTO m.people VALUES ('p1', 'a', '1')")
        .await;
    possession
}

const FOLLOWED: &str = ", on_insert => 'create', on_delete => 'delete'";

#[tokio::test]
async fn a_retyped_key_runs_no_cast_and_is_no_key() {
    let possession = trapped(PEOPLE, FOLLOWED).await;
    let owner = &possession.owner;
    owner
        .execute("ALTER TABLE m.people ALTER id TYPE m.trap USING id::m.trap")
        .await;
    write(&possession).await;
    let reason = possession.stopped().await;
    assert!(reason.contains("changed its type"), "{reason}");
    // Confirming the mapping is not enough: such a column could not have been mapped as a key.
    let map = possession.map;
    let confirm = format!("SELECT crm.alter_field({map}, 'phone'), crm.alter_map({map})");
    let error = possession.db.error(&confirm).await;
    assert!(error.message().contains("cannot be a key"), "{error:?}");
    possession.stopped().await;
    write(&possession).await;
    owner
        .execute("ALTER TABLE m.people ALTER id TYPE text USING (CASE id WHEN 'p1' THEN 'p1' END)")
        .await;
    possession.db.execute(&confirm).await;
    possession.idle().await;
    write(&possession).await;
    possession.db.drain().await;
    possession.db.assert_checked().await;
}

#[tokio::test]
async fn a_retyped_cell_runs_no_cast() {
    let possession = trapped(PEOPLE, FOLLOWED).await;
    let map = possession.map;
    let validated = format!(
        r#"SELECT crm.alter_field({map}, 'email', 'last_name', direction => 'bidirectional',                               validation => '{{"max_length": 40, "nullable": false}}')"#
    );
    possession.db.execute(&validated).await;
    possession
        .owner
        .execute("ALTER TABLE m.people ALTER email TYPE m.trap")
        .await;
    write(&possession).await;
    possession.db.execute(&validated).await;
    write(&possession).await;
}

#[tokio::test]
async fn a_retyped_shard_runs_no_cast() {
    let table = "CREATE TABLE m.people (id text UNIQUE, email varchar, phone text, shard text NOT NULL DEFAULT 'a', PRIMARY KEY (id, shard))";
    let possession = trapped(
        table,
        &format!("{FOLLOWED}, shard_column => 'shard', key_column => 'id'"),
    )
    .await;
    possession
        .owner
        .execute("ALTER TABLE m.people ALTER shard DROP DEFAULT, ALTER shard TYPE m.trap, ALTER shard SET DEFAULT 'a'")
        .await;
    write(&possession).await;
}

/// `ALTER TYPE … CASCADE` alters the tables of a type.
#[tokio::test]
async fn a_typed_table_is_followed() {
    let table = "CREATE TYPE m.person AS (id text, email varchar, phone text); CREATE TABLE m.people OF m.person (PRIMARY KEY (id))";
    let possession = trapped(table, FOLLOWED).await;
    possession
        .owner
        .execute("ALTER TYPE m.person ALTER ATTRIBUTE email TYPE m.trap CASCADE")
        .await;
    assert_eq!(possession.state().await, "error");
    write(&possession).await;
    let reason = possession.stopped().await;
    assert!(reason.contains("\"email\" changed its type"), "{reason}");
    possession
        .owner
        .execute("ALTER TYPE m.person RENAME ATTRIBUTE phone TO telephone CASCADE")
        .await;
    let sql = "SELECT crm_field FROM crm.field_map WHERE column_name = 'telephone'";
    assert_eq!(possession.db.all::<String>(sql, &[]).await, ["first_name"]);
}

/// What no event trigger saw is refused by the capture function, and made up for by the worker.
#[tokio::test]
async fn an_unnoticed_change_is_refused_until_the_worker_has_followed() {
    let possession = trapped(PEOPLE, FOLLOWED).await;
    let db = &possession.db;
    db.execute("ALTER EVENT TRIGGER pg_crm_follow_ddl DISABLE")
        .await;
    for (change, write) in [
        (
            "ALTER TABLE m.people ALTER id TYPE m.trap USING id::m.trap",
            "UPDATE m.people SET phone = '2'",
        ),
        (
            "ALTER TABLE m.people RENAME email TO mail",
            "DELETE FROM m.people",
        ),
    ] {
        // Held, so that the worker cannot be quicker.
        let owner = &possession.owner;
        owner
            .execute(&format!("BEGIN; {change}; SAVEPOINT altered"))
            .await;
        let error = owner.error(write).await;
        assert_eq!(error.code().code(), "55000", "{error:?}");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("moment")),
            "{error:?}"
        );
        owner.execute("ROLLBACK TO altered; COMMIT").await;
        eventually("the worker follows", async || {
            possession.db.client().batch_execute("BEGIN").await.ok()?;
            let written = possession.db.client().batch_execute(write).await;
            possession.db.execute("ROLLBACK").await;
            written.ok()
        })
        .await;
    }
    let reason = possession.stopped().await;
    assert!(reason.contains("changed its type"), "{reason}");
    let sql = "SELECT crm_field FROM crm.field_map WHERE column_name = 'mail'";
    assert_eq!(db.all::<String>(sql, &[]).await, ["last_name"]);
    possession.assert_own_rights().await;
}
