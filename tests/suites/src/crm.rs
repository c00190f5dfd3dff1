//! The CRMs behind one face: the same fields by the vendors' names, records as a person of the CRM sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::database::Database;
use crate::gate::Gate;
use crate::sim::Sim;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    Stub,
    Salesforce,
    HubSpot,
    Pipedrive,
    Zoho,
    Dynamics365,
}

/// Columns of the table of people, and their fields: stub, Salesforce, HubSpot, Pipedrive, Zoho, Dynamics 365.
const FIELDS: &[(&str, [&str; 6])] = &[
    (
        "id",
        [
            "external_key",
            "External_Key__c",
            "external_key",
            "a000000000000000000000000000000000000001",
            "External_Key",
            "crm_externalkey",
        ],
    ),
    (
        "first_name",
        [
            "first_name",
            "FirstName",
            "firstname",
            "a000000000000000000000000000000000000010",
            "First_Name",
            "firstname",
        ],
    ),
    (
        "last_name",
        [
            "last_name",
            "LastName",
            "lastname",
            "name",
            "Last_Name",
            "lastname",
        ],
    ),
    (
        "email",
        [
            "email",
            "Email",
            "email",
            "emails",
            "Email",
            "emailaddress1",
        ],
    ),
    (
        "phone",
        [
            "phone",
            "Phone",
            "phone",
            "a000000000000000000000000000000000000011",
            "Phone",
            "telephone1",
        ],
    ),
    (
        "title",
        [
            "x_title",
            "Title",
            "jobtitle",
            "a000000000000000000000000000000000000002",
            "Title",
            "jobtitle",
        ],
    ),
    (
        "score",
        [
            "x_score",
            "Score__c",
            "score",
            "a000000000000000000000000000000000000003",
            "Score",
            "crm_score",
        ],
    ),
    (
        "born",
        [
            "x_born",
            "Birthdate",
            "birth_date",
            "a000000000000000000000000000000000000004",
            "Date_of_Birth",
            "birthdate",
        ],
    ),
    (
        "seen",
        [
            "x_seen",
            "Last_Seen__c",
            "last_seen",
            "a000000000000000000000000000000000000005",
            "Last_Seen",
            "crm_lastseen",
        ],
    ),
    (
        "opted_out",
        [
            "x_opted_out",
            "HasOptedOutOfEmail",
            "newsletter",
            "a000000000000000000000000000000000000006",
            "Email_Opt_Out",
            "donotbulkemail",
        ],
    ),
    (
        "interests",
        [
            "x_interests",
            "Interests__c",
            "interests",
            "a000000000000000000000000000000000000007",
            "Interests",
            "crm_interests",
        ],
    ),
    (
        "source",
        [
            "x_source",
            "LeadSource",
            "hs_lead_status",
            "a000000000000000000000000000000000000008",
            "Lead_Source",
            "leadsourcecode",
        ],
    ),
    (
        "extra",
        [
            "x_extra",
            "Description",
            "message",
            "a000000000000000000000000000000000000009",
            "Description",
            "description",
        ],
    ),
];

impl Vendor {
    /// Those that every scenario is run with.
    pub const ALL: [Vendor; 4] = [
        Vendor::Stub,
        Vendor::Salesforce,
        Vendor::HubSpot,
        Vendor::Pipedrive,
    ];
    /// Those that are spoken to over HTTP.
    pub const REMOTE: [Vendor; 3] = [Vendor::Salesforce, Vendor::HubSpot, Vendor::Pipedrive];

