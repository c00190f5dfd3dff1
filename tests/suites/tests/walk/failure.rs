//! What a walk tells when it fails: how to take it again, and all that is known of the record that
//! it failed over.

use std::fmt::Write as _;

use crate::walker::Walk;

impl Walk {
    /// Panics. `about`: keys and ids.
    pub async fn fail(&self, what: &str, about: &[String]) -> ! {
        let plan = &self.plan;
        let mut told = format!(
            "{what}\n\nagain: WALK_SEED={} WALK_VENDOR={} WALK_ACTIONS={} cargo test -p crm-suites --test walk {} -- --exact\n",
            plan.seed,
            plan.vendor.name(),
            plan.actions.len(),
            plan.vendor.name()
        );
        let _ = writeln!(
            told,
            "on_insert {}, on_delete {}, on_crm_insert {}, on_crm_delete {}, conflict_scope {}, skew {} s",
            plan.on_insert,
            plan.on_delete,
            plan.on_crm_insert,
            plan.on_crm_delete,
            plan.conflict_scope,
            plan.skew_s
        );
        for field in &plan.fields {
            let _ = writeln!(
                told,
                "  {} <-> {}: {:?}, {}",
                field.column,
                plan.vendor.field(field.column),
                field.direction,
                field.policy
            );
        }
        let mine = |text: &&String| about.iter().any(|a| text.contains(a.as_str()));
        let world = |text: &&String| {
            ["killed", "faults", "clock", "settled"]
                .iter()
                .any(|word| text.contains(word))
        };
        let lines: Vec<&String> = self
            .trace
            .iter()
            .filter(|t| about.is_empty() || mine(t) || world(t))
            .collect();
        let _ = writeln!(
            told,
            "\n-- what happened (the last of {} lines):",
            lines.len()
        );
        for line in &lines[lines.len().saturating_sub(60)..] {
            let short: String = line.chars().take(700).collect();
            let _ = writeln!(told, "{short}");
        }
        let of = if about.is_empty() {
            "true".to_owned()
        } else {
            let list: Vec<String> = about
                .iter()
                .map(|a| format!("'{}'", a.replace('\'', "''")))
                .collect();
            format!("record_key IN ({0}) OR crm_id IN ({0})", list.join(", "))
        };
        for (name, sql) in [
            ("ledger", format!("SELECT record_key, crm_id, detached, hashes, changed_at, synced_at FROM crm.ledger WHERE {of} LIMIT 20")),
            ("queue", format!("SELECT * FROM (SELECT q.*, l.crm_id FROM crm.queue q LEFT JOIN crm.ledger l USING (shard_key, map_id, record_key)) q WHERE {of} LIMIT 20")),
            ("pending", format!("SELECT * FROM crm.pending_writes WHERE {of} LIMIT 20")),
            ("conflicts", format!("SELECT * FROM crm.conflicts WHERE {of} LIMIT 20")),
            ("dead letters", format!("SELECT * FROM crm.dead_letters WHERE {of} LIMIT 20")),
            ("former links", format!("SELECT * FROM crm.former_link WHERE {of} LIMIT 20")),
            ("to read", "SELECT * FROM crm.refetch LIMIT 20".to_owned()),
            ("audit", format!(
                "SELECT at::time, path, operation, result, record_key, crm_id, fields, error_class, error, actor FROM crm.audit_log
                 WHERE {of} ORDER BY at, audit_id")),
            ("ingestion", "SELECT cursor, next_at, read, applied, echoes FROM crm.ingest_state".to_owned()),
            ("status", "SELECT pg_catalog.to_jsonb(s) FROM crm.status_wide s".to_owned()),
        ] {
            let rows = self.db.text(&sql).await;
            let lines: Vec<&str> = rows.lines().collect();
            let _ = writeln!(told, "\n-- {name}:");
            for line in &lines[lines.len().saturating_sub(30)..] {
                let _ = writeln!(told, "{line}");
            }
        }
        let records = self.crm.records(&self.db, plan.vendor.people()).await;
        for (id, fields) in records {
            if about.contains(&id) {
                let _ = writeln!(
                    told,
                    "\n-- record {id}: {}",
                    serde_json::Value::from(fields)
                );
            }
        }
        for key in about {
            let row = self
                .db
                .text(&format!(
                    "SELECT pg_catalog.to_jsonb(p) FROM people p WHERE id = '{}'",
                    key.replace('\'', "''")
                ))
                .await;
            if !row.is_empty() {
                let _ = writeln!(told, "-- row: {row}");
            }
        }
        panic!("{told}");
    }
}
