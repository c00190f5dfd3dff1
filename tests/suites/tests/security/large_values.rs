//! Values that no CRM can hold: they become dead letters that tell the size, and nobody's memory
//! pays for them.

use std::sync::LazyLock;

use crm_suites::{Cluster, Desk, Json, Live, SqlState, Vendor, Vitals, json};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::shared);

/// What the worker may take on top of what it had, in kB.
const ROOM_KB: u64 = 64 * 1024;
const MB: usize = 1024 * 1024;

/// The dead letters of a column's value: key, class, code, error.
async fn dead(desk: &Desk) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', record_key, error_class, vendor_code, error) FROM crm.dead_letters ORDER BY 1";
    desk.db.all(sql, &[]).await
}

/// Bytes of the largest row of any table that pg_crm keeps of records.
async fn largest_row(desk: &Desk) -> i64 {
    let sql = "SELECT max(n) FROM (
        SELECT octet_length(a::text) FROM crm.audit_log a UNION ALL SELECT octet_length(d::text) FROM crm.dead_letter d
        UNION ALL SELECT octet_length(c::text) FROM crm.change c UNION ALL SELECT octet_length(q::text) FROM crm.queue q
        UNION ALL SELECT octet_length(p::text) FROM crm.pending_write p) AS t (n)";
    let bytes: Option<i32> = desk.db.one(sql, &[]).await;
    i64::from(bytes.unwrap_or_default())
}

/// The embedded CRM takes texts of any length from now on.
async fn lift_limits(desk: &Desk) {
    let sql = "UPDATE crm_stub.fields SET max_length = NULL;
        -- As crm.check_mapping() would note it.
        SET ROLE crm_engine; UPDATE crm.field_map SET described = described - 'max_length'; RESET ROLE";
    desk.db.execute(sql).await;
}

/// The CRM says for how many characters a field has room; more than it could take is not read.
#[tokio::test]
async fn a_value_is_bounded_by_what_its_field_has_room_for() {
    let desk = Desk::open(&CLUSTER, Vendor::Salesforce).await;
    desk.map_field("title", "").await;
    desk.link(2).await;
    desk.settle().await;
    desk.db
        .execute(
            "UPDATE people SET title = repeat('x', 100000) WHERE id = 'p1';
             UPDATE people SET title = 'Dr' WHERE id = 'p2'",
        )
        .await;
    desk.db.flush().await;
    let dead = dead(&desk).await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert!(
        dead[0].starts_with("p1 validation value_too_large ")
            && dead[0].contains("100000 bytes")
            && dead[0].contains("room for 128 characters"),
        "{dead:#?}"
    );
    assert_eq!(desk.field("p2", "title").await, "Dr");
    desk.db.assert_checked().await;
}

/// Texts that compress to nothing and texts that do not compress, in columns that are read as they
/// are stored, that are made text, and that go through a transform.
#[tokio::test]
async fn a_huge_value_is_a_dead_letter_that_tells_its_size() {
    let desk = Desk::open(&CLUSTER, Vendor::HubSpot).await;
    desk.map_field("extra", "").await;
    desk.db
        .execute(
            "CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT to_jsonb(upper($1 #>> ''{}''))'",
        )
        .await;
    desk.map_field("title", "transform_out => 'shout(jsonb)'")
        .await;
    desk.link(4).await;
    desk.settle().await;
    let worker = desk.db.worker().await;
    let before = Vitals::of(worker);
    desk.db
        .execute(
            "UPDATE people SET phone = repeat('x', 150000000) WHERE id = 'p1';
             UPDATE people SET extra = to_jsonb(repeat('y', 150000000)) WHERE id = 'p2';
             UPDATE people SET title = repeat('z', 150000000) WHERE id = 'p3';
             UPDATE people SET phone = 'still goes' WHERE id = 'p4'",
        )
        .await;
    desk.db.flush().await;
    let dead = dead(&desk).await;
    assert_eq!(dead.len(), 3, "{dead:#?}");
    for (letter, size) in dead.iter().zip(["150000000", "15000000", "150000000"]) {
        assert!(letter.contains(" validation value_too_large "), "{letter}");
        assert!(
            letter.contains(size) && letter.contains("max_value_bytes"),
            "{letter}"
        );
    }
    assert_eq!(desk.field("p4", "phone").await, "still goes");
    assert_eq!(desk.db.worker().await, worker, "the worker lives");
    let grown = Vitals::of(worker).peak_kb.saturating_sub(before.memory_kb);
    assert!(grown < ROOM_KB, "{grown} kB more");
    let largest = largest_row(&desk).await;
    assert!(largest < 64 * 1024, "a row of {largest} bytes");

    // What is cut short goes its way.
    desk.db
        .execute(
            "UPDATE people SET phone = '1', extra = '{}', title = 't'; SELECT crm.replay_all()",
        )
        .await;
    desk.settle().await;
    desk.db.assert_checked().await;
}

