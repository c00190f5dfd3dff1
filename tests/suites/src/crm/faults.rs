//! Trouble at a CRM: by classes of errors, whatever the vendor's words for them.

use serde_json::{Map, Value, json};

use super::Crm;
use super::facts::{Table, find};
use crate::database::Database;

/// What any HTTP server can do; a vendor's own answer goes before it.
const ANSWERS: Table = &[
    ("transient", r#"{"status": 503}"#),
    (
        "rate_limited",
        r#"{"status": 429, "headers": {"Retry-After": "2"}}"#,
    ),
    ("auth", r#"{"status": 401}"#),
    ("drop", r#"{"drop": "before"}"#),
    ("drop_after_apply", r#"{"drop": "after"}"#),
];

fn fault(table: Table, name: &str) -> Option<Value> {
    Some(find(table, name)?.parse().expect("a fault is JSON"))
}

/// `fault` with all that `more` says.
fn with(mut fault: Value, more: &Value) -> Value {
    let more = more.as_object().expect("a fault is an object").clone();
    fault.as_object_mut().expect("an object").extend(more);
    fault
}

impl Crm {
    /// Registers a fault of this vendor.
    pub fn fault(&self, mut fault: Value) {
        fault["vendor"] = self.vendor.name().into();
        self.sim().fault(fault);
    }

    /// What of a fault matches the requests of an operation:
    /// [`Facts::requests`](super::facts::Facts::requests).
    pub fn matching(&self, operation: &str) -> Value {
        let found = fault(self.vendor.facts().requests, operation);
        found.unwrap_or_else(|| panic!("no requests that {operation}"))
    }

    /// Has the next `times` requests of an operation fail: with a class of errors, with `drop`
    /// (nothing applied) or with `drop_after_apply`. The fault ends with [`Crm::relent`].
    pub async fn fail(&self, db: &Database, operation: &str, class: &str, times: u32) {
        let facts = self.vendor.facts();
        if self.sim.is_none() {
            let class = if class == "drop" { "timeout" } else { class };
            let operation = match operation {
                "create" | "creates" | "batch" => "write",
                other => other,
            };
            return self.inject(db, class, times, None, operation).await;
        }
        if let Some(beside) = fault(facts.besides, class) {
            self.fault(with(beside, &json!({ "times": times })));
        }
        let answer = fault(facts.errors, class).or_else(|| fault(ANSWERS, class));
        let answer = answer.unwrap_or_else(|| panic!("no fault for {class}"));
        self.answer(db, operation, &answer, times).await;
    }

    /// Has the next `times` requests of an operation answered so. The embedded CRM has one answer,
    /// a request to slow down.
    pub async fn answer(&self, db: &Database, operation: &str, answer: &Value, times: u32) {
        if self.sim.is_none() {
            return self.inject(db, "rate_limited", times, None, "write").await;
        }
        let fault = with(json!({ "times": times }), &self.matching(operation));
        self.fault(with(fault, answer));
    }

    /// Has the CRM refuse a record with a class of errors, whatever else is written along with it,
    /// until [`Crm::relent`].
    pub async fn refuse(&self, db: &Database, id: &str, class: &str, message: &str) {
        let code = self.refusal(class);
        if self.sim.is_none() {
            return self.inject(db, code, 1000, Some(id), "write").await;
        }
        let records = json!({"ids": [id], "code": code, "message": message});
        self.fault(json!({"times": "unlimited", "fail_records": records}));
    }

    fn refusal(&self, class: &str) -> &'static str {
        let code = find(self.vendor.facts().refusals, class);
        code.unwrap_or_else(|| panic!("no code for {class}"))
    }

    /// Has the CRM refuse every request whose body holds a word: batches as a whole, records by
    /// themselves as invalid.
    pub fn reject(&self, word: &str) {
        let facts = self.vendor.facts();
        let whole = facts.rejection.map(|answer| answer.parse().expect("JSON"));
        for (several, one) in [("batch", "write"), ("creates", "create")] {
            self.reject_with(several, word, whole.clone());
            self.reject_with(one, word, fault(facts.errors, "validation"));
        }
    }

    fn reject_with(&self, operation: &str, word: &str, answer: Option<Value>) {
        let fault = with(self.matching(operation), &answer.expect("an answer"));
        let word = json!({"body_contains": word, "times": "unlimited"});
        self.fault(with(fault, &word));
    }

    /// Has the CRM refuse to create a record with this key, until [`Crm::relent`].
    pub async fn refuse_key(&self, db: &Database, key: &str) {
        let facts = self.vendor.facts();
        if self.sim.is_none() {
            return self
                .inject(db, "validation", 1000, Some(key), "write")
                .await;
        }
        if facts.batch == 1 {
            let answer = fault(facts.errors, "validation");
            return self.reject_with("create", &format!("\"{key}\""), answer);
        }
        let records =
            json!({"keys": [key], "code": self.refusal("validation"), "message": "as injected"});
        self.fault(json!({"times": "unlimited", "fail_records": records}));
    }

    async fn inject(
        &self,
        db: &Database,
        class: &str,
        times: u32,
        record: Option<&str>,
        operation: &str,
    ) {
        let sql = "SELECT crm_stub.inject('stub', $1, $2, $3, $4)";
        db.rows(sql, &[&class, &(times as i32), &record, &operation])
            .await;
    }

    /// Ends the faults that are left.
    pub async fn relent(&self, db: &Database) {
        match &self.sim {
            Some(sim) => sim.end_faults(),
            None => {
                db.execute("SELECT crm_stub.inject('stub', NULL, 0)").await;
            }
        }
    }

    /// Has somebody edit a record right before the next request of an operation is handled.
    pub(crate) fn intrude(&self, operation: &str, id: &str, fields: &Map<String, Value>) {
        let people = self.vendor.people();
        let edit = json!({"object": people, "id": id, "fields": fields, "when": "before"});
        self.fault(with(self.matching(operation), &json!({ "edit": edit })));
    }
}
