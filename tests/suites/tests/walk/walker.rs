//! Takes the steps of a plan, and keeps in the oracle what came of each.
//!
//! Calls of `crm.write()` are made in sessions of their own and joined when their session is needed
//! again, so that everything else happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use crm_suites::{Cluster, Crm, Database, Json, Vendor, json};
use serde_json::Map;

use crate::calls::Caller;
use crate::forms::{SWALLOWED, value};
use crate::oracle::Oracle;
use crate::plan::{Action, COLUMNS, Direction, Pick, Plan, Word};

pub const CALLERS: usize = 3;

pub struct Walk {
    pub plan: Plan,
    pub cluster: Cluster,
    pub db: Database,
    pub crm: Crm,

    pub oracle: Oracle,
    /// Actions so far: what their values are told apart by, and the oracle's time.
    pub at: usize,
    /// What happened, for whoever looks into a failure.
    pub trace: Vec<String>,
    pub callers: Vec<Caller>,
    /// Keys of rows that applications inserted.
    pub inserted: BTreeMap<String, usize>,
    /// Of those, the ones that they deleted last.
    pub deleted: BTreeSet<String>,
    /// Rows that were ever deleted: those of them that are there came anew, from either side.
    pub reborn: BTreeSet<String>,
    /// Cells with a write that was based on what nobody held: later edits that fold into it may
    /// give way with it.
    pub misled: BTreeSet<(String, &'static str)>,
    /// Keys that people gave to records in the CRM.
    pub keys_in_crm: BTreeSet<String>,
    ahead_s: i64,
}

impl Walk {
    pub async fn begin(plan: Plan) -> Walk {
        let cluster = Cluster::with(&[
            ("pg_crm.max_attempts", "3"),
            ("pg_crm.request_timeout", "2s"),
            ("pg_crm.bulk_threshold", "8"),
            ("deadlock_timeout", "200ms"),
            ("max_prepared_transactions", "3"),
        ]);
        let db = cluster.database().await;
        let crm = Crm::connect(&db, plan.vendor).await;
        if plan.vendor != Vendor::Stub {
            crm.sim().post("clock", &json!({ "skew_s": plan.skew_s }));
        }
        map(&db, &plan).await;
        let mut walk = Walk {
            ahead_s: plan.skew_s,
            plan,
            cluster,
            db,
            crm,
            oracle: Oracle::default(),
            at: 0,
            trace: Vec::new(),
            callers: Vec::new(),
            inserted: BTreeMap::new(),
            deleted: BTreeSet::new(),
            reborn: BTreeSet::new(),
            misled: BTreeSet::new(),
            keys_in_crm: BTreeSet::new(),
        };
        walk.open_callers().await;
        walk
    }

    /// The CRM's clock goes ahead by so many seconds.
    pub fn ahead(&mut self, seconds: i64) {
        self.ahead_s += seconds;
        let clock = json!({ "skew_s": self.ahead_s });
        self.crm.sim().post("clock", &clock);
    }

    pub fn note(&mut self, what: String) {
        self.trace.push(format!("#{} {what}", self.at));
    }

    pub async fn open_callers(&mut self) {
        self.callers.clear();
        for _ in 0..CALLERS {
            self.callers.push(Caller::open(&self.db).await);
        }
    }

    pub fn object(&self) -> &'static str {
        self.plan.vendor.people()
    }

    /// The value that an action gives a column of a record.
    pub fn value(&self, who: char, column: usize, word: Word, key: &str) -> Json {
        let is_bounded = self.plan.types[column] != "numeric";
        value(who, self.at, COLUMNS[column].0, word, key, is_bounded)
    }

    pub fn values(&self, who: char, cells: &[(usize, Word)], key: &str) -> Map<String, Json> {
        let values = cells.iter().map(|(column, word)| {
            (
                COLUMNS[*column].0.to_owned(),
                self.value(who, *column, *word, key),
            )
        });
        values.collect()
    }

