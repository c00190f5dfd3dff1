//! Values on their way out pass the admin's function; when that fails, only its record waits.

use std::time::{Duration, Instant};

use crm_suites::desk::map_people;
use crm_suites::{Cluster, Crm, Desk, Vendor, eventually};

use crate::CLUSTER;

async fn desk(vendor: Vendor) -> Desk {
    let desk = Desk::open(&CLUSTER, vendor).await;
    desk.db
        .execute(
            "CREATE FUNCTION outward(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             BEGIN
                IF value = '\"bad\"' THEN RAISE EXCEPTION 'not this one'; END IF;
                RETURN to_jsonb('Dr. ' || (value #>> '{}'));
             END $$",
        )
        .await;
    desk.map_field("title", "transform_out => 'outward(jsonb)'")
        .await;
    desk.link(4).await;
    desk
}

crm_suites::with_every_crm!(a_transform_shapes_the_value);

async fn a_transform_shapes_the_value(vendor: Vendor) {
    let desk = desk(vendor).await;
    desk.db
        .execute("UPDATE people SET title = 'Who' WHERE id = 'p1'")
        .await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "title").await, "Dr. Who");
}

#[tokio::test]
async fn a_failing_transform_does_not_hold_up_its_neighbours() {
    let desk = desk(Vendor::Stub).await;
    desk.db
        .execute(
            "UPDATE people SET title = CASE id WHEN 'p2' THEN 'bad' ELSE 'good' END, phone = '9'",
        )
        .await;
    desk.db.flush().await;
    for good in ["p1", "p3", "p4"] {
        assert_eq!(desk.field(good, "title").await, "Dr. good", "{good}");
    }
    let letters = desk
        .db
        .text("SELECT to_jsonb(d) FROM crm.dead_letters d")
        .await;
    assert_eq!(letters.lines().count(), 1, "{letters}");
    for word in ["p2", "mapping", "not this one"] {
        assert!(letters.contains(word), "{word} is not in {letters}");
    }
    desk.db.assert_checked().await;
    // Mended and replayed, it arrives.
    desk.db
        .execute("UPDATE people SET title = 'mended' WHERE id = 'p2'")
        .await;
    desk.db.execute("SELECT crm.replay_all()").await;
    desk.settle().await;
    assert_eq!(desk.field("p2", "title").await, "Dr. mended");
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
}

#[tokio::test]
async fn a_function_of_another_signature_is_refused() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let sql = format!(
        "SELECT crm.map_field({}, 'title', 'x_title', transform_out => 'upper(text)')",
        desk.map
    );
    let error = desk.db.error(&sql).await;
    assert!(!error.code().code().starts_with("XX"), "{error:?}");
}

