//! Which row a CRM record goes with.

use crm_suites::{Live, Vendor, eventually, json};
use serde_json::{Map, Value};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    a_record_finds_its_row_by_the_key_that_it_carries,
    a_record_without_a_row_gets_one,
    a_row_that_was_deleted_here_does_not_come_back,
    a_second_record_that_claims_a_row_is_a_conflict,
    a_record_that_claimed_a_row_gets_one_once_that_is_gone,
    an_operator_decides_whose_row_it_is,
    what_the_table_refuses_keeps_nobody_from_coming_in,
    a_key_that_the_table_cannot_hold_belongs_to_no_row,
    a_record_finds_its_row_by_the_key_that_the_crm_made_of_it,
);

/// A person as somebody made it in the CRM.
pub fn person(name: &str) -> Map<String, Value> {
    let fields = json!({"first_name": "New", "last_name": name, "email": format!("{name}@c.example"), "phone": "+2"});
    fields.as_object().unwrap().clone()
}

pub async fn made_in_crm(live: &Live, person: Map<String, Value>) -> String {
    let people = live.crm.vendor.people();
    live.crm.create(&live.db, people, &[person]).await.remove(0)
}

async fn inserting(vendor: Vendor) -> Live {
    let live = Live::with(
        &CLUSTER,
        vendor,
        "on_insert => 'create', on_crm_insert => 'insert'",
        "",
    )
    .await;
    live.db
        .execute("ALTER TABLE people ALTER id SET DEFAULT gen_random_uuid()::text")
        .await;
    live
}

async fn a_record_finds_its_row_by_the_key_that_it_carries(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let mut ada = person("Ada");
    ada.insert("id".into(), "a1".into());
    let id = made_in_crm(&live, ada).await;
    let mut stranger = person("Stranger");
    stranger.insert("id".into(), "nobody".into());
    made_in_crm(&live, stranger).await;
    made_in_crm(&live, person("Keyless")).await;
    live.db
        .execute("INSERT INTO people (id, last_name) VALUES ('a1', 'Ada'), ('a2', 'Other')")
        .await;
    live.ingest().await;
    assert_eq!(live.crm_id("a1").await, Some(id));
    assert_eq!(live.crm_id("a2").await, None);
    live.assert_both("a1", "phone", "+2").await;
    assert_eq!(live.db.count("people").await, 2);
    assert_eq!(
        live.db
            .one::<i64>("SELECT ignored FROM crm.ingest_state", &[])
            .await,
        2
    );
    // Linked, it is edited like any other.
    live.db
        .execute("UPDATE people SET phone = '+3' WHERE id = 'a1'")
        .await;
    live.quiet().await;
    live.assert_both("a1", "phone", "+3").await;
    live.db.assert_checked().await;
}

async fn a_record_without_a_row_gets_one(vendor: Vendor) {
    let live = inserting(vendor).await;
    let mut keyed = person("Keyed");
    keyed.insert("id".into(), "k1".into());
    let keyed = made_in_crm(&live, keyed).await;
    let ids = [
        made_in_crm(&live, person("One")).await,
        made_in_crm(&live, person("Two")).await,
    ];
    live.ingest().await;
    assert_eq!(live.crm_id("k1").await, Some(keyed));
    assert_eq!(live.db.count("people").await, 3);
    // The key goes back to the CRM, so that both sides hold the pair.
    assert!(live.db.flush().await);
    live.agree().await;
    for id in &ids {
        let sql = "SELECT record_key FROM crm.ledger WHERE crm_id = $1";
        let key: String = live.db.one(sql, &[id]).await;
        let record = live
            .crm
            .record(&live.db, vendor.people(), id)
            .await
            .unwrap();
        assert_eq!(record[vendor.field("id")], key);
    }
    // Nothing of it comes back.
    let rows = live.audit_rows().await;
    live.ingest().await;
    live.nothing_goes_out().await;
    assert_eq!(live.audit_rows().await, rows);
    live.agree().await;
}

