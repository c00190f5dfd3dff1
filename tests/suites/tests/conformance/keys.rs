//! Keys that a CRM takes for one, or that are hard to carry: a record is its row's own, and what
//! cannot have one is said before anything is sent.

use crm_suites::{Contestant, Desk, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    keys_that_are_one_for_the_crm_make_one_record,
    of_several_at_once_one_goes,
    a_blank_key_is_not_sent,
    a_key_without_room_is_not_sent,
    a_key_that_another_rows_record_carries_is_not_sent,
    odd_keys,
    a_record_has_one_link_however_its_id_is_spelt,
);

async fn insert(desk: &Desk, people: &[(&str, &str)]) {
    let (keys, names): (Vec<&str>, Vec<&str>) = people.iter().copied().unzip();
    let sql = "INSERT INTO people (id, last_name) SELECT * FROM unnest($1::text[], $2::text[])";
    desk.db.rows(sql, &[&keys, &names]).await;
}

/// The names that the CRM holds.
async fn held(desk: &Desk) -> String {
    let name = desk.crm.vendor.field("last_name");
    let records = desk.crm.records(&desk.db, desk.crm.vendor.people()).await;
    let mut names: Vec<String> = records
        .values()
        .map(|fields| fields[name].as_str().unwrap_or_default().to_owned())
        .collect();
    names.sort();
    names.join(", ")
}

async fn dead(desk: &Desk) -> Vec<String> {
    let sql =
        "SELECT format('[%s] %s %s', record_key, error_class, vendor_code) FROM crm.dead_letters";
    let mut dead: Vec<String> = desk.db.all(sql, &[]).await;
    dead.sort();
    dead
}

/// Which of these texts the CRM keeps apart from the one before: the stub is case sensitive.
fn is_case_sensitive(desk: &Desk) -> bool {
    desk.crm.vendor == Vendor::Stub
}

async fn keys_that_are_one_for_the_crm_make_one_record(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    insert(&desk, &[("xyz", "Ada"), ("pad", "Grace")]).await;
    desk.db.drain().await;
    desk.crm.forget(&desk.db).await;
    insert(&desk, &[("pad ", "Eve")]).await;
    if !is_case_sensitive(&desk) {
        insert(&desk, &[("XYZ", "Mallory"), ("\u{a0}Xyz\n", "Trudy")]).await;
    }
    desk.db.flush().await;
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    let claimants: &[&str] = match is_case_sensitive(&desk) {
        true => &["pad "],
        false => &["XYZ", "pad ", "\u{a0}Xyz\n"],
    };
    let claimants = claimants
        .iter()
        .map(|key| format!("[{key}] conflict duplicate_identity"));
    assert_eq!(dead(&desk).await, claimants.collect::<Vec<_>>());
    let told: String = desk
        .db
        .one(
            "SELECT error FROM crm.dead_letters WHERE record_key = 'pad '",
            &[],
        )
        .await;
    let id = desk.crm_id("pad").await.unwrap_or_default();
    assert!(told.contains("\"pad\"") && told.contains(&id), "{told}");
    // Neither an edit nor a replay of theirs gets through.
    desk.db
        .execute("UPDATE people SET last_name = last_name || '!' WHERE id NOT IN ('xyz', 'pad'); SELECT crm.replay_all()")
        .await;
    desk.db.flush().await;
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    // The others go on as ever, and nothing of the claimants comes to them from the CRM.
    desk.db
        .execute("UPDATE people SET first_name = 'first' WHERE id IN ('xyz', 'pad')")
        .await;
    desk.db.flush().await;
    desk.ingest().await;
    assert_eq!(held(&desk).await, "Ada, Grace");
    let rows = "SELECT last_name FROM people WHERE id IN ('xyz', 'pad') ORDER BY 1";
    assert_eq!(desk.db.text(rows).await, "Ada\nGrace");
    desk.db.assert_checked().await;
}