/// A transform takes time of the worker, and so of every map; what takes too much of it is cut off.
#[tokio::test]
async fn a_slow_transform_holds_up_neither_its_neighbours_nor_other_maps() {
    let cluster = Cluster::with(&[("pg_crm.transform_timeout", "1s")]);
    let db = cluster.database().await;
    let crm = Crm::connect(&db, Vendor::HubSpot).await;
    let desk = Desk::furnish(db, crm, "on_insert => 'ignore'").await;
    desk.db
        .execute(
            "CREATE TABLE tried (title text);
             CREATE FUNCTION slow(value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             BEGIN
                IF value = '\"slow\"' THEN PERFORM pg_sleep(60); END IF;
                IF value = '\"bad\"' THEN RAISE EXCEPTION 'not this one'; END IF;
                PERFORM pg_sleep(0.002);
                INSERT INTO public.tried VALUES (value #>> '{}');
                RETURN value;
             END $$",
        )
        .await;
    desk.map_field("title", "transform_out => 'slow(jsonb)'")
        .await;
    desk.link(1000).await;
    let stub = Crm::connect(&desk.db, Vendor::Stub).await;
    desk.db
        .execute("CREATE TABLE others (LIKE people INCLUDING ALL)")
        .await;
    map_people(&desk.db, Vendor::Stub, "others", "on_insert => 'create'").await;
    let worker = desk.db.worker().await;
    desk.db
        .execute(
            "UPDATE people SET phone = 'new', title = CASE WHEN id IN ('p7', 'p500') THEN 'slow' WHEN id IN ('p8', 'p900') THEN 'bad'
                                                           ELSE 'fine ' || id END;
             DELETE FROM people WHERE id = 'p9'",
        )
        .await;
    let session = desk.db.session().await;
    let map = desk.map;
    let start = Instant::now();
    let flush = tokio::spawn(async move {
        let flush = format!("SELECT crm.flush({map}, '30 s')");
        (session.one::<bool>(&flush, &[]).await, start.elapsed())
    });
    // Edits of the other map arrive all the while.
    let mut slowest = Duration::ZERO;
    let mut n = 0;
    while !flush.is_finished() {
        n += 1;
        let start = Instant::now();
        desk.db
            .execute(&format!(
                "INSERT INTO others (id, last_name) VALUES ('o{n}', 'Other')"
            ))
            .await;
        eventually("the other map goes on", async || {
            let _: bool = desk
                .db
                .one("SELECT crm.flush($1, '50 ms')", &[&(map + 1)])
                .await;
            let key = format!("o{n}");
            let held = stub.records(&desk.db, "contact").await;
            held.values()
                .any(|r| r["external_key"] == *key)
                .then_some(())
        })
        .await;
        slowest = slowest.max(start.elapsed());
    }
    let (done, took) = flush.await.expect("the flush");
    assert!(done);
    println!("1000 rows, two slow: {took:?}; the other map waited {slowest:?} at most");
    assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    let letters =
        "SELECT record_key, error_class, vendor_code FROM crm.dead_letters ORDER BY record_key";
    assert_eq!(
        desk.db.text(letters).await,
        "p500 | mapping | transform_timeout\np7 | mapping | transform_timeout\n\
         p8 | mapping | unreadable_row\np900 | mapping | unreadable_row"
    );
    let fine = "SELECT count(*) FROM crm.cell_status WHERE column_name = 'title' AND state = 'synced' AND map_id = $1";
    assert_eq!(desk.db.one::<i64>(fine, &[&map]).await, 995);
    assert_eq!(desk.field("p6", "title").await, "fine p6");
    // What a transform does beside its work is done for every value that was sent.
    assert_eq!(
        desk.db
            .one::<i64>("SELECT count(DISTINCT title) FROM tried", &[])
            .await,
        995
    );
    desk.db.assert_checked().await;
    assert_eq!(desk.db.worker().await, worker, "the worker went on");
    // The timer is disarmed: what takes longer elsewhere is not cut off.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    desk.db
        .execute("DELETE FROM people WHERE id = 'p9'; UPDATE people SET title = 'mended' WHERE id IN ('p7', 'p8', 'p500', 'p900')")
        .await;
    desk.db.drain().await;
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    assert_eq!(desk.field("p7", "title").await, "mended");
    desk.db.assert_checked().await;
    let log = cluster.log();
    assert!(
        !log.contains("pg_crm worker:") && !log.contains("cannot read"),
        "{log}"
    );
}

/// Rows that are gone, doubled keys of shards, and nothing but missing rows.
#[tokio::test]
async fn transformed_rows_that_are_gone_are_not_missed() {
    let desk = desk(Vendor::Stub).await;
    desk.db
        .execute("UPDATE people SET title = 'x'; DELETE FROM people WHERE id IN ('p1', 'p3')")
        .await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.field("p2", "title").await, "Dr. x");
    desk.db
        .execute("UPDATE people SET title = 'y'; DELETE FROM people")
        .await;
    assert!(desk.db.flush().await);
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    desk.db.assert_checked().await;
}
