//! Values of every type: they arrive as the vendor holds them, nulls and odd characters among them,
//! and come back as the table writes them.

use crm_suites::{Contestant, Desk, Json, Live, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_contestant!(
    every_type_arrives_and_can_be_cleared,
    text_arrives_as_it_is,
    every_type_goes_there_and_comes_back_in_the_tables_own,
    a_reference_goes_there_and_comes_back,
);

/// A column, how it is mapped, and its value in SQL.
fn cases(vendor: Vendor) -> Vec<(&'static str, &'static str, String)> {
    let [first, second] = vendor.facts().interests;
    let interests = format!("ARRAY['{second}', '{first}']");
    let source = format!("'{}'", vendor.facts().sources[0]);
    vec![
        ("title", "", "'Boss'".to_owned()),
        ("score", "", "12.50".to_owned()),
        ("born", "", "date '2001-02-03'".to_owned()),
        (
            "seen",
            "",
            "timestamptz '2026-03-04 05:06:07.089+02'".to_owned(),
        ),
        ("opted_out", "", "true".to_owned()),
        ("interests", "data_type => 'multi_choice'", interests),
        ("source", "data_type => 'choice'", source),
        ("extra", "", r#"'{"b": [1, null], "a": 1.0}'"#.to_owned()),
    ]
}

async fn every_type_arrives_and_can_be_cleared(contestant: Contestant) {
    let vendor = contestant.vendor;
    let desk = Desk::open(&CLUSTER, contestant).await;
    let cases = cases(vendor);
    for (column, arguments, ..) in &cases {
        desk.map_field(column, arguments).await;
    }
    desk.link(2).await;
    for (column, _, value) in &cases {
        desk.db
            .execute(&format!("UPDATE people SET {column} = {value}"))
            .await;
    }
    desk.settle().await;
    let record = desk.record("p2").await;
    for (column, shown) in vendor.facts().held {
        let field = vendor.field(column);
        let held = record.get(field).cloned().unwrap_or_default();
        let shown: Json = shown.parse().expect("JSON");
        assert!(same(&held, &shown), "{field}: {held}, not {shown}");
    }
    // Writing the same again is no change.
    let before = desk.audit_rows().await;
    for (column, _, value) in &cases {
        desk.db
            .execute(&format!("UPDATE people SET {column} = {value}"))
            .await;
    }
    desk.settle().await;
    assert_eq!(desk.audit_rows().await, before);
    for (column, ..) in &cases {
        desk.db
            .execute(&format!(
                "UPDATE people SET {column} = NULL WHERE id = 'p1'"
            ))
            .await;
    }
    desk.settle().await;
    let record = desk.record("p1").await;
    for (column, ..) in &cases {
        let held = record
            .get(vendor.field(column))
            .cloned()
            .unwrap_or_default();
        let empty = match held {
            Json::Bool(false) => vendor.facts().boolean_is_never_empty,
            _ => held.is_null(),
        };
        assert!(empty, "{column}: {held}");
    }
}

/// Numbers by their value, everything else as it is.
fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => a.as_f64() == b.as_f64(),
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, value)| b.get(name).is_some_and(|b| same(value, b)))
        }
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        _ => a == b,
    }
}

/// Also: apostrophes doubled on the way.
async fn text_arrives_as_it_is(contestant: Contestant) {
    let desk = Desk::open(&CLUSTER, contestant).await;
    desk.map_field("title", "").await;
    let texts = [
        "O'Brien",
        "it''s",
        r#"a "quoted", comma"#,
        r"back\slash \n %s $1",
        "Größe 名前 🦀",
        "<b>&amp;</b>",
        "#N/A",
        "null",
        "0012",
        "{}",
    ];
    desk.link(texts.len()).await;
    for (n, text) in texts.iter().enumerate() {
        let key = format!("p{}", n + 1);
        desk.db
            .rows("UPDATE people SET title = $1 WHERE id = $2", &[text, &key])
            .await;
    }
    desk.settle().await;
    for (n, text) in texts.iter().enumerate() {
        assert_eq!(desk.field(&format!("p{}", n + 1), "title").await, *text);
    }
}

/// A column, how it is mapped, and two values as the table's own types write them.
fn columns(vendor: Vendor) -> Vec<(&'static str, &'static str, Json, Json)> {
    let (interests, sources) = (vendor.facts().interests, vendor.facts().sources);
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
        (
            "interests",
            "data_type => 'multi_choice'",
            json!(interests),
            json!(interests[1..]),
        ),
        (
            "source",
            "data_type => 'choice'",
            json!(sources[0]),
            json!(sources[1]),
        ),
        ("extra", "", json!({"a": 1, "b": [1, null]}), json!([1, 2])),
    ]
}

async fn every_type_goes_there_and_comes_back_in_the_tables_own(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
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
    if vendor.facts().boolean_is_never_empty {
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

/// The id of another record of the CRM: both ways, exchanged and taken away.
async fn a_reference_goes_there_and_comes_back(contestant: Contestant) {
    let vendor = contestant.vendor;
    let live = Live::open(&CLUSTER, contestant).await;
    live.db
        .execute("ALTER TABLE people ADD employer text")
        .await;
    live.map_field("employer", "data_type => 'reference'").await;
    live.people(2).await;
    let firms = ["Acme", "Globex"].map(|name| json!({ "firm": name }));
    let firms: Vec<_> = firms.iter().filter_map(Json::as_object).cloned().collect();
    let made = live
        .crm
        .create(&live.db, vendor.facts().firms.object, &firms);
    let firms = made.await;
    let employer = async |key: &str| vendor.employer(&live.record(key).await);
    live.write("p1", json!({"employer": firms[0]}))
        .await
        .expect("committed");
    let hire = "UPDATE people SET employer = $1 WHERE id = 'p2'";
    live.db.rows(hire, &[&firms[1]]).await;
    live.agree().await;
    assert_eq!(employer("p1").await.as_ref(), Some(&firms[0]));
    assert_eq!(employer("p2").await.as_ref(), Some(&firms[1]));
    live.edit_in_crm("p1", json!({"employer": firms[1]})).await;
    live.ingest().await;
    assert_eq!(live.cell("p1", "employer").await, json!(firms[1]));
    live.write("p1", json!({"employer": null}))
        .await
        .expect("committed");
    assert_eq!(employer("p1").await, None);
    live.agree().await;
}
