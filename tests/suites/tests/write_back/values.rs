//! Values of every type arrive as the vendor stores them, nulls and odd characters among them.

use crm_suites::{Desk, Json, Vendor, json};

use crate::CLUSTER;

crm_suites::with_every_crm!(every_type_arrives_and_can_be_cleared, text_arrives_as_it_is);

/// A column, how it is mapped, its value in SQL, and what each CRM then shows.
type Case = (&'static str, &'static str, &'static str, [Json; 4]);

fn cases(vendor: Vendor) -> Vec<Case> {
    let (interests, source) = match vendor {
        Vendor::HubSpot => ("ARRAY['data', 'cloud']", "'NEW'"),
        // Options by their ids.
        Vendor::Pipedrive => ("ARRAY['2', '1']", "'1'"),
        _ => ("ARRAY['Data', 'Cloud']", "'Web'"),
    };
    let seen = "timestamptz '2026-03-04 05:06:07.089+02'";
    vec![
        (
            "title",
            "",
            "'Boss'",
            [json!("Boss"), json!("Boss"), json!("Boss"), json!("Boss")],
        ),
        (
            "score",
            "",
            "12.50",
            [json!(12.5), json!(12.5), json!("12.5"), json!(12.5)],
        ),
        (
            "born",
            "",
            "date '2001-02-03'",
            [
                json!("2001-02-03"),
                json!("2001-02-03"),
                json!("2001-02-03"),
                json!("2001-02-03"),
            ],
        ),
        (
            "seen",
            "",
            seen,
            [
                json!("2026-03-04T03:06:07.089Z"),
                json!("2026-03-04T03:06:07.000+0000"),
                json!("2026-03-04T03:06:07.089Z"),
                json!("2026-03-04T03:06:07Z"),
            ],
        ),
        (
            "opted_out",
            "",
            "true",
            [json!(true), json!(true), json!("true"), json!(true)],
        ),
        (
            "interests",
            "data_type => 'multi_choice'",
            interests,
            [
                json!(["Cloud", "Data"]),
                json!("Cloud;Data"),
                json!("cloud;data"),
                json!([1, 2]),
            ],
        ),
        (
            "source",
            "data_type => 'choice'",
            source,
            [json!("Web"), json!("Web"), json!("NEW"), json!(1)],
        ),
        (
            "extra",
            "",
            r#"'{"b": [1, null], "a": 1.0}'"#,
            [
                json!({"a": 1, "b": [1, null]}),
                json!(r#"{"a":1,"b":[1,null]}"#),
                json!(r#"{"a":1,"b":[1,null]}"#),
                json!(r#"{"a":1,"b":[1,null]}"#),
            ],
        ),
    ]
}

async fn every_type_arrives_and_can_be_cleared(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
    let cases = cases(vendor);
    for (column, arguments, ..) in &cases {
        desk.map_field(column, arguments).await;
    }
    desk.link(2).await;
    for (column, _, value, _) in &cases {
        desk.db
            .execute(&format!("UPDATE people SET {column} = {value}"))
            .await;
    }
    desk.settle().await;
    let record = desk.record("p2").await;
    for (column, _, _, shown) in &cases {
        let field = vendor.field(column);
        let held = record.get(field).cloned().unwrap_or_default();
        assert!(
            same(&held, &shown[vendor as usize]),
            "{field}: {held}, not {}",
            shown[vendor as usize]
        );
    }
    // Writing the same again is no change.
    let before = desk.audit_rows().await;
    for (column, _, value, _) in &cases {
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
        // A Salesforce checkbox is never empty.
        assert!(
            matches!(held, Json::Null | Json::Bool(false)),
            "{column}: {held}"
        );
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

/// Also: apostrophes doubled on the way (DESIGN 14).
async fn text_arrives_as_it_is(vendor: Vendor) {
    let desk = Desk::open(&CLUSTER, vendor).await;
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