async fn a_row_that_was_deleted_here_does_not_come_back(vendor: Vendor) {
    for on_delete in ["ignore", "unlink"] {
        let arguments = format!("on_crm_insert => 'insert', on_delete => '{on_delete}'");
        let live = Live::with(&CLUSTER, vendor, &arguments, "").await;
        let ids = live.people(2).await;
        live.ingest().await;
        live.db.execute("DELETE FROM people WHERE id = 'p1'").await;
        assert!(live.db.flush().await);
        let edit = json!({"phone": "still here"});
        live.crm
            .edit(&live.db, vendor.people(), &ids[0], &edit)
            .await;
        live.ingest().await;
        live.ingest().await;
        assert_eq!(live.db.count("people").await, 1, "{on_delete}");
        live.nothing_goes_out().await;
    }
}

async fn a_second_record_that_claims_a_row_is_a_conflict(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.people(1).await;
    live.ingest().await;
    // The CRM keeps keys unique, so the first one has lost its own.
    let id = live.crm_id("p1").await.unwrap();
    let twin = twin_of(&live, &id).await;
    live.ingest().await;
    live.ingest().await;
    assert_eq!(live.crm_id("p1").await, Some(id.clone()));
    let conflict = live
        .db
        .text("SELECT conflict_type || ' ' || record_key || ' ' || (local_value #>> '{}') || ' ' || (crm_value #>> '{}') FROM crm.conflicts")
        .await;
    assert_eq!(conflict, format!("duplicate_identity p1 {id} {twin}"));
    assert_eq!(live.cell("p1", "phone").await, "+1");
    live.nothing_goes_out().await;
}

async fn a_record_that_claimed_a_row_gets_one_once_that_is_gone(vendor: Vendor) {
    let arguments = "on_insert => 'ignore', on_crm_insert => 'insert', on_crm_delete => 'delete'";
    let live = Live::with(&CLUSTER, vendor, arguments, "").await;
    live.people(1).await;
    live.ingest().await;
    let id = live.crm_id("p1").await.unwrap();
    let twin = twin_of(&live, &id).await;
    live.ingest().await;
    assert_eq!(live.db.count("crm.conflicts").await, 1);
    live.crm.delete(&live.db, vendor.people(), &id).await;
    // A pass may have begun before the record was deleted.
    eventually("the record has the row", async || {
        live.ingest().await;
        (live.crm_id("p1").await.as_ref() == Some(&twin)).then_some(())
    })
    .await;
    assert_eq!(live.cell("p1", "last_name").await, "Twin");
    assert_eq!(live.db.count("people").await, 1);
    assert_eq!(live.db.count("crm.conflicts").await, 0);
    live.agree().await;
}

/// Another record with the key of this one.
async fn twin_of(live: &Live, id: &str) -> String {
    let people = live.crm.vendor.people();
    live.crm
        .edit(&live.db, people, id, &json!({"id": null}))
        .await;
    let mut twin = person("Twin");
    twin.insert("id".into(), "p1".into());
    made_in_crm(live, twin).await
}

async fn an_operator_decides_whose_row_it_is(vendor: Vendor) {
    for winner in ["local", "crm"] {
        let live = Live::open(&CLUSTER, vendor).await;
        live.people(1).await;
        let id = live.crm_id("p1").await.unwrap();
        let twin = twin_of(&live, &id).await;
        live.ingest().await;
        let resolve = "SELECT crm.resolve_conflict(conflict_id, $1) FROM crm.conflicts";
        live.db.rows(resolve, &[&winner]).await;
        live.ingest().await;
        assert_eq!(live.db.count("crm.conflicts").await, 0);
        let linked = if winner == "crm" { &twin } else { &id };
        assert_eq!(live.crm_id("p1").await.as_ref(), Some(linked));
        let phone = if winner == "crm" { "+2" } else { "+1" };
        assert_eq!(live.cell("p1", "phone").await, phone);
        // The other one may change as it likes.
        let other = if winner == "crm" { &id } else { &twin };
        live.crm
            .edit(&live.db, vendor.people(), other, &json!({"phone": "+9"}))
            .await;
        live.ingest().await;
        assert_eq!(live.db.count("crm.conflicts").await, 0);
        assert_eq!(live.cell("p1", "phone").await, phone);
    }
}

