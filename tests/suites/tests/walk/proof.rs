//! What must hold once everything has settled.

use std::collections::{BTreeMap, BTreeSet};

use crm_suites::{Json, Vendor};

use crate::forms::plain;
use crate::oracle::Side;
use crate::plan::{Direction, Field};
use crate::sides::Sides;
use crate::walker::Walk;

impl Walk {
    /// Panics with all there is to know unless both sides are as they must be.
    pub async fn prove(&mut self) {
        let breaches = self.db.text("SELECT * FROM crm.check(deep => true)").await;
        if !breaches.is_empty() {
            self.fail(&format!("crm.check():\n{breaches}"), &mentioned(&breaches))
                .await;
        }
        let sides = self.sides().await;
        let mut found = self.twins(&sides);
        found.extend(self.unpaired(&sides));
        found.extend(self.undead(&sides));
        for (key, id) in &sides.links {
            let (Some(row), Some(record)) = (sides.rows.get(key), sides.records.get(id)) else {
                continue;
            };
            for field in &self.plan.fields {
                if let Some(what) = self.cell(&sides, key, id, field, row, record).await {
                    found.push((what, vec![key.clone(), id.clone()]));
                }
            }
        }
        if !found.is_empty() {
            let all: Vec<&str> = found.iter().map(|(what, _)| what.as_str()).collect();
            let about: Vec<String> = found
                .iter()
                .take(3)
                .flat_map(|(_, about)| about.clone())
                .collect();
            self.fail(&all.join("\n"), &about).await;
        }
        self.nothing_moves().await;
    }