    /// Those of the cells that this direction allows.
    pub fn flowing(&self, cells: &[(usize, Word)], directions: &[Direction]) -> Vec<(usize, Word)> {
        let flows = |c: &&(usize, Word)| directions.contains(&self.plan.fields[c.0].direction);
        cells.iter().filter(flows).copied().collect()
    }

    pub async fn step(&mut self, action: &Action) {
        self.at += 1;
        match action {
            Action::Update { rows, pick, cells } => self.update(*rows, *pick, cells).await,
            Action::Insert { rows, words } => {
                let keys = (0..*rows).map(|n| spelled(self.at, n)).collect();
                self.insert(keys, words).await;
            }
            Action::Revive { pick, words } => self.revive(*pick, words).await,
            Action::Delete { pick } => self.delete(*pick).await,
            Action::Reload => self.reload().await,
            Action::Prepare {
                pick,
                cells,
                commit,
                ms,
            } => self.prepare(*pick, cells, *commit, *ms).await,
            Action::Set { setting } => {
                self.note(format!("SET {setting}"));
                self.db.execute(&format!("RESET ALL; SET {setting}")).await;
            }
            Action::Write { .. } => self.write(action).await,
            Action::ReadLive { pick } => {
                if let Some(key) = self.row(*pick).await {
                    let sql = "SELECT crm.read_live('people', $1)";
                    let read = self.db.client().query(sql, &[&key]).await;
                    self.note(format!("read_live {key}: {}", outcome(&read)));
                }
            }
            Action::CrmEdit { pick, cells } => self.crm_edit(*pick, cells).await,
            Action::CrmCreate { key, words } => self.crm_create(*key, words).await,
            Action::CrmDelete { pick } => {
                if let Some(id) = self.record(*pick, false).await {
                    self.crm_delete(&id).await;
                }
            }
            Action::CrmRestore { pick } => self.crm_restore(*pick).await,
            Action::CrmMerge { into, from } => self.crm_merge(*into, *from).await,
            Action::Resolve { pick, winner } => self.resolve(*pick, winner).await,
            Action::Replay { pick } => {
                let sql = "SELECT dead_letter_id FROM crm.dead_letters ORDER BY 1";
                let dead: Vec<i64> = self.db.all(sql, &[]).await;
                if let Some(id) = nth(&dead, *pick) {
                    self.operate("SELECT crm.replay($1)", &[id]).await;
                }
            }
            Action::Pause => self.operate(&self.connection("pause"), &[]).await,
            Action::Resume => self.operate(&self.connection("resume"), &[]).await,
            Action::Mend => self.mend().await,
            Action::Flush => {
                self.operate("SELECT crm.flush(timeout => '300 ms')", &[])
                    .await
            }
            Action::Ingest => {
                self.operate("SELECT crm.ingest_now(timeout => '300 ms')", &[])
                    .await
            }
            Action::Backfill => {
                let sql = "SET statement_timeout = '300 ms'; SELECT crm.backfill(map_id) FROM crm.object_map; RESET statement_timeout";
                let done = self.db.client().batch_execute(sql).await;
                self.db.execute("RESET statement_timeout").await;
                self.note(format!("backfill: {}", done.is_ok()));
            }
            Action::Fault {
                operation,
                class,
                times,
            } => self.fault(operation, class, *times).await,
            Action::Behind { rows, pick, cells } => self.behind(*rows, *pick, cells).await,
            Action::Rewrite { column } => self.rewrite(*column).await,
            Action::KillWorker => {
                if self.db.worker_now().await.is_some() {
                    self.db.kill_worker().await;
                    self.cut_off("the worker is killed").await;
                }
            }
            Action::KillCaller => {
                if let Some(pid) = self.callers.iter().find_map(Caller::busy_pid) {
                    crm_suites::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
                    self.cut_off("a caller is killed").await;
                }
            }
            Action::KillServer => {
                self.cluster.crash();
                self.cluster.boot();
                self.cut_off("the server is killed").await;
            }
            Action::Ahead { hours } => {
                if self.plan.vendor != Vendor::Stub {
                    self.ahead(hours * 3600);
                    self.note(format!("the CRM's clock is off by {} s", self.ahead_s));
                }
            }
            Action::Pass { ms } => tokio::time::sleep(std::time::Duration::from_millis(*ms)).await,
        }
    }
}

