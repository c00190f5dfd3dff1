//! People whose cells flow both ways: a desk for what is edited while somebody waits, and on both
//! sides at once.

use std::ops::Deref;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::crm::{Contestant, Crm, Vendor};
use crate::database::{Database, Session};
use crate::desk::Desk;
use crate::eventually::{PATIENCE, eventually};

pub struct Live {
    desk: Desk,
}

impl Deref for Live {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

/// What `crm.write()` returned.
#[derive(Clone, Debug)]
pub struct Written {
    pub write_id: String,
    pub outcome: String,
    pub values: Value,
    pub hash: Option<Vec<u8>>,
    pub class: Option<String>,
    pub error: Option<String>,
}

impl Written {
    /// Panics unless the outcome is this one.
    pub fn expect(self, outcome: &str) -> Written {
        assert_eq!(self.outcome, outcome, "{self:?}");
        self
    }

    /// The outcome must be pending, for this reason.
    pub fn expect_pending(self, class: &str) -> Written {
        let written = self.expect("pending");
        assert_eq!(written.class.as_deref(), Some(class), "{written:?}");
        written
    }
}

/// Calls `crm.write()` in a session. `more`: further arguments, as SQL.
pub async fn write(session: &Session, key: &str, changes: Value, more: &str) -> Written {
    let rows = session.rows(&call(more), &[&key, &changes]).await;
    written(&rows[0])
}

fn call(more: &str) -> String {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(", {more}")
    };
    format!(
        "SELECT w.write_id::text, w.outcome, w.crm_values, w.snapshot_hash, w.error_class, w.error
         FROM crm.write('people', $1, $2::jsonb{more}) AS w"
    )
}

fn written(row: &tokio_postgres::Row) -> Written {
    Written {
        write_id: row.get(0),
        outcome: row.get(1),
        values: row.get::<_, Option<Value>>(2).unwrap_or_default(),
        hash: row.get(3),
        class: row.get(4),
        error: row.get(5),
    }
}

impl Live {
    /// People mapped bidirectionally; new rows are not created in the CRM.
    pub async fn open(cluster: &Cluster, whom: impl Into<Contestant>) -> Live {
        Live::with(cluster, whom, "on_insert => 'ignore'", "").await
    }

    /// The same with arguments of `crm.map_object` and of `crm.map_field`.
    pub async fn with(
        cluster: &Cluster,
        whom: impl Into<Contestant>,
        arguments: &str,
        of_fields: &str,
    ) -> Live {
        let db = cluster.database().await;
        let crm = Crm::connect(&db, whom).await;
        Live::furnish(db, crm, arguments, of_fields).await
    }

    /// The same in a database that has a connection.
    pub async fn furnish(db: Database, crm: Crm, arguments: &str, of_fields: &str) -> Live {
        let desk = Desk::furnish_as(db, crm, "bidirectional", arguments, of_fields).await;
        Live { desk }
    }

    /// Adds people p1, p2, ... who are on both sides, and whom the ledger knows; the ids of their
    /// records.
    pub async fn people(&self, count: usize) -> Vec<String> {
        let ids = self.link(count).await;
        let every = "UPDATE people SET first_name = 'Ada', last_name = 'Byron ' || id, email = id || '@b.example', phone = '+1'";
        self.db.execute(every).await;
        self.agree().await;
        self.crm.forget(&self.db).await;
        ids
    }

    /// Maps one more column, of which the CRM is the source of truth.
    pub async fn map_inbound(&self, column: &str) {
        self.map_as(column, "inbound").await;
    }

    /// Maps one more column in a direction of its own.
    pub async fn map_as(&self, column: &str, direction: &str) {
        let (map, field) = (self.map, self.crm.vendor.field(column));
        let sql = format!(
            "SELECT crm.map_field({map}, '{column}', '{field}', direction => '{direction}')"
        );
        self.db.execute(&sql).await;
    }

    /// Connects anew, after the server went down.
    pub async fn reconnect(&mut self) {
        self.desk.db.reconnect().await;
    }

    /// Calls `crm.write()`.
    pub async fn write(&self, key: &str, changes: Value) -> Written {
        write(&self.db, key, changes, "").await
    }

    /// The same with further arguments, as SQL.
    pub async fn write_with(&self, key: &str, changes: Value, more: &str) -> Written {
        write(&self.db, key, changes, more).await
    }

    /// A cell of a row, as JSON.
    pub async fn cell(&self, key: &str, column: &str) -> Value {
        let sql = "SELECT to_jsonb(p) -> $2 FROM people p WHERE id = $1";
        let cell: Option<Value> = self.db.one(sql, &[&key, &column]).await;
        cell.unwrap_or_default()
    }

    /// Both sides hold this in a column.
    pub async fn assert_both(&self, key: &str, column: &str, value: &str) {
        assert_eq!(self.cell(key, column).await, value, "the row's {column}");
        assert_eq!(
            self.field(key, column).await,
            value,
            "the record's {column}"
        );
    }

