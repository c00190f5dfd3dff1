//! Values that no CRM, or no column, can hold are refused in a few words, before anything changes.

use crm_suites::{Live, Vendor, eventually, json};

use crate::CLUSTER;

#[tokio::test]
async fn a_value_of_ones_own_that_no_crm_holds_resolves_no_conflict() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE numeric")
        .await;
    live.map_field("score", "on_conflict => 'manual_review'")
        .await;
    live.people(1).await;
    live.pause().await;
    live.edit_in_crm("p1", json!({"score": 5})).await;
    live.db.execute("UPDATE people SET score = 7").await;
    live.resume().await;
    eventually("a conflict", async || {
        (live.db.count("crm.conflicts").await == 1).then_some(())
    })
    .await;
    for (value, code, told) in [
        (
            "\"NaN\"",
            "22000",
            Some("column \"score\": \"NaN\" is a number that no CRM can hold"),
        ),
        (
            "\"Infinity\"",
            "22000",
            Some("column \"score\": \"Infinity\" is a number that no CRM can hold"),
        ),
        ("\"much\"", "22P02", None),
    ] {
        let sql = format!(
            "SELECT crm.resolve_conflict(conflict_id, 'value', '{value}') FROM crm.conflicts"
        );
        let error = live.db.error(&sql).await;
        assert_eq!(
            (error.code().code(), error.detail()),
            (code, told),
            "{error}"
        );
    }
    assert_eq!(live.cell("p1", "score").await, json!(7));
    assert_eq!(live.db.count("crm.conflicts").await, 1);
    let sql = "SELECT crm.resolve_conflict(conflict_id, 'value', '6') FROM crm.conflicts";
    live.db.execute(sql).await;
    live.quiet().await;
    assert_eq!(live.cell("p1", "score").await, json!(6));
    assert_eq!(live.field("p1", "score").await, json!(6));
    live.db.assert_checked().await;
}

#[tokio::test]
async fn a_number_that_no_column_holds_is_not_repeated() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.db
        .execute("ALTER TABLE people ALTER score TYPE bigint")
        .await;
    live.map_field("score", "").await;
    live.people(1).await;
    let wide = "9".repeat(401);
    let call = |what: &str| format!("SELECT crm.write('people', 'p1', {what})");
    for sql in [
        call(&format!("'{{\"score\": {wide}}}'")),
        call(&format!("'{{\"score\": \"-{wide}.5\"}}'")),
        call(&format!(
            "'{{\"phone\": \"+2\"}}', base => '{{\"score\": {wide}}}'"
        )),
    ] {
        let error = live.db.error(&sql).await;
        assert_eq!(error.code().code(), "22003");
        assert_eq!(
            error.message(),
            "the value for column \"score\" is out of range for type bigint"
        );
        assert_eq!(error.detail(), Some("It is a number of 401 digits."));
    }
    assert_eq!(live.cell("p1", "phone").await, "+1");
    live.db.assert_checked().await;
}
