//! Both sides and what is known of them, as they are at one moment.

use std::collections::{BTreeMap, BTreeSet};

use crm_suites::Json;

use crate::walker::Walk;

/// Both sides as they are.
pub struct Sides {
    pub rows: BTreeMap<String, Json>,
    pub records: BTreeMap<String, Json>,
    /// Row to record.
    pub links: BTreeMap<String, String>,
    /// Everything that a row was ever linked to.
    pub ever: BTreeMap<String, BTreeSet<String>>,
    /// Row and column; an empty column stands for the row as a whole.
    pub conflicts: BTreeSet<(String, String)>,
    /// Records that claim a row which has another: of several, the last one is in conflict.
    pub conflicting: BTreeSet<String>,
    /// Rows and records.
    pub dead: BTreeSet<String>,
    pub former: BTreeSet<String>,
    pub detached: BTreeSet<String>,
    /// Rows whose link has changed: their two histories do not go together any more.
    pub relinked: BTreeSet<String>,
    /// Row and column: what both sides held when they were linked stands until one of them is
    /// edited.
    pub untouched: BTreeSet<(String, String)>,
}

impl Sides {
    /// Whether the record is that of a row which is there, and has not this key.
    pub fn is_of_another(&self, id: &str, key: &str) -> bool {
        let mut links = self.links.iter();
        links.any(|(other, of)| of == id && other != key && self.rows.contains_key(other))
    }
}

impl Walk {
    pub async fn sides(&self) -> Sides {
        let db = &self.db;
        let pairs = async |sql: &str| -> Vec<(String, String)> {
            let rows = db.rows(sql, &[]).await;
            rows.iter()
                .map(|row| {
                    (
                        row.get::<_, Option<String>>(0).unwrap_or_default(),
                        row.get::<_, Option<String>>(1).unwrap_or_default(),
                    )
                })
                .collect()
        };
        let rows = db
            .rows("SELECT id, pg_catalog.to_jsonb(p) FROM people p", &[])
            .await;
        let records = self.crm.records(db, self.plan.vendor.people()).await;
        let links =
            pairs("SELECT record_key, crm_id FROM crm.ledger WHERE crm_id IS NOT NULL").await;
        let mut ever: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let sql = "SELECT record_key, crm_id FROM crm.ledger WHERE crm_id IS NOT NULL
                   UNION SELECT record_key, crm_id FROM crm.former_link
                   UNION SELECT record_key, crm_id FROM crm.audit_log WHERE crm_id IS NOT NULL";
        for (key, id) in pairs(sql).await {
            ever.entry(key).or_default().insert(id);
        }
        let conflicts = pairs("SELECT record_key, column_name::text FROM crm.conflicts").await;
        let sql = "SELECT a.crm_id, NULL FROM crm.audit_log a JOIN people p ON p.id = a.record_key
                   JOIN crm.ledger l ON l.record_key = a.record_key AND l.crm_id <> a.crm_id
                   WHERE (a.operation, a.result) = ('link', 'conflict')";
        let conflicting = pairs(sql).await.into_iter().map(|(id, _)| id).collect();
        let dead = pairs("SELECT record_key, crm_id FROM crm.dead_letters").await;
        let former =
            pairs("SELECT crm_id, NULL FROM crm.former_link WHERE ended_by <> 'both_deleted'")
                .await;
        let detached = pairs("SELECT record_key, NULL FROM crm.ledger WHERE detached").await;
        let sql = "SELECT record_key, NULL FROM crm.audit_log
                   WHERE operation IN ('unlink', 'relink', 'delete') OR error_class = 'not_found'";
        let mut relinked: BTreeSet<String> =
            pairs(sql).await.into_iter().map(|(key, _)| key).collect();
        // A row that came anew found the record of the one before it.
        let sql = "SELECT record_key, NULL FROM crm.audit_log WHERE (operation, path) = ('link', 'batch')";
        let found = pairs(sql).await.into_iter().map(|(key, _)| key);
        relinked.extend(found.filter(|key| self.reborn.contains(key)));
        relinked.extend(
            ever.iter()
                .filter(|(_, ids)| ids.len() > 1)
                .map(|(key, _)| key.clone()),
        );
        let sql = "SELECT record_key, column_name::text FROM crm.cell_status WHERE state = 'never synced'";
        Sides {
            untouched: pairs(sql).await.into_iter().collect(),
            relinked,
            rows: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
            records: records
                .into_iter()
                .map(|(id, fields)| (id, fields.into()))
                .collect(),
            links: links.into_iter().collect(),
            ever,
            conflicts: conflicts.into_iter().collect(),
            conflicting,
            dead: dead
                .into_iter()
                .flat_map(|(key, id)| [key, id])
                .filter(|k| !k.is_empty())
                .collect(),
            former: former.into_iter().map(|(id, _)| id).collect(),
            detached: detached.into_iter().map(|(key, _)| key).collect(),
        }
    }
}