/// A bidirectional cell: what the row held is not copied either.
#[tokio::test]
async fn a_huge_edit_of_a_bidirectional_cell_is_dead_too() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(1).await;
    let worker = live.db.worker().await;
    let before = Vitals::of(worker);
    live.db
        .execute("UPDATE people SET phone = repeat('x', 150000000)")
        .await;
    live.quiet().await;
    let dead = dead(&live).await;
    assert_eq!(dead.len(), 1, "{dead:#?}");
    assert!(
        dead[0].contains("value_too_large") && dead[0].contains("150000000"),
        "{dead:#?}"
    );
    // Nor is what the row held copied, for the edit after it.
    live.pause().await;
    live.db.execute("UPDATE people SET phone = 'short'").await;
    let largest = largest_row(&live).await;
    assert!(largest < 64 * 1024, "a row of {largest} bytes");
    live.resume().await;
    live.agree().await;
    let grown = Vitals::of(worker).peak_kb.saturating_sub(before.memory_kb);
    assert!(grown < ROOM_KB, "{grown} kB more");
    live.assert_both("p1", "phone", "short").await;
}

#[tokio::test]
async fn a_huge_argument_of_a_call_is_refused_before_anything_happens() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(1).await;
    let huge =
        "SELECT crm.write('people', 'p1', jsonb_build_object('phone', repeat('x', 2000000)))";
    let error = live.db.error(huge).await;
    assert_eq!(error.code(), &SqlState::PROGRAM_LIMIT_EXCEEDED, "{error:?}");
    let detail = error.detail().unwrap_or_default();
    assert!(detail.contains("2000000 bytes"), "{error:?}");
    assert!(error.message().len() + detail.len() < 500);
    assert_eq!(live.cell("p1", "phone").await, "+1");
    assert_eq!(live.crm.asked(&live.db).await, [""; 0]);
    // A trigger that makes a huge value of a small one is found out before the CRM is asked.
    live.db
        .execute(
            "CREATE FUNCTION swell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.phone := repeat('x', 2000000); RETURN NEW; END $$;
             CREATE TRIGGER swell BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION swell()",
        )
        .await;
    let error = live
        .db
        .error("SELECT crm.write('people', 'p1', '{\"phone\": \"+2\"}')")
        .await;
    assert!(
        error.detail().unwrap_or_default().contains("2000000 bytes"),
        "{error:?}"
    );
    assert_eq!(live.crm.asked(&live.db).await, [""; 0]);
}

#[tokio::test]
async fn what_the_crm_holds_is_bounded_too() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(2).await;
    lift_limits(&live).await;
    live.edit_in_crm("p1", json!({"phone": "x".repeat(2 * MB)}))
        .await;
    live.edit_in_crm("p2", json!({"phone": "from the CRM"}))
        .await;
    live.db.execute("SELECT crm.ingest_now()").await;
    assert_eq!(live.cell("p2", "phone").await, "from the CRM");
    assert_eq!(live.cell("p1", "phone").await, "+1");
    let dead = dead(&live).await;
    assert!(
        dead.len() == 1 && dead[0].contains("p1 validation value_too_large"),
        "{dead:#?}"
    );
    assert!(dead[0].len() < 500, "{dead:#?}");
}

