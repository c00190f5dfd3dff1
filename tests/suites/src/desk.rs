//! What most scenarios start from: a table of people in a database of its own, mapped to a CRM.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::crm::{Contestant, Crm, Vendor};
use crate::database::Database;
use crate::eventually::eventually;

/// Columns that are mapped from the start, and must be equal on both sides at the end.
pub const COLUMNS: [&str; 4] = ["first_name", "last_name", "email", "phone"];

pub struct Desk {
    pub db: Database,
    pub crm: Crm,
    pub map: i32,
    direction: String,
}

impl Desk {
    /// People mapped outbound; new rows are not created in the CRM.
    pub async fn open(cluster: &Cluster, whom: impl Into<Contestant>) -> Desk {
        Desk::open_with(cluster, whom, "on_insert => 'ignore'").await
    }

    /// The same with these arguments of `crm.map_object`.
    pub async fn open_with(
        cluster: &Cluster,
        whom: impl Into<Contestant>,
        arguments: &str,
    ) -> Desk {
        let db = cluster.database().await;
        let crm = Crm::connect(&db, whom).await;
        Desk::furnish(db, crm, arguments).await
    }

    /// The table and its mapping, in a database that has a connection.
    pub async fn furnish(db: Database, crm: Crm, arguments: &str) -> Desk {
        Desk::furnish_as(db, crm, "outbound", arguments, "").await
    }

    /// The same with the direction of the columns, and with these arguments of `crm.map_field`.
    pub async fn furnish_as(
        db: Database,
        crm: Crm,
        direction: &str,
        arguments: &str,
        of_fields: &str,
    ) -> Desk {
        db.execute(
            "CREATE TABLE people (
                id text PRIMARY KEY, first_name text, last_name text NOT NULL, email text, phone text,
                title text, score numeric(12, 2), born date, seen timestamptz, opted_out bool,
                interests text[], source text, extra jsonb, notes text
            )",
        )
        .await;
        let map = map_object(&db, crm.vendor, "people", arguments).await;
        let desk = Desk {
            db,
            crm,
            map,
            direction: direction.to_owned(),
        };
        for column in COLUMNS {
            desk.map_field(column, of_fields).await;
        }
        desk
    }

    /// Maps one more column, or changes how one is mapped.
    pub async fn map_field(&self, column: &str, arguments: &str) {
        let (vendor, direction) = (self.crm.vendor, &self.direction);
        map_field(&self.db, vendor, self.map, column, direction, arguments).await;
    }

    /// Adds people p1, p2, ... who are on both sides already; the ids of their records.
    pub async fn link(&self, count: usize) -> Vec<String> {
        let people: Vec<Map<String, Value>> = (1..=count).map(person).collect();
        let ids = self
            .crm
            .create(&self.db, self.crm.vendor.people(), &people)
            .await;
        let sql = "INSERT INTO people (id, first_name, last_name, email, phone)
                   SELECT id, first_name, last_name, email, phone
                   FROM jsonb_populate_recordset(NULL::people, $1)";
        self.db.rows(sql, &[&Value::from(people)]).await;
        // They were created with their keys.
        let sql = "SELECT crm.link($1, 'p' || n, id, write_key => false)
                   FROM ROWS FROM (unnest($2::text[])) WITH ORDINALITY AS given (id, n)";
        self.db.rows(sql, &[&self.map, &ids]).await;
        ids
    }

    /// The record of a row, which must have one.
    pub async fn record(&self, key: &str) -> Map<String, Value> {
        let id = self
            .crm_id(key)
            .await
            .unwrap_or_else(|| panic!("{key} is not linked"));
        let record = self
            .crm
            .record(&self.db, self.crm.vendor.people(), &id)
            .await;
        record.unwrap_or_else(|| panic!("the CRM has no record {id} for {key}"))
    }

    /// One field of the record of a row, by the name of the column.
    pub async fn field(&self, key: &str, column: &str) -> Value {
        self.record(key)
            .await
            .remove(self.crm.vendor.field(column))
            .unwrap_or_default()
    }

    pub async fn crm_id(&self, key: &str) -> Option<String> {
        let sql = "SELECT crm_id FROM crm.ledger WHERE map_id = $1 AND record_key = $2 AND crm_id IS NOT NULL";
        self.db.all(sql, &[&self.map, &key]).await.pop()
    }

    /// See [`under_way`].
    pub async fn under_way(&self, edits: &str) -> JoinHandle<bool> {
        under_way(&self.db, &self.crm, edits).await
    }

    /// Writes everything back and holds both sides against each other.
    pub async fn settle(&self) {
        self.rest().await;
        self.assert_same().await;
    }

    /// Writes everything back; a deep check finds nothing.
    pub async fn rest(&self) {
        self.db.drain().await;
        self.db.assert_checked().await;
    }

    /// Takes in what changed in the CRM.
    pub async fn ingest(&self) {
        let done: bool = self.db.one("SELECT crm.ingest_now()", &[]).await;
        if !done {
            let status = self
                .db
                .text("SELECT to_jsonb(s) FROM crm.status_wide s")
                .await;
            let open = self.db.text("SELECT to_jsonb(r) FROM crm.refetch r").await;
            panic!("the CRM's changes were not taken in\n{status}\n{open}");
        }
        self.db.assert_checked().await;
    }

    /// Nothing of ours waits for the CRM, and none is sent.
    pub async fn nothing_goes_out(&self) {
        self.crm.forget(&self.db).await;
        assert!(self.db.flush().await);
        assert_eq!(self.crm.asked(&self.db).await, Vec::<String>::new());
    }

    /// Every row has one record and every record one row, with the same values in [`COLUMNS`].
    pub async fn assert_same(&self) {
        let vendor = self.crm.vendor;
        let sql = "SELECT l.crm_id, to_jsonb(p) FROM people p
                   LEFT JOIN crm.ledger l ON l.map_id = $1 AND l.record_key = p.id";
        let mut local = BTreeMap::new();
        for row in self.db.rows(sql, &[&self.map]).await {
            let person: Value = row.get(1);
            let id: Option<String> = row.get(0);
            let id = id.unwrap_or_else(|| panic!("{} has no record", person["id"]));
            let values = COLUMNS.map(|column| text(person.get(column)));
            assert!(
                local.insert(id, values).is_none(),
                "two rows with the record of {}",
                person["id"]
            );
        }
        let records = self.crm.records(&self.db, vendor.people()).await;
        let remote: BTreeMap<String, [String; 4]> = records
            .into_iter()
            .map(|(id, fields)| {
                (
                    id,
                    COLUMNS.map(|column| text(fields.get(vendor.field(column)))),
                )
            })
            .collect();
        for (id, values) in &local {
            assert_eq!(
                remote.get(id),
                Some(values),
                "record {id} in the CRM (left) and its row (right)"
            );
        }
        assert_eq!(
            remote.len(),
            local.len(),
            "records in the CRM (left) and rows (right)"
        );
    }

    /// None of these words is to be seen anywhere but in `crm.credential`.
    pub async fn assert_secret(&self, cluster: &Cluster, words: &[impl AsRef<str>]) {
        let mut seen = cluster.log();
        for rows in [
            "crm.status v",
            "crm.cell_status v",
            "crm.audit_log v",
            "crm.dead_letters v",
            "crm.progress v",
            "crm.connection v",
            "crm.connection_state v",
            "pg_stat_activity v WHERE backend_type LIKE 'pg_crm%'",
        ] {
            let rows = format!("SELECT to_jsonb(v) FROM {rows}");
            seen += &self.db.text(&rows).await;
        }
        for word in words {
            // Statements that the suites themselves send are not logged: none of them fails.
            let word = word.as_ref();
            assert!(!seen.contains(word), "{word} can be seen");
        }
    }

    pub async fn audit_rows(&self) -> i64 {
        self.db
            .count(&format!("crm.audit_log WHERE map_id = {}", self.map))
            .await
    }

    /// The state of the map as `crm.status` shows it.
    pub async fn state(&self) -> String {
        self.db
            .one(
                "SELECT state FROM crm.status WHERE map_id = $1",
                &[&self.map],
            )
            .await
    }
}

