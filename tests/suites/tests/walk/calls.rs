//! Calls of `crm.write()` that are under way while the walk goes on.

use std::sync::Arc;

use crm_suites::{Database, Json, Session};
use serde_json::Map;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use crate::plan::Base;

#[derive(Clone, Debug)]
pub struct Call {
    pub key: String,
    /// When it began, and whom its row was linked to then.
    pub began: usize,
    pub crm_ids: Vec<String>,
    pub changes: Map<String, Json>,
    pub base: Base,
    pub force: bool,
    pub commit: bool,
}

/// What is known of a call that is over.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "reasons are for those who read the trace")]
pub enum Ended {
    /// The outcome, and whether its transaction was committed.
    Told { outcome: String, committed: bool },
    /// It ended in an error before anything was changed, or that undid what was.
    Refused(String),
    /// Its session was cut off.
    Lost,
}

impl Ended {
    /// A conflict changes nothing anywhere.
    pub fn may_be_in_crm(&self) -> bool {
        !matches!(self, Ended::Told { outcome, .. } if outcome == "conflict")
    }

    pub fn may_be_in_row(&self) -> bool {
        self.may_be_in_crm()
            && !matches!(
                self,
                Ended::Told {
                    committed: false,
                    ..
                }
            )
    }

    pub fn is_certain(&self) -> bool {
        matches!(
            self,
            Ended::Told {
                committed: true,
                ..
            }
        )
    }
}

pub struct Caller {
    session: Arc<Session>,
    pid: i32,
    running: Option<(Call, JoinHandle<Ended>)>,
}

impl Caller {
    pub async fn open(db: &Database) -> Caller {
        let session = db.session().await;
        session.execute("SET statement_timeout = '20s'").await;
        let pid = session.one("SELECT pg_backend_pid()", &[]).await;
        Caller {
            session: Arc::new(session),
            pid,
            running: None,
        }
    }

    /// The backend that makes a call, if one is on.
    pub fn busy_pid(&self) -> Option<i32> {
        let (_, running) = self.running.as_ref()?;
        (!running.is_finished()).then_some(self.pid)
    }

    pub fn begin(&mut self, call: Call) {
        let (session, made) = (self.session.clone(), call.clone());
        self.running = Some((
            call,
            tokio::spawn(async move { make(&session, &made).await }),
        ));
    }

    /// What became of the last call, unless that was told before.
    pub async fn end(&mut self) -> Option<(Call, Ended)> {
        let (call, running) = self.running.take()?;
        Some((call, running.await.expect("a call does not panic")))
    }
}

async fn make(session: &Session, call: &Call) -> Ended {
    match attempt(session, call).await {
        Ok(ended) => ended,
        Err(error) => {
            let _ = session.client().batch_execute("ROLLBACK").await;
            match error.as_db_error() {
                Some(told)
                    if *told.code() != SqlState::CRASH_SHUTDOWN
                        && *told.code() != SqlState::ADMIN_SHUTDOWN =>
                {
                    Ended::Refused(format!("{} {}", told.code().code(), told.message()))
                }
                _ => Ended::Lost,
            }
        }
    }
}

/// What a column has never held.
fn nobodys(column: &str) -> &'static str {
    match column {
        "born" => "1899-12-31",
        _ => "7",
    }
}

async fn attempt(session: &Session, call: &Call) -> Result<Ended, tokio_postgres::Error> {
    let client = session.client();
    let columns: Vec<&str> = call.changes.keys().map(String::as_str).collect();
    let base: Option<Json> = match call.base {
        Base::Known => None,
        Base::Row => {
            let rows = client
                .query(
                    "SELECT pg_catalog.to_jsonb(p) FROM people p WHERE id = $1",
                    &[&call.key],
                )
                .await?;
            rows.first().map(|row| row.get(0))
        }
        Base::Live => {
            let rows = client
                .query("SELECT crm.read_live('people', $1)", &[&call.key])
                .await?;
            rows.first().and_then(|row| row.get(0))
        }
        Base::Wrong => Some(
            call.changes
                .keys()
                .map(|c| (c.clone(), Json::from(nobodys(c))))
                .collect::<Map<_, _>>()
                .into(),
        ),
    };
    let base = base.map(|base| {
        let named = columns.iter().map(|c| ((*c).to_owned(), base[*c].clone()));
        Json::from(named.collect::<Map<_, _>>())
    });
    client.batch_execute("BEGIN").await?;
    let sql = "SELECT w.outcome FROM crm.write('people', $1, $2, base => $3, force => $4) AS w";
    let changes = Json::from(call.changes.clone());
    let row = client
        .query_one(sql, &[&call.key, &changes, &base, &call.force])
        .await?;
    let outcome = row.get(0);
    let committed = call.commit;
    client
        .batch_execute(if committed { "COMMIT" } else { "ROLLBACK" })
        .await?;
    Ok(Ended::Told { outcome, committed })
}
