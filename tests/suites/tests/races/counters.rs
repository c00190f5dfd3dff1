//! Sessions that count records up, all at once, with a person of the CRM who does the same there. A
//! count that was based on a state which somebody else had replaced would be missing from the sum.

use std::time::{Duration, Instant};

use tokio::task::{LocalSet, spawn_local};

use crm_suites::{Desk, Session, Vendor, json};

use super::{desk, quiet};

/// What the CRM's people count in, so that nobody writes the same as somebody else.
const THEIRS: u64 = 1_000_000;

struct Load {
    sessions: usize,
    records: usize,
    time: Duration,
}

const SHORT: Load = Load {
    sessions: 20,
    records: 10,
    time: Duration::from_secs(5),
};
const LONG: Load = Load {
    sessions: 100,
    records: 50,
    time: Duration::from_secs(60),
};

async fn nobodys_count_is_lost(vendor: Vendor) {
    LocalSet::new().run_until(count_up(vendor, SHORT)).await;
}

crm_suites::with_every_crm!(nobodys_count_is_lost);

#[tokio::test]
#[ignore = "a minute for each CRM"]
async fn nobodys_count_is_lost_among_many() {
    for vendor in Vendor::ALL {
        LocalSet::new().run_until(count_up(vendor, LONG)).await;
    }
}

/// What came of the calls of one session.
#[derive(Default)]
struct Tally {
    committed: Vec<u64>,
    pending: Vec<u64>,
    conflicts: u64,
    slowest: Duration,
}

impl Tally {
    fn of(records: usize) -> Tally {
        let (committed, pending) = (vec![0; records], vec![0; records]);
        Tally {
            committed,
            pending,
            ..Tally::default()
        }
    }

    fn add(&mut self, other: &Tally) {
        let both = [
            (&mut self.committed, &other.committed),
            (&mut self.pending, &other.pending),
        ];
        for (sums, counts) in both {
            sums.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
        }
        self.conflicts += other.conflicts;
        self.slowest = self.slowest.max(other.slowest);
    }
}

async fn count_up(vendor: Vendor, load: Load) {
    let desk = desk(vendor, &["phone"]).await;
    let ids = desk.link(load.records).await;
    desk.db.execute("UPDATE people SET phone = '0'").await;
    quiet(&desk).await;
    let end = Instant::now() + load.time;
    let mut sessions = Vec::new();
    for n in 0..load.sessions {
        let session = desk.db.session().await;
        sessions.push(spawn_local(writer(session, n, load.records, end)));
    }
    let theirs = people_of_the_crm(&desk, &ids, end).await;
    let mut all = Tally::of(load.records);
    for session in sessions {
        let limit = Duration::from_secs(60);
        let tally = tokio::time::timeout(limit, session).await;
        let tally = tally
            .expect("nobody waits for ever")
            .expect("no session fails");
        all.add(&tally);
    }
    quiet(&desk).await;
    let sum = |counts: &[u64]| counts.iter().sum::<u64>();
    let ours = sum(&all.committed);
    let sql =
        "SELECT count(*) FILTER (WHERE record_key = $1 AND result = 'raced') FROM crm.audit_log";
    let mut raced = Vec::new();
    for n in 1..=load.records {
        raced.push(desk.db.one::<i64>(sql, &[&format!("p{n}")]).await as u64);
    }
    eprintln!(
        "-- {vendor:?}: {} sessions, {} records, {:?}: {ours} committed ({:.0}/s), {} pending, {} conflicts, \
         {} by the CRM's people, of which {} overwritten and told; slowest call {:?}",
        load.sessions,
        load.records,
        load.time,
        ours as f64 / load.time.as_secs_f64(),
        sum(&all.pending),
        all.conflicts,
        sum(&theirs),
        sum(&raced),
        all.slowest
    );
    for n in 0..load.records {
        let key = format!("p{}", n + 1);
        let count = desk.field(&key, "phone").await;
        let count: u64 = count
            .as_str()
            .and_then(|count| count.parse().ok())
            .expect("a number");
        let (most, least) = (all.committed[n] + all.pending[n], all.committed[n]);
        // What is overwritten where the vendor cannot refuse is told.
        if !(least..=most).contains(&(count % THEIRS)) || count / THEIRS != theirs[n] - raced[n] {
            let sql = format!(
                "SELECT at, path, result, fields, error FROM crm.audit_log WHERE record_key = '{key}' ORDER BY at DESC LIMIT 30"
            );
            let audit = desk.db.text(&sql).await;
            panic!(
                "{key} is {count} after {} of ours, {} that waited, {} of theirs\n{audit}",
                all.committed[n], all.pending[n], theirs[n]
            );
        }
    }
    assert_eq!(desk.db.count("crm.dead_letters").await, 0);
    desk.db.assert_checked().await;
}

/// Counts records up until the time is over, each call based on what the CRM is known to hold.
async fn writer(session: Session, n: usize, records: usize, end: Instant) -> Tally {
    let mut tally = Tally::of(records);
    let sql = "SELECT r.outcome, r.crm_values ->> 'phone', r.error
               FROM crm.write('people', $1, jsonb_build_object('phone', $2::text), base => jsonb_build_object('phone', $3::text)) r";
    let mut place = n;
    while Instant::now() < end {
        place = (place * 7 + 3) % records;
        let key = format!("p{}", place + 1);
        let mut base: String = session
            .one("SELECT phone FROM people WHERE id = $1", &[&key])
            .await;
        for _ in 0..5 {
            let next = (base.parse::<u64>().expect("a number") + 1).to_string();
            let start = Instant::now();
            let row = session.rows(sql, &[&key, &next, &base]).await.remove(0);
            tally.slowest = tally.slowest.max(start.elapsed());
            match row.get::<_, &str>(0) {
                "committed" => tally.committed[place] += 1,
                // It arrives unless the CRM's people come first.
                "pending" => {
                    tally.pending[place] += 1;
                    settled(&session, &key).await;
                }
                _ => {
                    tally.conflicts += 1;
                    if let Some(fresh) = row.get::<_, Option<String>>(1) {
                        base = fresh;
                        continue;
                    }
                }
            }
            break;
        }
    }
    tally
}

/// Waits until nothing of a record waits any more.
async fn settled(session: &Session, key: &str) {
    let sql = "SELECT count(*) FROM crm.pending_writes WHERE record_key = $1 AND state <> 'sending' AND state <> 'landed'";
    crm_suites::eventually("the edit is settled", async || {
        (session.one::<i64>(sql, &[&key]).await == 0).then_some(())
    })
    .await;
}

/// The same from the other side: read, count up, and write unless the record moved.
async fn people_of_the_crm(desk: &Desk, ids: &[String], end: Instant) -> Vec<u64> {
    let mut counted = vec![0; ids.len()];
    let vendor = desk.crm.vendor;
    let (object, field) = (vendor.people(), vendor.field("phone"));
    let mut place = 0;
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(150)).await;
        place = (place + 1) % ids.len();
        let id = &ids[place];
        if vendor == Vendor::Stub {
            let sql = "UPDATE crm_stub.records SET fields = jsonb_set(fields, ARRAY[$2], to_jsonb(((fields ->> $2)::int + 1000000)::text)) WHERE crm_id = $1";
            desk.db.rows(sql, &[id, &field]).await;
            counted[place] += 1;
            continue;
        }
        // One request that does both, so that this person is never the one who overwrites.
        let path = format!("objects/{}/{object}/{id}", vendor.name());
        desk.crm
            .sim()
            .patch(&path, &json!({"add": {field: THEIRS}}));
        counted[place] += 1;
    }
    counted
}
