//! A standby looks on until it is promoted; then it goes on where the primary ended.

use crm_suites::{Cluster, Database, Desk, Vendor, eventually};
use nix::sys::signal::Signal;

#[tokio::test]
async fn idle_until_promoted_then_at_work() {
    let primary = Cluster::start();
    let mut desk = Desk::open(&primary, Vendor::Salesforce).await;
    desk.link(10).await;
    desk.db
        .execute("UPDATE people SET phone = 'from the primary'")
        .await;
    desk.settle().await;
    let standby = primary.standby();
    let replica = Database::open(&standby, &desk.db.name).await;
    desk.db
        .execute("UPDATE people SET phone = 'left over'")
        .await;
    let position: String = desk
        .db
        .one("SELECT pg_current_wal_flush_lsn()::text", &[])
        .await;
    eventually("the standby has caught up", async || {
        let sql = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
        replica.one::<bool>(sql, &[&position]).await.then_some(())
    })
    .await;
    assert_eq!(replica.worker_now().await, None, "a standby writes nothing");
    desk.crm.sim().forget_requests();

    primary.stop(Signal::SIGQUIT);
    standby.promote();
    desk.db = replica;
    desk.db.worker().await;
    desk.settle().await;
    assert_eq!(desk.field("p1", "phone").await, "left over");
    // A failover that sends everything again: only what was left over travels.
    let sent = desk
        .crm
        .sim()
        .requests("")
        .iter()
        .filter(|request| request["method"] != "GET")
        .count();
    assert_eq!(sent, 1, "requests after the failover");
}