    /// As `create_connection(provider => ...)` and the simulator call it.
    pub fn name(self) -> &'static str {
        [
            "stub",
            "salesforce",
            "hubspot",
            "pipedrive",
            "zoho",
            "dynamics365",
        ][self as usize]
    }

    /// The object that people are.
    pub fn people(self) -> &'static str {
        [
            "contact", "Contact", "contacts", "persons", "Contacts", "contacts",
        ][self as usize]
    }

    /// The field that a column of the table of people is mapped to.
    pub fn field(self, column: &str) -> &'static str {
        let known = FIELDS.iter().find(|(name, _)| *name == column);
        known.unwrap_or_else(|| panic!("no field for {column}")).1[self as usize]
    }

    /// Whether it looks back at what a write replaced, because no write of it can be conditional.
    pub fn looks_back(self) -> bool {
        matches!(self, Vendor::HubSpot | Vendor::Pipedrive | Vendor::Zoho)
    }

    /// A value as the vendor's own people would enter it into the field of a column.
    pub fn entered(self, column: &str, value: &Value) -> Value {
        match (self, column, value) {
            (Vendor::Pipedrive, "email", Value::String(_)) => {
                json!([{ "value": value, "primary": true }])
            }
            (Vendor::Dynamics365, "interests", Value::Array(options)) => {
                let options: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
                options.join(",").into()
            }
            (Vendor::Pipedrive | Vendor::Dynamics365, "source", Value::String(option)) => {
                option.parse().map_or(Value::Null, |id: u32| id.into())
            }
            _ => value.clone(),
        }
    }

    /// A field as the row's column has it.
    fn shown(self, value: Value) -> Value {
        match value.get(0).and_then(|first| first.get("value")) {
            Some(first) if self == Vendor::Pipedrive => first.clone(),
            _ => value,
        }
    }

    /// Fields as the vendor's own people would enter them, by column.
    pub fn entries(self, fields: &Map<String, Value>) -> Map<String, Value> {
        let entered = fields.iter();
        entered
            .map(|(column, value)| (self.field(column).to_owned(), self.entered(column, value)))
            .collect()
    }

    pub fn credentials(self) -> &'static str {
        [
            "{}",
            r#"{"access_token": "sf-token"}"#,
            r#"{"access_token": "hs-token"}"#,
            r#"{"api_token": "pd-token"}"#,
            r#"{"access_token": "zoho-token"}"#,
            r#"{"access_token": "d365-token"}"#,
        ][self as usize]
    }
}

/// A connection of a database, and the CRM behind it. The connection has the vendor's name.
pub struct Crm {
    pub vendor: Vendor,
    sim: Option<Arc<Sim>>,
    /// Whether Composio carries what it is asked.
    carried: bool,
}

impl Crm {
    /// Connects to a CRM of one's own.
    pub async fn connect(db: &Database, vendor: Vendor) -> Crm {
        let sim = (vendor != Vendor::Stub).then(|| Arc::new(Sim::start()));
        Crm::connect_to(db, vendor, sim, "{}").await
    }

    /// Connects to the other CRM of the same simulator.
    pub async fn connect_beside(&self, db: &Database, vendor: Vendor) -> Crm {
        Crm::connect_to(db, vendor, self.sim.clone(), "{}").await
    }

    /// Connects to a CRM of one's own, by way of a gate that can be shut.
    pub async fn connect_through(db: &Database, vendor: Vendor, gate: &Gate, sim: Arc<Sim>) -> Crm {
        let crm = Crm {
            vendor,
            sim: Some(sim),
            carried: false,
        };
        crm.create_connection(db, Some(&gate.url()), "{}").await;
        crm
    }

    /// Connects with options of the connection.
    pub async fn connect_with(db: &Database, vendor: Vendor, options: &str) -> Crm {
        let sim = (vendor != Vendor::Stub).then(|| Arc::new(Sim::start()));
        Crm::connect_to(db, vendor, sim, options).await
    }

    async fn connect_to(
        db: &Database,
        vendor: Vendor,
        sim: Option<Arc<Sim>>,
        options: &str,
    ) -> Crm {
        let crm = Crm {
            vendor,
            sim,
            carried: false,
        };
        crm.create_connection(db, crm.url(), options).await;
        crm
    }

    /// Connects by way of Composio, which has an account of each CRM that it knows.
    pub async fn connect_via_composio(db: &Database, vendor: Vendor) -> Crm {
        let crm = Crm {
            vendor,
            sim: Some(Arc::new(Sim::start())),
            carried: true,
        };
        let account = format!("ca_{}", vendor.name());
        let options =
            json!({"via": "composio", "connected_account_id": account, "user_id": "user-1"});
        crm.create_connection(db, crm.url(), &options.to_string())
            .await;
        crm
    }