async fn of_several_at_once_one_goes(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    insert(
        &desk,
        &[("one", "A"), ("one ", "A"), ("\tone", "A"), ("two", "B")],
    )
    .await;
    desk.db.flush().await;
    if !is_case_sensitive(&desk) {
        insert(&desk, &[("ÄÖ", "C"), ("äö", "C"), ("Äö ", "C")]).await;
        desk.db.flush().await;
        assert_eq!(held(&desk).await, "A, B, C");
        assert_eq!(desk.db.count("crm.dead_letters").await, 4);
    } else {
        insert(&desk, &[("ÄÖ", "C"), ("äö", "D")]).await;
        desk.db.flush().await;
        assert_eq!(held(&desk).await, "A, B, C, D");
        assert_eq!(desk.db.count("crm.dead_letters").await, 2);
    }
    // The key with a tab is none that Dataverse takes, so it is the next one's record.
    let others =
        "SELECT record_key FROM crm.dead_letters WHERE vendor_code <> 'duplicate_identity'";
    let barred: &[&str] = match desk.crm.vendor {
        Vendor::Dynamics365 => &["\tone"],
        _ => &[],
    };
    assert_eq!(desk.db.all::<String>(others, &[]).await, barred);
    desk.db.assert_checked().await;
}

async fn a_blank_key_is_not_sent(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    desk.crm.forget(&desk.db).await;
    insert(&desk, &[("", "A"), (" \u{3000}\t", "B")]).await;
    desk.db.flush().await;
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    let blank = ["[ \u{3000}\t] mapping blank_key", "[] mapping blank_key"];
    assert_eq!(dead(&desk).await, blank);
    desk.db.assert_checked().await;
}

/// Where the CRM says how much room there is.
async fn a_key_without_room_is_not_sent(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    let vendor = desk.crm.vendor;
    let room = "SELECT coalesce(max(max_length), 0) FROM crm.describe($1, $2) WHERE name = $3";
    let args: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&vendor.name(), &vendor.people(), &vendor.field("id")];
    let room = desk.db.one::<i32>(room, &args).await as usize;
    if room == 0 {
        return;
    }
    desk.crm.forget(&desk.db).await;
    let long = "x".repeat(room - 1) + "😀";
    insert(&desk, &[(&long, "Long")]).await;
    desk.db.flush().await;
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    assert_eq!(
        dead(&desk).await,
        [format!("[{long}] mapping key_too_long")]
    );
    let long = "x".repeat(room - 2) + "😀";
    insert(&desk, &[(&long, "As long as may be")]).await;
    desk.db.flush().await;
    assert_eq!(held(&desk).await, "As long as may be");
}