async fn what_the_table_refuses_keeps_nobody_from_coming_in(vendor: Vendor) {
    let live = inserting(vendor).await;
    live.people(3).await;
    live.db
        .execute("ALTER TABLE people ADD CONSTRAINT short CHECK (length(phone) < 6)")
        .await;
    live.edit_in_crm("p1", json!({"phone": "+1 23"})).await;
    live.edit_in_crm("p2", json!({"phone": "much too long"}))
        .await;
    let mut bad = person("Bad");
    bad.insert("phone".into(), "too long as well".into());
    let bad = made_in_crm(&live, bad).await;
    let good = made_in_crm(&live, person("Good")).await;
    live.ingest().await;
    live.assert_both("p1", "phone", "+1 23").await;
    assert_eq!(live.cell("p2", "phone").await, "+1");
    let linked = "SELECT count(*) FROM crm.ledger WHERE crm_id = $1";
    assert_eq!(live.db.one::<i64>(linked, &[&good]).await, 1);
    assert_eq!(live.db.one::<i64>(linked, &[&bad]).await, 0);
    let dead: Vec<String> = live
        .db
        .all("SELECT path || ' ' || record_key || ' ' || error FROM crm.dead_letters ORDER BY record_key = 'p2' DESC", &[])
        .await;
    assert_eq!(dead.len(), 2);
    assert!(
        dead[0].starts_with("ingest p2 ") && dead[0].contains("short"),
        "{dead:?}"
    );
    let said = live.db.text("SELECT last_error FROM crm.status_wide").await;
    assert!(said.contains("short"), "{said}");
    // Mended, they come in.
    live.db
        .execute("ALTER TABLE people DROP CONSTRAINT short")
        .await;
    assert_eq!(live.db.one::<i64>("SELECT crm.replay_all()", &[]).await, 2);
    live.ingest().await;
    assert_eq!(live.db.count("crm.dead_letters").await, 0);
    assert!(live.db.flush().await);
    live.agree().await;
}

async fn a_key_that_the_table_cannot_hold_belongs_to_no_row(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.db
        .execute(&format!(
            "CREATE TABLE numbered (id int PRIMARY KEY, last_name text);
             INSERT INTO numbered VALUES (7, 'Seven');
             SELECT crm.unmap_object({4});
             SELECT crm.map_field(crm.map_object('{0}', 'numbered', '{1}', external_id_field => '{2}'), 'last_name', '{3}')",
            vendor.name(), vendor.people(), vendor.field("id"), vendor.field("last_name"), live.map
        ))
        .await;
    for key in ["seven", "99999999999999999999", "7"] {
        let mut person = person(&format!("Key{key}"));
        person.insert("id".into(), key.into());
        made_in_crm(&live, person).await;
    }
    live.ingest().await;
    assert_eq!(live.db.text("SELECT last_name FROM numbered").await, "Key7");
}

/// The CRM keeps a key without what is blank around it, and nobody heard that it made the record.
async fn a_record_finds_its_row_by_the_key_that_the_crm_made_of_it(vendor: Vendor) {
    let live = inserting(vendor).await;
    let people = vendor.people();
    live.crm
        .fail(&live.db, "create", "drop_after_apply", 1)
        .await;
    live.db
        .execute("INSERT INTO people (id, last_name, phone) VALUES (' Padded ', 'Ada', '+1')")
        .await;
    let _: bool = live.db.one("SELECT crm.flush(timeout => '1 s')", &[]).await;
    eventually("the CRM has it", async || {
        let made = live.crm.records(&live.db, people).await.len();
        (made == 1).then_some(())
    })
    .await;
    live.ingest().await;
    assert!(live.db.flush().await);
    live.ingest().await;
    assert_eq!(live.db.count("people").await, 1);
    assert_eq!(live.crm.records(&live.db, people).await.len(), 1);
    assert!(live.crm_id(" Padded ").await.is_some());
    live.agree().await;
}