pub fn nth<T>(all: &[T], pick: Pick) -> Option<&T> {
    all.get(pick.checked_rem(all.len())?)
}

pub fn outcome<T>(result: &Result<Vec<T>, tokio_postgres::Error>) -> String {
    match result {
        Ok(rows) => format!("ok, {} rows", rows.len()),
        Err(error) => error
            .as_db_error()
            .map_or_else(|| error.to_string(), |e| e.message().to_owned()),
    }
}

/// The table of people and its mapping, as the plan has it.
async fn map(db: &Database, plan: &Plan) {
    // A constraint that holds at the end only, a trigger that swallows, and names that are not what
    // they seem.
    let columns = COLUMNS.iter().zip(plan.types);
    let columns: Vec<String> = columns
        .map(|((column, may_be_empty), data_type)| {
            let rest = if *may_be_empty { "" } else { " NOT NULL" };
            format!("{column} {data_type}{rest}")
        })
        .collect();
    let sql = format!(
        "CREATE TABLE firms (id int PRIMARY KEY);
         INSERT INTO firms VALUES (1);
         CREATE DOMAIN kind AS text DEFAULT 'person' NOT NULL;
         CREATE EXTENSION citext;
         CREATE DOMAIN label AS text CHECK (VALUE <> 'no label');
         CREATE DOMAIN amount AS numeric(12, 2);
         CREATE DOMAIN day AS date;
         CREATE TABLE people (id text PRIMARY KEY DEFAULT gen_random_uuid()::text, {},
                              firm int DEFAULT 1 REFERENCES firms DEFERRABLE INITIALLY DEFERRED, kind kind,
                              serial int GENERATED ALWAYS AS IDENTITY UNIQUE DEFERRABLE INITIALLY DEFERRED);
         CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
         CREATE TRIGGER swallow BEFORE INSERT OR UPDATE ON people FOR EACH ROW WHEN (NEW.title LIKE '%{SWALLOWED}%')
         EXECUTE FUNCTION swallow();
         CREATE SCHEMA decoys;
         CREATE TABLE decoys.change (LIKE crm.change);
         CREATE TABLE decoys.ledger (LIKE crm.ledger);
         CREATE FUNCTION decoys.to_jsonb(anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb '\"decoy\"' $$;
         CREATE FUNCTION decoys.filled(text) RETURNS text LANGUAGE sql AS $$ SELECT 'decoy' $$",
        columns.join(", ")
    );
    db.execute(&sql).await;
    let (vendor, object, key) = (plan.vendor, plan.vendor.people(), plan.vendor.field("id"));
    let sql = format!(
        "SELECT crm.map_object('{}', 'people', '{object}', external_id_field => '{key}', on_insert => '{}', on_delete => '{}',
                               on_crm_insert => '{}', on_crm_delete => '{}', conflict_scope => '{}')",
        vendor.name(),
        plan.on_insert,
        plan.on_delete,
        plan.on_crm_insert,
        plan.on_crm_delete,
        plan.conflict_scope
    );
    let map: i32 = db.one(&sql, &[]).await;
    for field in &plan.fields {
        let sql = format!(
            "SELECT crm.map_field({map}, '{}', '{}', direction => '{}', on_conflict => '{}')",
            field.column,
            vendor.field(field.column),
            field.direction.name(),
            field.policy
        );
        db.execute(&sql).await;
    }
}

/// The key of a new row: some that have to be quoted, and some that most CRMs take for the one
/// before.
fn spelled(at: usize, n: usize) -> String {
    match (at + n) % 4 {
        1 if n > 0 => spelled(at, n - 1).to_uppercase(),
        2 => format!("K{at} it's \"{n}\", ü"),
        3 if n > 0 => format!(" {} ", spelled(at, n - 1)),
        _ => format!("k{at}-{n}"),
    }
}