/// A record that is linked to another row holds the key, and we know of it from the CRM alone.
async fn a_key_that_another_rows_record_carries_is_not_sent(contestant: Contestant) {
    let people = contestant.vendor.people();
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    let theirs = json!({"id": "theirs", "last_name": "Theirs"});
    let theirs = [theirs.as_object().cloned().unwrap_or_default()];
    let ids = desk.crm.create(&desk.db, people, &theirs).await;
    desk.db
        .execute("ALTER TABLE people DISABLE TRIGGER USER; INSERT INTO people (id, last_name) VALUES ('ours', 'Theirs');
                  ALTER TABLE people ENABLE TRIGGER USER")
        .await;
    desk.db
        .rows(
            "SELECT crm.link($1, 'ours', $2, write_key => false)",
            &[&desk.map, &ids[0]],
        )
        .await;
    let read: i64 = desk.db.one("SELECT crm.backfill($1)", &[&desk.map]).await;
    assert_eq!(read, 1);
    desk.crm.forget(&desk.db).await;
    insert(&desk, &[("theirs", "Mallory")]).await;
    desk.db.flush().await;
    assert_eq!(desk.crm.asked(&desk.db).await, Vec::<String>::new());
    assert_eq!(dead(&desk).await, ["[theirs] conflict duplicate_identity"]);
    assert_eq!(held(&desk).await, "Theirs");
    // Once its record carries another key, this one is free.
    let key = json!({"id": "another"});
    desk.crm.pass_time();
    desk.crm.edit(&desk.db, people, &ids[0], &key).await;
    desk.ingest().await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.db.flush().await;
    assert_eq!(held(&desk).await, "Mallory, Theirs");
    desk.db.assert_checked().await;
}

/// Keys that an URL, a query, a CSV file or JSON has to quote.
async fn odd_keys(contestant: Contestant) {
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'create'").await;
    let keys = [
        "a b",
        "a+b",
        "a%20b",
        "a/b",
        "a?b&c=d#e",
        "it's",
        "say \"so\"",
        "back\\slash",
        "a,b;c",
        "line\nbreak",
        "tab\tbed",
        "\u{1}control\u{7f}",
        "Ünï",
        "smile 😀",
        "<a>&amp;",
        "$filter",
        "(1)",
        "null",
        "#N/A",
        "=1+1",
        "00012",
        "1e3",
        "%",
        "*",
    ];
    // In a key, Dataverse's servers let none of these pass, encoded or not.
    let is_barred = |key: &str| {
        let is_dataverse = desk.crm.vendor == Vendor::Dynamics365;
        let is_control = key.chars().any(char::is_control);
        let barred = ['/', '<', '>', '*', '%', '&', ':', '\\', '?', '+', '#'];
        is_dataverse && (is_control || key.contains(barred))
    };
    for (n, key) in keys.iter().enumerate().filter(|(_, key)| !is_barred(key)) {
        insert(&desk, &[(key, &format!("Name {n}"))]).await;
    }
    desk.settle().await;
    desk.db.execute("UPDATE people SET phone = '1'").await;
    desk.settle().await;
    desk.ingest().await;
    assert_eq!(dead(&desk).await, Vec::<String>::new());
    // What the CRM made is found again by its key, should the answer be lost.
    desk.crm
        .fail(&desk.db, "creates", "drop_after_apply", 1)
        .await;
    insert(&desk, &[("again \"1\",", "A"), ("again '2' ü", "B")]).await;
    desk.settle().await;
}

/// An id is linked in the vendor's own spelling, or not at all.
async fn a_record_has_one_link_however_its_id_is_spelt(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open_with(&CLUSTER, contestant, "on_insert => 'ignore'").await;
    let ids = desk.link(1).await;
    insert(&desk, &[("other", "Other")]).await;
    let id = &ids[0];
    let (taken, invalid) = ("23505", "22023");
    let spellings = match vendor {
        Vendor::Stub => vec![(id.clone(), taken)],
        Vendor::Salesforce => vec![
            (id[..15].to_owned(), taken),
            (id.to_lowercase(), taken),
            (id.to_uppercase(), taken),
            (format!(" {id}"), invalid),
        ],
        Vendor::Dynamics365 => vec![
            (vendor.respelt(id), taken),
            (id.to_uppercase(), taken),
            (id.replace('-', ""), invalid),
        ],
        Vendor::HubSpot | Vendor::Pipedrive | Vendor::Zoho => vec![
            (id.clone(), taken),
            (format!("0{id}"), invalid),
            (format!("000{id}"), invalid),
            (format!("+{id}"), invalid),
            (format!("{id} "), invalid),
            (format!("{id}.0"), invalid),
        ],
    };
    for (spelling, code) in spellings {
        let sql = format!("SELECT crm.link({}, 'other', '{spelling}')", desk.map);
        let error = desk.db.error(&sql).await;
        assert_eq!(error.code().code(), code, "{spelling}: {error}");
    }
    assert_eq!(desk.crm_id("other").await, None);
    assert_eq!(desk.crm_id("p1").await.as_ref(), Some(id));
    desk.db.assert_checked().await;
}