/// As long as the longest field of a CRM: sent whole, kept in part.
#[tokio::test]
async fn the_audit_keeps_so_much_of_a_value_and_its_length() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    lift_limits(&desk).await;
    let long = "é".repeat(131_072);
    desk.db.rows("UPDATE people SET phone = $1", &[&long]).await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, long.as_str());
    let fields: Json = desk
        .db
        .one(
            "SELECT fields FROM crm.audit_log ORDER BY at DESC, audit_id DESC LIMIT 1",
            &[],
        )
        .await;
    let field = fields
        .as_object()
        .and_then(|f| f.values().next())
        .expect("a field");
    let kept = field["new"].as_str().expect("a text");
    assert!(
        kept.len() < 8192 && kept.ends_with("(262144 bytes)"),
        "{}",
        kept.len()
    );
    assert!(largest_row(&desk).await < 64 * 1024);
}

/// Slices of many texts: the bound on bytes bounds what the worker takes, copies included.
#[tokio::test]
async fn many_texts_take_no_more_memory_than_their_slices_need() {
    // Pages of shared buffers count as the worker's as soon as it has looked at them.
    let cluster = Cluster::with(&[("shared_buffers", "16MB")]);
    let desk = Desk::open_with(&cluster, Vendor::HubSpot, "on_insert => 'create'").await;
    // Plans and caches, which stay the same however much there is.
    desk.db
        .execute("INSERT INTO people (id, last_name, first_name) VALUES ('first', 'Name', 'One')")
        .await;
    desk.settle().await;
    let worker = desk.db.worker().await;
    let before = Vitals::of(worker);
    let many = 20_000;
    desk.db
        .execute(&format!(
            "INSERT INTO people (id, last_name, first_name)
             SELECT 'n' || i, 'Name', repeat(md5(i::text), 256) FROM generate_series(1, {many}) AS i"
        ))
        .await;
    let sql = "SELECT crm.flush(timeout => '5 minutes')";
    assert!(desk.db.one::<bool>(sql, &[]).await);
    let grown = Vitals::of(worker).peak_kb.saturating_sub(before.memory_kb);
    eprintln!("{grown} kB more");
    assert!(grown < 2 * ROOM_KB, "{grown} kB more");
}

#[tokio::test]
async fn names_that_applications_give_are_short() {
    let live = Live::open(&CLUSTER, Vendor::Stub).await;
    live.people(1).await;
    let long = "x".repeat(257);
    for setting in ["actor", "correlation_id"] {
        for (value, why) in [
            (long.as_str(), "longer than 256 bytes"),
            ("a\u{1}b", "control characters"),
            ("a\nb", "control characters"),
        ] {
            let error = live
                .db
                .error(&format!("SET pg_crm.{setting} = '{value}'"))
                .await;
            assert_eq!(
                error.code(),
                &SqlState::INVALID_PARAMETER_VALUE,
                "{error:?}"
            );
            assert!(
                error.detail().unwrap_or_default().contains(why),
                "{error:?}"
            );
        }
        live.db
            .execute(&format!("SET pg_crm.{setting} = '{}'", &long[1..]))
            .await;
    }
    let call = format!(
        "SELECT crm.write('people', 'p1', '{{\"phone\": \"+2\"}}', correlation_id => '{long}')"
    );
    let error = live.db.error(&call).await;
    assert_eq!(
        error.code(),
        &SqlState::INVALID_PARAMETER_VALUE,
        "{error:?}"
    );
    assert_eq!(live.cell("p1", "phone").await, "+1");
}