    /// A record has one row, a row one record, and no two records carry one key, unless people gave
    /// it to them.
    fn twins(&self, sides: &Sides) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        let mut seen: BTreeMap<&String, &String> = BTreeMap::new();
        for (key, id) in &sides.links {
            if let Some(other) = seen.insert(id, key) {
                found.push((
                    format!("record {id} has two rows, {other} and {key}"),
                    vec![id.clone(), key.clone()],
                ));
            }
        }
        let name = self.plan.vendor.field("id");
        let mut carried: BTreeMap<String, &String> = BTreeMap::new();
        for (id, fields) in &sides.records {
            let key = key_of(fields, name);
            // No field is unique in Pipedrive: people create and restore records with keys that
            // others carry.
            let free = self.plan.vendor == Vendor::Pipedrive && self.keys_in_crm.contains(&key);
            if let Some(other) = (!key.is_empty() && !free)
                .then(|| carried.insert(key.clone(), id))
                .flatten()
            {
                found.push((
                    format!("records {other} and {id} carry the key {key}"),
                    vec![id.clone(), key],
                ));
            }
        }
        found
    }

    /// Rows without a record and records without a row that should have one.
    fn unpaired(&self, sides: &Sides) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        let linked: BTreeSet<&String> = sides.links.values().collect();
        let whole = |key: &String| sides.conflicts.contains(&(key.clone(), String::new()));
        for key in sides.rows.keys() {
            let may_be_alone =
                sides.detached.contains(key) || sides.dead.contains(key) || whole(key);
            let created = self.plan.on_insert == "create" || !self.inserted.contains_key(key);
            if created && !sides.links.contains_key(key) && !may_be_alone {
                found.push((format!("row {key} has no record"), vec![key.clone()]));
            }
        }
        for id in sides.records.keys() {
            let may_be_alone = sides.former.contains(id)
                || sides.dead.contains(id)
                || sides.conflicting.contains(id);
            if self.plan.on_crm_insert == "insert" && !linked.contains(id) && !may_be_alone {
                found.push((format!("record {id} has no row"), vec![id.clone()]));
            }
        }
        found
    }

    /// Rows that are there again although their application deleted them, and records that should
    /// have gone with their rows.
    fn undead(&self, sides: &Sides) -> Vec<(String, Vec<String>)> {
        let mut found = Vec::new();
        let name = self.plan.vendor.field("id");
        let gone = self
            .deleted
            .iter()
            .filter(|key| !self.keys_in_crm.contains(*key));
        for key in gone {
            if sides.rows.contains_key(key) {
                found.push((
                    format!("row {key} was deleted, and is there again"),
                    vec![key.clone()],
                ));
            }
            let record = sides
                .records
                .iter()
                .find(|(_, fields)| key_of(fields, name) == *key);
            if let Some((id, _)) = record
                && self.plan.on_delete == "delete"
                && !sides.relinked.contains(key)
                && !sides.dead.contains(key)
                // Some CRMs trim: it may be the record of a row whose key differs by its blanks.
                && !sides.is_of_another(id, key)
            {
                found.push((
                    format!("row {key} was deleted, its record {id} was not"),
                    vec![key.clone(), id.clone()],
                ));
            }
        }
        found
    }

    /// What is wrong with a cell, if something is.
    async fn cell(
        &self,
        sides: &Sides,
        key: &str,
        id: &str,
        field: &Field,
        row: &Json,
        record: &Json,
    ) -> Option<String> {
        let column = field.column;
        let (local, crm) = (
            plain(&row[column]),
            plain(&record[self.plan.vendor.field(column)]),
        );
        let open = sides
            .conflicts
            .contains(&(key.to_owned(), column.to_owned()));
        let dead = sides.dead.contains(key) || sides.dead.contains(id);
        let about = format!(
            "{key} / {id}, {column} ({:?}, {})",
            field.direction, field.policy
        );
        let outbound = field.direction == Direction::Outbound;
        let untouched = outbound
            && sides
                .untouched
                .contains(&(key.to_owned(), column.to_owned()));
        if local != crm && !open && !dead && !untouched {
            return Some(format!("{about}: the row holds '{local}', the CRM '{crm}'"));
        }
        let mut ids = sides.ever.get(key).cloned().unwrap_or_default();
        let more: Vec<String> = ids
            .iter()
            .flat_map(|id| self.oracle.merged_into(id))
            .cloned()
            .collect();
        ids.extend(more);
        let mut rows: BTreeSet<&String> = sides
            .ever
            .iter()
            .filter(|(_, of)| of.iter().any(|id| ids.contains(id)))
            .map(|(k, _)| k)
            .collect();
        let own = key.to_owned();
        rows.insert(&own);
        let of_rows = rows
            .iter()
            .flat_map(|key| self.oracle.last(&Side::Row((*key).clone()), column));
        let of_records = ids
            .iter()
            .flat_map(|id| self.oracle.last(&Side::Record(id.clone()), column));
        let of_rows: BTreeSet<&str> = of_rows.collect();
        let of_records: BTreeSet<&str> = of_records.collect();
        // Each side can only hold what was set last on one of them.
        for (side, value) in [("row", &local), ("CRM", &crm)] {
            let value = value.as_str();
            let known = || {
                rows.iter()
                    .any(|key| self.oracle.ever(&Side::Row((*key).clone()), column, value))
                    || ids
                        .iter()
                        .any(|id| self.oracle.ever(&Side::Record(id.clone()), column, value))
            };
            // A row that came in from the CRM keeps the first value of an outbound column.
            let relinked = sides.relinked.contains(key) || rows.len() > 1 || ids.len() > 1;
            let misled = self.misled.contains(&(key.to_owned(), column));
            let came_in = outbound && (of_rows.is_empty() || self.reborn.contains(key));
            let allowed = match (field.direction, side) {
                _ if open || dead || relinked || misled || came_in => value.is_empty() || known(),
                (Direction::Outbound, "row") if !of_rows.is_empty() => of_rows.contains(value),
                (Direction::Inbound, "CRM") => of_records.contains(value) || of_records.is_empty(),
                _ => of_rows.contains(value) || of_records.contains(value),
            };
            let gave_way = value.is_empty() || known();
            let gave_way = gave_way && self.gave_way(key, &ids, field, value).await;
            if !allowed && !gave_way {
                return Some(format!(
                    "{about}: the {side} holds '{value}', which nobody has set last; on the row {of_rows:?}, in the CRM {of_records:?}"
                ));
            }
        }
        self.unexplained(key, id, field, &local, &crm)
            .await
            .map(|what| format!("{about}: {what}"))
    }

    /// Whether an edit of the cell gave way to a change that people made in another field of the
    /// record, so that both sides hold what was set before it.
    async fn gave_way(
        &self,
        key: &str,
        ids: &BTreeSet<String>,
        field: &Field,
        value: &str,
    ) -> bool {
        if self.plan.conflict_scope != "record" {
            return false;
        }
        let vendor = self.plan.vendor;
        let sql = "SELECT fields -> $2 FROM crm.audit_log
                   WHERE record_key = $1 AND result = 'superseded' AND fields -> $2 ? 'because'";
        let name = vendor.field(field.column);
        let told: Vec<Json> = self.db.all(sql, &[&key, &name]).await;
        let edited = |blamed: &Json| {
            let mut fields = self.plan.fields.iter();
            let field = fields.find(|f| blamed == vendor.field(f.column));
            field.is_some_and(|f| {
                f.direction != Direction::Outbound
                    && ids.iter().any(|id| {
                        let side = Side::Record(id.clone());
                        !self.oracle.last(&side, f.column).is_empty()
                    })
            })
        };
        told.iter().any(|told| {
            let blamed = told["because"].as_array().into_iter().flatten();
            plain(&told["new"]) == value && blamed.clone().count() > 0 && blamed.clone().all(edited)
        })
    }

    /// What one side has from the other is in the audit.
    async fn unexplained(
        &self,
        key: &str,
        id: &str,
        field: &Field,
        local: &str,
        crm: &str,
    ) -> Option<String> {
        let column = field.column;
        let name = self.plan.vendor.field(column);
        let own = self.oracle.ever(&Side::Row(key.to_owned()), column, local);
        let theirs = self.oracle.ever(&Side::Record(id.to_owned()), column, crm);
        if (own || local.is_empty()) && (theirs || crm.is_empty()) {
            return None;
        }
        let sql = "SELECT fields -> $3 -> 'new' FROM crm.audit_log
                   WHERE (record_key = $1 OR crm_id = $2) AND fields -> $3 ? 'new'";
        let told: Vec<Json> = self.db.all(sql, &[&key, &id, &name]).await;
        let told: BTreeSet<String> = told.iter().map(plain).collect();
        if !own && !local.is_empty() && !told.contains(local) {
            return Some(format!(
                "the audit does not say whence the row has '{local}'"
            ));
        }
        if !theirs && !crm.is_empty() && !told.contains(crm) {
            return Some(format!("the audit does not say whence the CRM has '{crm}'"));
        }
        None
    }

    /// More rounds bring nothing: no request that writes, no line in the audit, no row and no
    /// record that changes.
    async fn nothing_moves(&mut self) {
        let audit = "SELECT count(*) FROM crm.audit_log";
        let state = "SELECT count(*), sum(hashtext(p.xmin::text || p.id)::bigint) FROM people p";
        let (told, rows, records) = (
            self.db.text(audit).await,
            self.db.text(state).await,
            self.versions().await,
        );
        self.crm.forget(&self.db).await;
        for _ in 0..3 {
            if !self.round().await {
                self.fail("a quiet round is not done", &[]).await;
            }
        }
        let asked = self.crm.asked(&self.db).await;
        let mut writes: Vec<String> = asked.into_iter().filter(|asked| is_write(asked)).collect();
        if self.plan.vendor == Vendor::Dynamics365 {
            let batches = self.crm.sim().requests("/$batch");
            let bodies = batches.iter().filter_map(|batch| batch["body"].as_str());
            let of_writes = bodies.filter(|body| {
                !body.contains("\nGET ") || body.contains("\nPATCH ") || body.contains("\nDELETE ")
            });
            writes.extend(of_writes.map(str::to_owned));
        }
        if !writes.is_empty()
            || self.db.text(audit).await != told
            || self.db.text(state).await != rows
        {
            let last = "SELECT pg_catalog.to_jsonb(a) FROM (SELECT * FROM crm.audit_log ORDER BY at DESC, audit_id DESC LIMIT 5) a";
            let last = self.db.text(last).await;
            self.fail(
                &format!("it does not come to rest: {writes:?}\n{last}"),
                &[],
            )
            .await;
        }
        let now = self.versions().await;
        if now != records {
            self.fail("records of the CRM change though nobody edits", &[])
                .await;
        }
    }

    async fn versions(&self) -> Vec<String> {
        if self.plan.vendor == Vendor::Stub {
            return self
                .db
                .all(
                    "SELECT crm_id || ' ' || version FROM crm_stub.records ORDER BY 1",
                    &[],
                )
                .await;
        }
        let records = self
            .crm
            .sim()
            .records(self.plan.vendor.name(), self.plan.vendor.people());
        records
            .iter()
            .map(|r| format!("{} {}", r["id"], r["version"]))
            .collect()
    }
}

/// The key that a record carries, letter by letter.
fn key_of(fields: &Json, name: &str) -> String {
    fields[name].as_str().unwrap_or_default().to_owned()
}

fn is_write(asked: &str) -> bool {
    let (method, path) = asked.split_once(' ').unwrap_or_default();
    match method {
        "GET" => false,
        "POST" => ![
            "/search",
            "/batch/read",
            "/query",
            "/token",
            "/read",
            "/changes",
            "/composite/sobjects/",
            "/coql",
            // Of what it holds its body tells.
            "/$batch",
        ]
        .iter()
        .any(|read| path.contains(read)),
        _ => true,
    }
}

/// Words of a text that may be keys or ids.
fn mentioned(text: &str) -> Vec<String> {
    let words = text.split_whitespace().zip(text.split_whitespace().skip(1));
    let named = words
        .filter(|(before, _)| *before == "record")
        .map(|(_, word)| word.to_owned());
    named.take(1).collect()
}
