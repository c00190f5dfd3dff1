//! A mapped table is altered: renames are followed, what cannot be followed stops the map and says
//! why.

use crm_suites::{Desk, Vendor, eventually};

use crate::CLUSTER;

async fn desk() -> Desk {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(2).await;
    desk
}

/// Waits for the map to stop and answers why.
async fn stopped(desk: &Desk) -> String {
    eventually("the map is in error", async || {
        let _: Option<bool> = desk.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
        (desk.state().await == "error").then_some(())
    })
    .await;
    desk.db
        .one(
            "SELECT to_jsonb(s)::text FROM crm.status_wide s WHERE map_id = $1",
            &[&desk.map],
        )
        .await
}

#[tokio::test]
async fn a_renamed_column_is_followed() {
    let desk = desk().await;
    desk.db
        .execute("UPDATE people SET phone = 'before' WHERE id = 'p1'")
        .await;
    desk.db
        .execute("ALTER TABLE people RENAME COLUMN phone TO telephone")
        .await;
    desk.db
        .execute("UPDATE people SET telephone = 'after' WHERE id = 'p2'")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("p1", "phone").await, "before");
    assert_eq!(desk.field("p2", "phone").await, "after");
    let names =
        "SELECT DISTINCT column_name::text FROM crm.cell_status WHERE map_id = $1 ORDER BY 1";
    let names: Vec<String> = desk.db.all(names, &[&desk.map]).await;
    assert!(!names.contains(&"phone".to_owned()), "{names:?}");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_renamed_table_is_followed() {
    let desk = desk().await;
    desk.db.execute("ALTER TABLE people RENAME TO persons; CREATE SCHEMA hr; ALTER TABLE persons SET SCHEMA hr").await;
    desk.db
        .execute("UPDATE hr.persons SET phone = 'after' WHERE id = 'p2'")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("p2", "phone").await, "after");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_dropped_column_stops_the_map_and_says_why() {
    let desk = desk().await;
    desk.db
        .execute("ALTER TABLE people DROP COLUMN phone")
        .await;
    // The application goes on.
    desk.db
        .execute("UPDATE people SET last_name = 'Still editable'")
        .await;
    let why = stopped(&desk).await;
    assert!(why.contains("phone") || why.contains("dropped"), "{why}");
    desk.db
        .execute(&format!("SELECT crm.unmap_field({}, 'phone')", desk.map))
        .await;
    desk.db.drain().await;
    assert_eq!(desk.field("p1", "last_name").await, "Still editable");
    desk.db.assert_checked().await;
}

#[tokio::test]
async fn a_retyped_column_stops_the_map_and_says_why() {
    let desk = desk().await;
    desk.map_field("score", "").await;
    desk.db
        .execute("ALTER TABLE people ALTER COLUMN score TYPE bytea USING NULL")
        .await;
    desk.db
        .execute("UPDATE people SET last_name = 'Still editable'")
        .await;
    let why = stopped(&desk).await;
    assert!(why.contains("score"), "{why}");
}

#[tokio::test]
async fn a_dropped_table_disturbs_nobody() {
    let desk = desk().await;
    desk.db
        .execute("CREATE TABLE others (id text PRIMARY KEY, name text)")
        .await;
    let sql =
        "SELECT crm.map_object('stub', 'others', 'account', external_id_field => 'external_key',
                                     on_insert => 'create')";
    let map: i32 = desk.db.one(sql, &[]).await;
    desk.db
        .execute(&format!(
            "SELECT crm.map_field({map}, 'name', 'name', direction => 'outbound')"
        ))
        .await;
    desk.db
        .execute("UPDATE people SET phone = '1'; DROP TABLE people")
        .await;
    desk.db
        .execute("INSERT INTO others VALUES ('o1', 'Other')")
        .await;
    eventually("the other table goes on", async || {
        let _: Option<bool> = desk
            .db
            .one("SELECT crm.flush($1, timeout => '1 s')", &[&map])
            .await;
        (desk.crm.records(&desk.db, "account").await.len() == 1).then_some(())
    })
    .await;
    desk.db
        .execute(&format!("SELECT crm.unmap_object({})", desk.map))
        .await;
    assert!(desk.db.flush().await);
    desk.db.assert_checked().await;
}

/// What mapping a table takes, it takes ever after.
#[tokio::test]
async fn a_table_that_could_not_be_mapped_any_more_stops_the_map_and_says_why() {
    for (change, words, repair) in [
        (
            "ALTER TABLE people DROP CONSTRAINT people_pkey",
            "is nullable|no longer unique",
            "ALTER TABLE people ADD PRIMARY KEY (id)",
        ),
        (
            "DROP INDEX people_key",
            "no longer unique",
            "CREATE UNIQUE INDEX people_key ON people (id)",
        ),
        (
            "ALTER TABLE people ALTER id DROP NOT NULL",
            "is nullable",
            "ALTER TABLE people ALTER id SET NOT NULL",
        ),
        (
            "CREATE TABLE children () INHERITS (people)",
            "children|inherits",
            "DROP TABLE children",
        ),
        (
            "CREATE TABLE children (LIKE people); ALTER TABLE children INHERIT people",
            "children|inherits",
            "ALTER TABLE children NO INHERIT people",
        ),
    ] {
        let desk = desk().await;
        if !change.contains("people_pkey") {
            // A plain unique index in place of the primary key; there is always one of them.
            desk.db
                .execute(
                    "CREATE UNIQUE INDEX people_key ON people (id); ALTER TABLE people DROP CONSTRAINT people_pkey;
                     ALTER TABLE people ALTER id SET NOT NULL",
                )
                .await;
        }
        desk.db.execute("UPDATE people SET phone = '1'").await;
        desk.settle().await;
        desk.db.execute(change).await;
        // The application goes on; what it edits waits.
        desk.db.execute("UPDATE people SET phone = '2'").await;
        let why = stopped(&desk).await;
        assert!(
            words.split('|').any(|word| why.contains(word)),
            "{change}: {why}"
        );
        assert_eq!(desk.field("p1", "phone").await, "1", "{change}");
        // Altering the map does not help while it is so.
        let again = format!("SELECT crm.alter_field({}, 'phone')", desk.map);
        desk.db.execute(&again).await;
        assert_eq!(desk.state().await, "error", "{change}");
        desk.db.execute(repair).await;
        desk.db.execute(&again).await;
        desk.settle().await;
        assert_eq!(desk.field("p1", "phone").await, "2", "{change}");
    }
}

/// An index is exchanged for another as one does on a table that is in use.
#[tokio::test]
async fn a_key_may_change_its_index() {
    let desk = desk().await;
    desk.db
        .execute("CREATE UNIQUE INDEX CONCURRENTLY another ON people (id)")
        .await;
    desk.db
        .execute(
            "ALTER TABLE people DROP CONSTRAINT people_pkey, ADD CONSTRAINT people_pkey PRIMARY KEY USING INDEX another",
        )
        .await;
    desk.db
        .execute("CREATE INDEX unrelated ON people (phone); DROP INDEX unrelated; UPDATE people SET phone = '2'")
        .await;
    desk.settle().await;
    assert_eq!(desk.state().await, "idle");
}
