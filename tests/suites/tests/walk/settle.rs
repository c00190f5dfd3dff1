//! The end of the storm: faults stop, and what waits goes, until nothing does.

use std::time::{Duration, Instant};

use crm_suites::{Json, Vendor};

use crate::walker::Walk;

/// How long that may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Pipedrive is asked for what was deleted each quarter of an hour.
const LOOK_S: i64 = 15 * 60;

/// What waits and can still go: edits, claims, records to be read.
const WAITING: &str = "
    SELECT (SELECT count(*) FROM crm.change) AS changes,
           (SELECT count(*) FROM crm.claim) AS claims,
           (SELECT count(*) FROM crm.refetch) AS to_read,
           (SELECT count(*) FROM crm.queue WHERE state = 'queued') AS queued,
           (SELECT count(*) FROM crm.pending_writes WHERE state NOT IN ('dead', 'unlinked')) AS pending";

impl Walk {
    /// Ends all faults and waits until nothing moves any more.
    pub async fn settle(&mut self) {
        self.at += 1;
        for place in 0..self.callers.len() {
            self.join(place).await;
        }
        self.db.execute("RESET ALL").await;
        self.mend().await;
        self.cure().await;
        let start = Instant::now();
        let (mut replays, mut still) = (0, 0);
        let mut last = String::new();
        while still < 2 {
            let done = self.round().await;
            if !done {
                self.restart_map().await;
            }
            let told = self
                .db
                .text("SELECT count(*), (SELECT count(*) FROM crm.conflict) FROM crm.audit_log")
                .await;
            let waiting: Json = self
                .db
                .one(
                    &format!("SELECT pg_catalog.to_jsonb(w) FROM ({WAITING}) w"),
                    &[],
                )
                .await;
            let nothing = waiting
                .as_object()
                .expect("an object")
                .values()
                .all(|n| *n == 0);
            // What a CRM does late of a request that nobody waits for any more is part of the
            // storm.
            let late = self.plan.vendor != Vendor::Stub && self.crm.sim().under_way() > 0;
            still = if done && nothing && !late && told == last {
                still + 1
            } else {
                0
            };
            last = told;
            if still == 2 && replays < 3 {
                // Whatever died of faults has a chance without them.
                let dead: i64 = self.db.one("SELECT crm.replay_all()", &[]).await;
                replays += 1;
                if dead > 0 {
                    still = 0;
                }
            }
            if start.elapsed() > PATIENCE {
                self.fail(
                    &format!("it does not settle: {waiting}, rounds done: {done}"),
                    &[],
                )
                .await;
            }
        }
        self.note("settled".to_owned());
    }

    /// Looks for changes and writes back once; whether all of it was done.
    pub async fn round(&mut self) -> bool {
        let mut done = true;
        if self.plan.vendor == Vendor::Pipedrive {
            self.ahead(LOOK_S);
        }
        for what in ["ingest_now", "flush"] {
            let sql = format!("SELECT crm.{what}(timeout => '10 s')");
            let told: Result<_, _> = self.db.client().query_one(&sql, &[]).await;
            match told {
                Ok(row) => done &= row.get::<_, bool>(0),
                // The worker of a server that has just started may not be there yet.
                Err(_) => {
                    self.db.worker().await;
                    done = false;
                }
            }
        }
        if !done {
            // A rate limit that was told before the faults ended.
            self.mend().await;
        }
        done
    }
}
