//! Values of every type: as the table writes them, whichever side they come from.

use crm_suites::{Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(
    every_type_goes_there_and_comes_back_in_the_tables_own,
    values_go_through_their_transforms,
);
crm_suites::with_more_crms!(
    every_type_goes_there_and_comes_back_in_the_tables_own,
    values_go_through_their_transforms,
);

/// A column, how it is mapped, and two values as the table's own types write them.
fn columns(vendor: Vendor) -> Vec<(&'static str, &'static str, Json, Json)> {
    let (both, one, source, other) = match vendor {
        Vendor::HubSpot => (json!(["cloud", "data"]), json!(["data"]), "NEW", "OPEN"),
        // Options by their ids.
        Vendor::Pipedrive | Vendor::Dynamics365 => (json!(["1", "2"]), json!(["2"]), "1", "3"),
        _ => (json!(["Cloud", "Data"]), json!(["Data"]), "Web", "Other"),
    };
    vec![
        ("title", "", json!("Boss"), json!("O'Brien \\ \"x\" 名前")),
        ("score", "", json!(12.50), json!(-3)),
        ("born", "", json!("2001-02-03"), json!("1999-12-31")),
        (
            "seen",
            "",
            json!("2026-03-04T03:06:07+00:00"),
            json!("2027-01-01T00:00:00+00:00"),
        ),
        ("opted_out", "", json!(true), json!(false)),
        ("interests", "data_type => 'multi_choice'", both, one),
        (
            "source",
            "data_type => 'choice'",
            json!(source),
            json!(other),
        ),
        ("extra", "", json!({"a": 1, "b": [1, null]}), json!([1, 2])),
    ]
}

async fn every_type_goes_there_and_comes_back_in_the_tables_own(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    let columns = columns(vendor);
    for (column, arguments, ..) in &columns {
        live.map_field(column, arguments).await;
    }
    live.link(2).await;
    live.db.execute("SET timezone = 'UTC'").await;
    let all = |second: bool| -> Json {
        let named = columns.iter().map(|(column, _, a, b)| {
            (
                (*column).to_owned(),
                if second { b.clone() } else { a.clone() },
            )
        });
        Json::Object(named.collect())
    };
    let row = "SELECT to_jsonb(p) FROM people p WHERE id = 'p1'";
    let held = async || -> Json {
        let row: Json = live.db.one(row, &[]).await;
        let named = columns
            .iter()
            .map(|(column, ..)| ((*column).to_owned(), row[*column].clone()));
        Json::Object(named.collect())
    };
    let same = async |a: &Json, b: &Json| -> bool {
        // As the table compares them.
        let sql = "SELECT jsonb_populate_record(NULL::people, $1) IS NOT DISTINCT FROM jsonb_populate_record(NULL::people, $2)";
        live.db.one(sql, &[a, b]).await
    };
    let columns_of = |values: &Json| -> Json {
        let named = columns
            .iter()
            .map(|(column, ..)| ((*column).to_owned(), values[*column].clone()));
        Json::Object(named.collect())
    };

    let written = live.write("p1", all(false)).await.expect("committed");
    assert!(same(&held().await, &all(false)).await, "{}", held().await);
    assert!(
        same(&columns_of(&written.values), &all(false)).await,
        "{}",
        written.values
    );
    // What the table shows is a base as it is.
    let base = held().await;
    let more = format!("base => '{}'", base.to_string().replace('\'', "''"));
    let written = live
        .write_with("p1", all(true), &more)
        .await
        .expect("committed");
    assert!(
        same(&columns_of(&written.values), &all(true)).await,
        "{}",
        written.values
    );
    let again = live
        .write_with("p1", all(true), &more)
        .await
        .expect("conflict");
    assert!(
        same(&columns_of(&again.values), &all(true)).await,
        "{}",
        again.values
    );
    // What the CRM holds is what the table shows, field by field.
    let fresh: Json = live
        .db
        .one("SELECT crm.read_live('people', 'p1')", &[])
        .await;
    assert!(same(&columns_of(&fresh), &held().await).await, "{fresh}");
    for (column, _, first, _) in &columns {
        let base = format!(
            "base => jsonb_build_object('{column}', (SELECT to_jsonb(p) -> '{column}' FROM people p WHERE id = 'p1'))"
        );
        live.write_with("p1", json!({*column: first}), &base)
            .await
            .expect("committed");
    }
    // The same value in other words is no difference.
    for (column, words) in [
        ("score", json!("12.5000")),
        ("seen", json!("2026-03-04 05:06:07+02")),
    ] {
        let base = format!("base => '{}'", json!({column: words}));
        live.write_with("p1", json!({column: words}), &base)
            .await
            .expect("committed");
    }
    let nothing: serde_json::Map<String, Json> = columns
        .iter()
        .map(|(column, ..)| ((*column).to_owned(), Json::Null))
        .collect();
    let mut nothing = Json::Object(nothing);
    if matches!(vendor, Vendor::Salesforce | Vendor::Zoho) {
        // A checkbox of theirs is never empty.
        nothing["opted_out"] = json!(false);
    }
    let written = live.write("p1", nothing.clone()).await.expect("committed");
    assert!(
        same(&columns_of(&written.values), &nothing).await,
        "{}",
        written.values
    );
    live.write("p1", all(false)).await.expect("committed");
    // What the CRM has no room for makes no difference to the next edit.
    live.db
        .execute("UPDATE people SET seen = '2026-03-04 05:06:07.089Z', opted_out = NULL")
        .await;
    live.agree().await;
    live.db
        .execute("UPDATE people SET seen = '2026-03-05 05:06:07.123Z', opted_out = true")
        .await;
    live.agree().await;
    live.db.execute("UPDATE people SET opted_out = NULL").await;
    live.agree().await;
    live.write(
        "p1",
        json!({"opted_out": true, "seen": "2026-03-05T05:06:07.9Z"}),
    )
    .await
    .expect("committed");
    assert_eq!(
        live.db
            .count("crm.audit_log WHERE result = 'superseded'")
            .await,
        0
    );
}

async fn values_go_through_their_transforms(vendor: Vendor) {
    let live = Live::open(&CLUSTER, vendor).await;
    live.db
        .execute(
            "CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(upper($1 #>> '{}')) $$;
             CREATE FUNCTION calm(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(lower($1 #>> '{}')) $$",
        )
        .await;
    live.map_field(
        "title",
        "transform_out => 'shout(jsonb)', transform_in => 'calm(jsonb)'",
    )
    .await;
    live.people(1).await;
    let written = live
        .write("p1", json!({"title": "boss"}))
        .await
        .expect("committed");
    assert_eq!(
        written.values["title"], "boss",
        "by column, in the table's terms"
    );
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("boss"), json!("BOSS"))
    );
    let written = live
        .write_with(
            "p1",
            json!({"title": "chief"}),
            r#"base => '{"title": "boss"}'"#,
        )
        .await
        .expect("committed");
    assert_eq!(written.values["title"], "chief");
    live.edit_in_crm("p1", json!({"title": "CZAR"})).await;
    let written = live
        .write("p1", json!({"title": "tsar"}))
        .await
        .expect("conflict");
    assert_eq!(written.values["title"], "czar");
    let read: Json = live
        .db
        .one("SELECT crm.read_live('people', 'p1')", &[])
        .await;
    assert_eq!(read["title"], "czar");
    // A plain UPDATE that loses: the row takes what the CRM holds, through the transform.
    live.db.execute("UPDATE people SET title = 'mine'").await;
    live.agree().await;
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("czar"), json!("CZAR"))
    );
    // And one that was based on what is there.
    live.db.execute("UPDATE people SET title = 'mine'").await;
    live.agree().await;
    assert_eq!(
        (
            live.cell("p1", "title").await,
            live.field("p1", "title").await
        ),
        (json!("mine"), json!("MINE"))
    );
}