    /// Changes a record as a person would who uses the CRM.
    pub async fn edit_in_crm(&self, key: &str, fields: Value) {
        let id = self.crm_id(key).await.expect("it is linked");
        let object = self.crm.vendor.people();
        self.crm.edit(&self.db, object, &id, &fields).await;
    }

    /// Has somebody edit a record in the CRM right before the next write of it, after it was read.
    pub async fn edit_between(&self, key: &str, fields: Value) {
        self.edit_before("write", key, fields).await;
    }

    /// The same before the next request of that operation.
    pub async fn edit_before(&self, operation: &str, key: &str, fields: Value) {
        let id = self.crm_id(key).await.expect("it is linked");
        let vendor = self.crm.vendor;
        let named = vendor.entries(fields.as_object().expect("column -> value"));
        if vendor == Vendor::Stub {
            let sql = format!(
                "CREATE TABLE between_once AS SELECT '{id}'::text AS id, '{}'::jsonb AS fields;
                 CREATE OR REPLACE FUNCTION edit_between() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET crm_stub.caller = '' AS $$
                 DECLARE b public.between_once;
                 BEGIN
                     DELETE FROM public.between_once RETURNING * INTO b;
                     UPDATE crm_stub.records r SET fields = r.fields || b.fields WHERE r.crm_id = b.id;
                     RETURN NULL;
                 END $$;
                 CREATE TRIGGER edit_between AFTER INSERT ON crm_stub.requests FOR EACH ROW WHEN (NEW.path = '/read')
                 EXECUTE FUNCTION edit_between()",
                Value::Object(named)
            );
            return self.db.execute(&sql).await;
        }
        self.crm.intrude(operation, &id, &named);
    }

    /// Has the worker look for changes, and a page be read that takes its time to arrive; the end
    /// of that look.
    pub async fn page_on_its_way(&self) -> tokio::task::JoinHandle<()> {
        let path = self.crm.vendor.facts().changes;
        self.crm
            .fault(json!({"path": path, "times": 1, "delay_after_ms": 1500}));
        let session = self.db.session().await;
        let look = tokio::spawn(async move {
            let _: bool = session.one("SELECT crm.ingest_now()", &[]).await;
        });
        eventually("the page is on its way", async || {
            (self.crm.sim().faults_left() == 0).then_some(())
        })
        .await;
        look
    }

    /// Has the connection stand still: what is edited waits.
    pub async fn pause(&self) {
        let pause = format!("SELECT crm.pause('{}')", self.crm.vendor.name());
        self.db.execute(&pause).await;
    }

    pub async fn resume(&self) {
        let resume = format!("SELECT crm.resume('{}')", self.crm.vendor.name());
        self.db.execute(&resume).await;
    }

    /// Waits until no edit waits any more but dead ones and conflicts.
    pub async fn quiet(&self) {
        let sql = "SELECT (SELECT count(*) FROM crm.change)
                        + (SELECT count(*) FROM crm.pending_writes WHERE state <> 'dead')
                        + (SELECT count(*) FROM crm.claim)";
        let still = async || loop {
            if self.db.one::<i64>(sql, &[]).await == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if tokio::time::timeout(PATIENCE, still()).await.is_err() {
            let waiting = "SELECT to_jsonb(p) FROM crm.pending_writes p WHERE state <> 'dead'";
            let waiting = self.db.text(waiting).await;
            let status = self
                .db
                .text("SELECT to_jsonb(s) FROM crm.status_wide s")
                .await;
            panic!("edits still wait after {PATIENCE:?}\n{waiting}\n{status}");
        }
    }

    /// Waits until nothing waits any more, and holds both sides against each other.
    pub async fn agree(&self) {
        self.quiet().await;
        self.assert_same().await;
        self.db.assert_checked().await;
    }

    /// `state` of `crm.write_status()`; empty if it knows nothing of the write.
    pub async fn state_of(&self, write_id: &str) -> String {
        let sql = "SELECT state FROM crm.write_status($1::text::uuid)";
        self.db
            .all(sql, &[&write_id])
            .await
            .pop()
            .unwrap_or_default()
    }

    /// Results of the audit about a record, oldest first: `path result`.
    pub async fn audit(&self, key: &str) -> Vec<String> {
        let sql = "SELECT path || ' ' || result FROM crm.audit_log WHERE map_id = $1 AND record_key = $2 ORDER BY at, audit_id";
        self.db.all(sql, &[&self.map, &key]).await
    }

    /// Has the connection take requests again, whatever held it up.
    pub async fn mend(&self) {
        self.crm.relent(&self.db).await;
        let credentials = self.crm.credentials();
        self.crm.set_credentials(&self.db, credentials).await;
    }
}
