//! Tables of every kind: partitioned, with generated columns, with odd names, under row security,
//! with other owners.

use crm_suites::desk::map_people;
use crm_suites::{Crm, Desk, Vendor};

use crate::CLUSTER;

/// Maps a table as a contact of the stub by its last name alone.
async fn map(desk: &Desk, relation: &str, column: &str, arguments: &str) -> i32 {
    // Keys of one table alone go into a field.
    let people = format!("SELECT crm.unmap_object({})", desk.map);
    desk.db.execute(&people).await;
    let sql = format!(
        "SELECT crm.map_object('stub', '{relation}', 'contact', external_id_field => 'external_key',
                               on_insert => 'create', on_delete => 'delete' {arguments})"
    );
    let map = desk.db.one(&sql, &[]).await;
    let sql = "SELECT crm.map_field($1, $2::text::name, 'last_name', direction => 'outbound')";
    desk.db.rows(sql, &[&map, &column]).await;
    map
}

/// The last names that the CRM holds, by external id.
async fn held(desk: &Desk) -> String {
    desk.db.drain().await;
    desk.db.assert_checked().await;
    desk.db
        .text(
            "SELECT fields->>'external_key', fields->>'last_name' FROM crm_stub.records
             WHERE NOT deleted ORDER BY 1, 2",
        )
        .await
}

#[tokio::test]
async fn partitioned_tables() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE TABLE tenants (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
             CREATE TABLE tenants_1 PARTITION OF tenants FOR VALUES FROM (0) TO (100);
             CREATE TABLE tenants_2 PARTITION OF tenants FOR VALUES FROM (100) TO (200)",
        )
        .await;
    map(&desk, "tenants", "name", "").await;
    desk.db
        .execute("INSERT INTO tenants VALUES (1, 'one'), (101, 'two')")
        .await;
    assert_eq!(held(&desk).await, "1 | one\n101 | two");
    desk.db
        .execute("UPDATE tenants SET name = name || '!'")
        .await;
    desk.db.execute("DELETE FROM tenants WHERE id = 1").await;
    assert_eq!(held(&desk).await, "101 | two!");
}

/// A statement on a partition alone would escape the parent's triggers.
#[tokio::test]
async fn a_partition_is_written_through_its_parent_as_long_as_it_is_one() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute("CREATE TABLE tenants (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)")
        .await;
    map(&desk, "tenants", "name", "").await;
    // A partition that comes later is one like the others.
    desk.db
        .execute("CREATE TABLE later PARTITION OF tenants FOR VALUES FROM (0) TO (100)")
        .await;
    desk.db
        .execute("INSERT INTO tenants VALUES (1, 'one')")
        .await;
    let error = desk
        .db
        .error("UPDATE later SET name = 'behind the back'")
        .await;
    assert!(error.hint().is_some(), "{error:?}");
    assert_eq!(held(&desk).await, "1 | one");
    desk.db
        .execute("ALTER TABLE tenants DETACH PARTITION later")
        .await;
    desk.db
        .execute("UPDATE later SET name = 'on its own'")
        .await;
}

#[tokio::test]
async fn shard_and_key_columns() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE TABLE tenants (tenant int, id int UNIQUE, name text, PRIMARY KEY (tenant, id))",
        )
        .await;
    let map = map(&desk, "tenants", "name", ", shard_column => 'tenant'").await;
    desk.db
        .execute("INSERT INTO tenants VALUES (7, 1, 'one'), (8, 2, 'two')")
        .await;
    assert_eq!(held(&desk).await, "1 | one\n2 | two");
    let sql = "SELECT shard_key || '/' || record_key FROM crm.ledger WHERE map_id = $1 ORDER BY 1";
    assert_eq!(desk.db.all::<String>(sql, &[&map]).await, ["7/1", "8/2"]);
}

#[tokio::test]
async fn generated_columns() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            "CREATE TABLE pairs (id int PRIMARY KEY, a text, b text,
                                 name text GENERATED ALWAYS AS (coalesce(a, '') || '-' || coalesce(b, '')) STORED)",
        )
        .await;
    map(&desk, "pairs", "name", "").await;
    desk.db
        .execute("INSERT INTO pairs VALUES (1, 'a', 'b')")
        .await;
    desk.db.execute("UPDATE pairs SET b = 'c'").await;
    assert_eq!(held(&desk).await, "1 | a-c");
}

#[tokio::test]
async fn quoted_and_foreign_names() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.db
        .execute(
            r#"CREATE SCHEMA "Ünï ""schema""";
               CREATE TABLE "Ünï ""schema"""."Kunde's $tabelle$" ("Schlüssel %s" uuid PRIMARY KEY, "Näme ""x""\" text)"#,
        )
        .await;
    map(
        &desk,
        r#""Ünï ""schema"""."Kunde''s $tabelle$""#,
        r#"Näme "x"\"#,
        "",
    )
    .await;
    let key = "11111111-2222-3333-4444-555555555555";
    desk.db
        .execute(&format!(
            r#"INSERT INTO "Ünï ""schema"""."Kunde's $tabelle$" VALUES ('{key}', 'vorher');
               UPDATE "Ünï ""schema"""."Kunde's $tabelle$" SET "Näme ""x""\" = 'Größe 名前 🦀'"#
        ))
        .await;
    assert_eq!(held(&desk).await, format!("{key} | Größe 名前 🦀"));
}

