//! What operators do, and what happens to everybody: faults of the CRM, processes that are killed.

use crm_suites::{Json, Vendor, json};

use crate::oracle::{Edit, Side};
use crate::plan::{COLUMNS, Pick};
use crate::walker::{Walk, nth, outcome};

impl Walk {
    pub(crate) fn connection(&self, what: &str) -> String {
        format!("SELECT crm.{what}('{}')", self.plan.vendor.name())
    }

    pub(crate) async fn operate(&mut self, sql: &str, args: &[&i64]) {
        let args: Vec<_> = args
            .iter()
            .map(|a| *a as &(dyn tokio_postgres::types::ToSql + Sync))
            .collect();
        let done = self.db.client().query(sql, &args).await;
        self.note(format!("{sql} {args:?}: {}", outcome(&done)));
    }

    pub(crate) async fn resolve(&mut self, pick: Pick, winner: &str) {
        let sql = "SELECT conflict_id, record_key, column_name::text FROM crm.conflicts ORDER BY conflict_id";
        let open = self.db.rows(sql, &[]).await;
        let Some(row) = nth(&open, pick) else {
            return;
        };
        let (id, key, column): (i64, String, Option<String>) = (row.get(0), row.get(1), row.get(2));
        let sql = "SELECT crm.resolve_conflict($1, $2)";
        let done = self.db.client().query(sql, &[&id, &winner]).await;
        self.decided(&key, column.as_deref(), winner).await;
        self.note(format!(
            "resolve conflict {id} of {key} {column:?} for {winner}: {}",
            outcome(&done)
        ));
    }

    /// What an operator decides for is set anew, by whomever it was before.
    pub(crate) async fn decided(&mut self, key: &str, column: Option<&str>, winner: &str) {
        let Some((column, _)) = COLUMNS.iter().find(|(name, _)| Some(*name) == column) else {
            return;
        };
        let mut values: Vec<(Side, Json)> = Vec::new();
        if winner == "local" {
            let sql = "SELECT pg_catalog.to_jsonb(p) -> $2 FROM people p WHERE id = $1";
            let held: Vec<Option<Json>> = self.db.all(sql, &[&key, column]).await;
            values.extend(
                held.into_iter()
                    .map(|v| (Side::Row(key.to_owned()), v.unwrap_or_default())),
            );
        } else {
            let records = self.crm.records(&self.db, self.object()).await;
            for id in self.linked_ids(key).await {
                if let Some(fields) = records.get(&id) {
                    let value = fields.get(self.plan.vendor.field(column)).cloned();
                    values.push((Side::Record(id), value.unwrap_or_default()));
                }
            }
        }
        for (side, value) in values {
            let (value, began, ended) = (crate::forms::plain(&value), self.at, self.at);
            self.oracle.edit(
                side,
                column,
                Edit {
                    value,
                    began,
                    ended,
                    certain: false,
                },
            );
        }
    }

    /// Ends what holds the connection up.
    pub async fn mend(&mut self) {
        self.crm.relent(&self.db).await;
        let (name, credentials) = (self.plan.vendor.name(), self.plan.vendor.credentials());
        if self.plan.vendor != Vendor::Stub {
            let token: Json = credentials.parse().expect("JSON");
            let order = json!({"vendor": name, "issue": token.get("access_token").or(token.get("api_token")), "lifetime_s": null});
            self.crm.sim().post("tokens", &order);
        }
        let sql =
            format!("SELECT crm.set_credentials('{name}', '{credentials}'), crm.resume('{name}')");
        self.operate(&sql, &[]).await;
        self.restart_map().await;
    }

    /// A map stops when all that comes in at once is what the table cannot take. An operator has it
    /// go on.
    pub(crate) async fn restart_map(&mut self) {
        let stopped = "crm.map_state WHERE state = 'error' AND reason LIKE 'every record fails: %'";
        if self.db.count(stopped).await > 0 {
            self.operate("SELECT crm.replay_all()", &[]).await;
        }
    }

    pub(crate) async fn fault(&mut self, operation: &str, class: &str, times: u32) {
        self.note(format!("{times} faults of {operation}: {class}"));
        if self.plan.vendor == Vendor::Stub {
            let class = match class {
                "drop" | "slow" => "timeout",
                other => other,
            };
            let sql = "SELECT crm_stub.inject('stub', $1, $2, NULL, $3)";
            self.db
                .rows(sql, &[&class, &(times as i32), &operation])
                .await;
            return;
        }
        let salesforce = self.plan.vendor == Vendor::Salesforce;
        let (refused, locked) = codes(self.plan.vendor);
        let mut fault = match class {
            "transient" => json!({"status": 503}),
            "rate_limited" if salesforce => {
                let message = "ConcurrentRequests (Concurrent API Requests) Limit exceeded.";
                let body = json!([{"errorCode": "REQUEST_LIMIT_EXCEEDED", "message": message}]);
                json!({"status": 403, "headers": {"Retry-After": "1"}, "body": body})
            }
            "rate_limited" => json!({"status": 429, "headers": {"Retry-After": "1"}}),
            "auth" => json!({"expire_tokens": true}),
            "drop" => json!({"drop": "before"}),
            "drop_after_apply" => {
                json!({"drop": if self.at.is_multiple_of(2) { "after" } else { "partial" }})
            }
            // Applied at once. What the CRM applies after its caller has given up and come again
            // is, to anyone who looks, somebody's later edit.
            "slow" => json!({"delay_after_ms": 2500}),
            "conflict" => json!({"fail_records": {"code": locked, "message": "as injected"}}),
            "validation" => json!({"fail_records": {"code": refused, "message": "as injected"}}),
            other => panic!("no fault for {other}"),
        };
        fault["times"] = times.into();
        self.crm.fault(fault);
    }

    /// The server has restarted, or is about to.
    pub(crate) async fn cut_off(&mut self, why: &str) {
        self.note(why.to_owned());
        self.db.reconnect().await;
        for place in 0..self.callers.len() {
            self.join(place).await;
        }
        self.open_callers().await;
    }
}

/// What a CRM says of a record that breaks one of its rules, and of one that it cannot write just
/// now.
fn codes(vendor: Vendor) -> (&'static str, &'static str) {
    match vendor {
        Vendor::Stub => unreachable!("the stub is told the class"),
        Vendor::Salesforce => ("FIELD_CUSTOM_VALIDATION_EXCEPTION", "UNABLE_TO_LOCK_ROW"),
        Vendor::HubSpot => ("INVALID_OPTION", "LOCKED"),
        Vendor::Pipedrive => ("422", "500"),
        Vendor::Zoho => ("PATTERN_NOT_MATCHED", "INTERNAL_ERROR"),
        Vendor::Dynamics365 => ("0x80040265", "0x80044150"),
    }
}