    async fn create_connection(&self, db: &Database, url: Option<&str>, options: &str) {
        let name = self.vendor.name();
        let credentials = match self.carried {
            true => r#"{"api_key": "composio-key"}"#,
            false => self.vendor.credentials(),
        };
        let url = url.map_or("NULL".to_owned(), |url| format!("'{url}'"));
        let sql = format!(
            "SELECT crm.create_connection(name => '{name}', provider => '{name}', base_url => {url},
                                          options => '{options}', credentials => '{credentials}')"
        );
        db.execute(&sql).await;
    }

    pub fn url(&self) -> Option<&str> {
        let sim = self.sim.as_deref()?;
        Some(match self.carried {
            true => &sim.composio,
            false => sim.address(self.vendor.name()),
        })
    }

    pub fn sim(&self) -> &Sim {
        self.sim.as_deref().expect("this CRM is simulated")
    }

    /// Registers a fault of this vendor.
    pub fn fault(&self, mut fault: Value) {
        fault["vendor"] = self.vendor.name().into();
        self.sim().fault(fault);
    }

    /// Creates records as a person would; fields are keyed by column. Their ids.
    pub async fn create(
        &self,
        db: &Database,
        object: &str,
        records: &[Map<String, Value>],
    ) -> Vec<String> {
        let made = self.attempt_create(db, object, records).await;
        made.unwrap_or_else(|error| panic!("{object}: {error}"))
    }

    /// The same, unless the CRM refuses them.
    pub async fn attempt_create(
        &self,
        db: &Database,
        object: &str,
        records: &[Map<String, Value>],
    ) -> Result<Vec<String>, String> {
        let named = |record: &Map<String, Value>| -> Map<String, Value> {
            let mut fields = record.clone();
            fields.retain(|_, value| !value.is_null());
            self.vendor.entries(&fields)
        };
        let records: Vec<Map<String, Value>> = records.iter().map(named).collect();
        if let Some(sim) = &self.sim {
            return sim.attempt_create(self.vendor.name(), object, &records);
        }
        let sql = "INSERT INTO crm_stub.records (connection, crm_object, fields)
                   SELECT 'stub', $1, fields FROM ROWS FROM (jsonb_array_elements($2))
                   WITH ORDINALITY AS given (fields, n) ORDER BY n
                   RETURNING crm_id";
        Ok(db.all(sql, &[&object, &json!(records)]).await)
    }

    /// Every record of an object that is not deleted: its fields by its id.
    pub async fn records(
        &self,
        db: &Database,
        object: &str,
    ) -> BTreeMap<String, Map<String, Value>> {
        if let Some(sim) = &self.sim {
            let records = sim.records(self.vendor.name(), object).into_iter();
            return records
                .map(|mut record| {
                    let id = record["id"].as_str().expect("an id").to_owned();
                    let fields: Map<String, Value> =
                        serde_json::from_value(record["fields"].take()).expect("fields");
                    let shown = fields.into_iter();
                    let shown = shown.map(|(name, value)| (name, self.vendor.shown(value)));
                    (id, shown.collect())
                })
                .collect();
        }
        let sql =
            "SELECT crm_id, fields FROM crm_stub.records WHERE crm_object = $1 AND NOT deleted";
        let rows = db.rows(sql, &[&object]).await.into_iter();
        rows.map(|row| {
            (
                row.get(0),
                serde_json::from_value(row.get(1)).expect("fields"),
            )
        })
        .collect()
    }

    /// The fields of one record, `None` if it is not there or deleted.
    pub async fn record(
        &self,
        db: &Database,
        object: &str,
        id: &str,
    ) -> Option<Map<String, Value>> {
        self.records(db, object).await.remove(id)
    }

    /// Changes fields of a record as a person would; fields are keyed by column.
    pub async fn edit(&self, db: &Database, object: &str, id: &str, fields: &Value) {
        let fields = self
            .vendor
            .entries(fields.as_object().expect("column -> value"));
        if let Some(sim) = &self.sim {
            let path = format!("objects/{}/{object}/{id}", self.vendor.name());
            sim.patch(&path, &json!({ "fields": fields }));
            return;
        }
        let sql = "UPDATE crm_stub.records SET fields = jsonb_strip_nulls(fields || $2) WHERE crm_id = $1";
        db.rows(sql, &[&id, &json!(fields)]).await;
    }

    /// Deletes a record as a person would.
    pub async fn delete(&self, db: &Database, object: &str, id: &str) {
        match &self.sim {
            Some(sim) => {
                sim.delete(&format!("objects/{}/{object}/{id}", self.vendor.name()));
                if self.vendor == Vendor::Pipedrive {
                    // Only each quarter of an hour is it asked for what was deleted.
                    sim.post("clock", &json!({"skew_s": 1000}));
                }
            }
            None => {
                db.rows("DELETE FROM crm_stub.records WHERE crm_id = $1", &[&id])
                    .await;
            }
        }
    }

    /// Brings back a deleted record as a person would, and changes it.
    pub async fn restore(&self, db: &Database, object: &str, id: &str, fields: &Value) {
        if let Some(sim) = &self.sim {
            let path = format!("objects/{}/{object}/{id}", self.vendor.name());
            sim.patch(&path, &json!({ "deleted": false }));
        } else {
            let sql = "UPDATE crm_stub.records SET deleted = false WHERE crm_id = $1";
            db.rows(sql, &[&id]).await;
        }
        self.edit(db, object, id, fields).await;
    }

    /// Has the next `times` requests fail that read, write or create one record of the people: with a class of errors, with
    /// `drop` (nothing applied) or with `drop_after_apply`. The fault ends with [`Crm::relent`].
    pub async fn fail(&self, db: &Database, operation: &str, class: &str, times: u32) {
        if self.sim.is_none() {
            let class = if class == "drop" { "timeout" } else { class };
            let operation = if operation == "create" {
                "write"
            } else {
                operation
            };
            let sql = "SELECT crm_stub.inject('stub', $1, $2, NULL, $3)";
            return db
                .rows(sql, &[&class, &(times as i32), &operation])
                .await
                .truncate(0);
        }
        if self.vendor == Vendor::Pipedrive && class == "not_found" {
            // Nor does the list show it, which is asked then.
            self.fault(
                json!({"method": "GET", "path": "/persons?ids=", "times": times, "status": 200,
                              "body": {"success": true, "data": []}}),
            );
        }
        let mut fault = self.matching(operation);
        let pipedrive = self.vendor == Vendor::Pipedrive;
        let salesforce = self.vendor == Vendor::Salesforce;
        let dynamics = self.vendor == Vendor::Dynamics365;
        let refused = |code: &str| {
            if pipedrive {
                json!({"success": false, "error": format!("as injected: {code}"), "code": "ERR_SCHEMA_VALIDATION_FAILED"})
            } else if dynamics {
                json!({"error": {"code": code, "message": "as injected"}})
            } else if salesforce {
                json!([{"errorCode": code, "message": "as injected", "fields": []}])
            } else {
                json!({"status": "error", "message": "as injected", "category": "VALIDATION_ERROR", "correlationId": "c",
                       "errors": [{"message": "as injected", "code": code}]})
            }
        };
        let answer = match class {
            "transient" => json!({"status": 503}),
            "rate_limited" if salesforce => {
                let mut body = refused("REQUEST_LIMIT_EXCEEDED");
                body[0]["message"] =
                    "ConcurrentRequests (Concurrent API Requests) Limit exceeded.".into();
                json!({"status": 403, "headers": {"Retry-After": "2"}, "body": body})
            }
            "rate_limited" => json!({"status": 429, "headers": {"Retry-After": "2"}}),
            "auth" => json!({"status": 401}),
            "validation" if salesforce => {
                json!({"status": 400, "body": refused("FIELD_CUSTOM_VALIDATION_EXCEPTION")})
            }
            "validation" if dynamics => json!({"status": 400, "body": refused("0x80040265")}),
            "mapping" if dynamics => json!({"status": 400, "body": refused("0x80060888")}),
            "conflict" if dynamics => json!({"status": 412, "body": refused("0x80060892")}),
            "validation" => json!({"status": 400, "body": refused("INVALID_OPTION")}),
            "mapping" if pipedrive => json!({"status": 400, "body": refused("is not allowed")}),
            "conflict" if pipedrive => json!({"status": 409}),
            "mapping" if salesforce => json!({"status": 400, "body": refused("INVALID_FIELD")}),
            "mapping" => json!({"status": 400, "body": refused("PROPERTY_DOESNT_EXIST")}),
            "conflict" if salesforce => json!({"status": 400, "body": refused("DUPLICATE_VALUE")}),
            "conflict" => json!({"status": 409, "body": refused("CONFLICTING_UNIQUE_VALUE")}),
            "not_found" if salesforce => {
                json!({"status": 404, "body": refused("ENTITY_IS_DELETED")})
            }
            "not_found" => json!({"status": 404}),
            "drop" => json!({"drop": "before"}),
            "drop_after_apply" => json!({"drop": "after"}),
            other => panic!("no fault for {other}"),
        };
        let answer = answer.as_object().expect("an object").clone();
        fault.as_object_mut().expect("an object").extend(answer);
        fault["times"] = times.into();
        self.fault(fault);
    }

    /// What of a fault matches the requests that read, write or create one record of the people.
    pub fn matching(&self, operation: &str) -> Value {
        let object = self.vendor.people();
        match (self.vendor, operation) {
            (Vendor::Salesforce, "read") => {
                json!({"method": "GET", "path": format!("/sobjects/{object}/")})
            }
            (Vendor::Zoho, "read") => {
                json!({"method": "GET", "path": format!("/{object}?ids=")})
            }
            (Vendor::Zoho, "create") => json!({"method": "POST", "path": "/upsert"}),
            (Vendor::Zoho, _) => json!({"method": "PUT", "path": format!("/{object}")}),
            (Vendor::Dynamics365, "read") => {
                json!({"method": "GET", "path": format!("/{object}(")})
            }
            (Vendor::Dynamics365, "create") => {
                json!({"method": "PATCH", "path": "crm_externalkey="})
            }
            (Vendor::Dynamics365, _) => {
                json!({"method": "PATCH", "path_regex": format!("/{object}\\([0-9a-f-]+\\)$")})
            }
            (Vendor::Pipedrive, "read") => {
                json!({"method": "GET", "path_regex": format!("/{object}/[0-9]+$")})
            }
            // The look at the history afterwards asks for some.
            (_, "read") => {
                json!({"method": "POST", "path": "/batch/read", "body_contains": "\"propertiesWithHistory\":[]"})
            }
            (Vendor::Pipedrive, "create") => {
                json!({"method": "POST", "path": format!("/{object}")})
            }
            (Vendor::HubSpot, "create") => json!({"method": "POST", "path": "/batch/upsert"}),
            _ => json!({"method": "PATCH", "path": format!("/{object}/")}),
        }
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

    /// What was asked since the last [`Crm::forget`]: method and path of each request.
    pub async fn asked(&self, db: &Database) -> Vec<String> {
        match &self.sim {
            Some(sim) => {
                let word = |r: &Value, name: &str| r[name].as_str().unwrap_or_default().to_owned();
                let requests = sim.requests("");
                requests
                    .iter()
                    .map(|r| format!("{} {}", word(r, "method"), word(r, "path")))
                    .collect()
            }
            None => {
                let sql = "SELECT method || ' ' || path FROM crm_stub.requests ORDER BY request_id";
                db.all(sql, &[]).await
            }
        }
    }

    pub async fn forget(&self, db: &Database) {
        match &self.sim {
            Some(sim) => sim.forget_requests(),
            None => db.execute("TRUNCATE crm_stub.requests").await,
        }
    }
}