/// Maps a table with the columns of people, outbound; the map's id.
pub async fn map_people(db: &Database, vendor: Vendor, relation: &str, arguments: &str) -> i32 {
    let map = map_object(db, vendor, relation, arguments).await;
    for column in COLUMNS {
        map_field(db, vendor, map, column, "outbound", "").await;
    }
    map
}

async fn map_object(db: &Database, vendor: Vendor, relation: &str, arguments: &str) -> i32 {
    let (connection, object, key) = (vendor.name(), vendor.people(), vendor.field("id"));
    // Also where everything is outbound: what ingestion does there has its scenarios.
    let ingest = match arguments.contains("ingest =>") {
        true => "",
        false => "ingest => 'on', ",
    };
    let sql = format!(
        "SELECT crm.map_object('{connection}', '{relation}', '{object}', external_id_field => '{key}', {ingest}{arguments})"
    );
    db.one(&sql, &[]).await
}

async fn map_field(
    db: &Database,
    vendor: Vendor,
    map: i32,
    column: &str,
    direction: &str,
    arguments: &str,
) {
    let field = vendor.field(column);
    let more = if arguments.is_empty() {
        String::new()
    } else {
        format!(", {arguments}")
    };
    let mapped = "SELECT EXISTS (SELECT FROM crm.field_map WHERE map_id = $1 AND column_name = $2::text::name)";
    let verb = match db.one::<bool>(mapped, &[&map, &column]).await {
        true => "alter_field",
        false => "map_field",
    };
    let sql = format!(
        "SELECT crm.{verb}({map}, '{column}', '{field}', direction => '{direction}'{more})"
    );
    db.execute(&sql).await;
}

fn person(n: usize) -> Map<String, Value> {
    let cells = [
        ("id", format!("p{n}")),
        ("first_name", format!("First {n}")),
        ("last_name", format!("Last {n}")),
        ("email", format!("p{n}@example.com")),
        ("phone", format!("+47 {n}")),
    ];
    cells
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect()
}

/// Missing, null and empty text are one.
fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Edits, and returns the flush that writes them back while the CRM takes a second and a half to
/// answer.
pub async fn under_way(db: &Database, crm: &Crm, edits: &str) -> JoinHandle<bool> {
    crm.fault(json!({"delay_ms": 1500, "times": 1}));
    db.execute(edits).await;
    let session = db.session().await;
    let flush = tokio::spawn(async move { session.one::<bool>("SELECT crm.flush()", &[]).await });
    eventually("the request is under way", async || {
        (crm.sim().faults_left() == 0).then_some(())
    })
    .await;
    flush
}