#[tokio::test]
async fn row_security_and_rights_of_the_application() {
    let db = CLUSTER.database().await;
    let crm = Crm::connect(&db, Vendor::Stub).await;
    let (owner, app) = (format!("{}_owner", db.name), format!("{}_app", db.name));
    db.execute(&format!(
        "CREATE ROLE {owner}; CREATE ROLE {app};
         CREATE SCHEMA shop AUTHORIZATION {owner}; GRANT USAGE ON SCHEMA shop TO {app};
         SET ROLE {owner};
         CREATE TABLE shop.people (id text PRIMARY KEY, first_name text, last_name text, email text, phone text,
                                   seller text DEFAULT current_user);
         ALTER TABLE shop.people ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON shop.people TO {app} USING (seller = current_user);
         GRANT SELECT, INSERT, UPDATE, DELETE ON shop.people TO {app};
         RESET ROLE"
    ))
    .await;
    map_people(
        &db,
        Vendor::Stub,
        "shop.people",
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    db.execute(&format!(
        "SET ROLE {owner};
         INSERT INTO shop.people (id, last_name) VALUES ('theirs', 'Before');
         SET ROLE {app};
         INSERT INTO shop.people (id, last_name) VALUES ('mine', 'Before'), ('gone', 'Before');
         UPDATE shop.people SET last_name = 'After';
         DELETE FROM shop.people WHERE id = 'gone';
         RESET ROLE"
    ))
    .await;
    db.drain().await;
    db.assert_checked().await;
    let names = "SELECT fields->>'external_key', fields->>'last_name' FROM crm_stub.records
                 WHERE NOT deleted ORDER BY 1";
    assert_eq!(db.text(names).await, "mine | After\ntheirs | Before");
    drop(crm);
    let denied = db
        .error(&format!("SET ROLE {app}; SELECT * FROM crm.credential"))
        .await;
    assert_eq!(denied.code().code(), "42501", "{denied:?}");
    db.execute("RESET ROLE").await;
}

/// Policies that are forced on the owner hide rows from the worker, who reads as the owner. Hidden
/// is not deleted.
#[tokio::test]
async fn rows_hidden_from_their_owner_are_not_lost_silently() {
    let desk = Desk::open_with(
        &CLUSTER,
        Vendor::Stub,
        "on_insert => 'create', on_delete => 'delete'",
    )
    .await;
    let ids = desk.link(3).await;
    let owner = format!("{}_owner", desk.db.name);
    desk.db
        .execute(&format!(
            "CREATE ROLE {owner}; ALTER TABLE people OWNER TO {owner};
             ALTER TABLE people ENABLE ROW LEVEL SECURITY; ALTER TABLE people FORCE ROW LEVEL SECURITY;
             CREATE POLICY visible ON people USING (id <> 'p2');
             UPDATE people SET phone = 'new'"
        ))
        .await;
    desk.db.flush().await;
    desk.db.assert_checked().await;
    assert!(
        desk.crm
            .record(&desk.db, "contact", &ids[1])
            .await
            .is_some(),
        "p2 was deleted"
    );
    let arrived = desk.field("p2", "phone").await == "new";
    let waits = desk.db.dirty().await > 0 || desk.db.count("crm.dead_letters").await > 0;
    assert!(arrived || waits, "the edit of p2 is nowhere");
}

#[tokio::test]
async fn a_trigger_of_the_owner_never_runs_with_more_rights() {
    let desk = Desk::open_with(&CLUSTER, Vendor::Stub, "on_insert => 'create'").await;
    let owner = format!("{}_owner", desk.db.name);
    desk.db
        .execute(&format!(
            "CREATE ROLE {owner}; GRANT CREATE ON SCHEMA public TO {owner};
             CREATE TABLE witnesses (who text); GRANT INSERT ON witnesses TO PUBLIC;
             CREATE FUNCTION shout(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
                BEGIN INSERT INTO public.witnesses VALUES (current_user); RETURN to_jsonb(upper(value #>> '{{}}')); END $$;
             ALTER TABLE people OWNER TO {owner};
             SELECT crm.map_field({map}, 'title', 'x_title', direction => 'outbound',
                                  transform_out => 'shout(jsonb)')",
            map = desk.map
        ))
        .await;
    desk.db
        .execute("INSERT INTO people (id, last_name, title) VALUES ('p1', 'One', 'boss')")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "BOSS");
    let others = format!("witnesses WHERE who <> '{owner}'");
    assert_eq!(
        desk.db.count(&others).await,
        0,
        "{}",
        desk.db.text("SELECT * FROM witnesses").await
    );
}
