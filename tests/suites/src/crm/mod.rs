//! The CRMs behind one face: records as a person of the CRM sees them, whoever the vendor is.

mod alterations;
mod contestants;
pub mod facts;
mod faults;
mod fields;
mod tokens;
mod vendors;

pub use contestants::{Contestant, Way};

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

impl Vendor {
    /// Those that long scenarios are run with.
    pub const ALL: [Vendor; 4] = [
        Vendor::Stub,
        Vendor::Salesforce,
        Vendor::HubSpot,
        Vendor::Pipedrive,
    ];
    /// Those of them that are spoken to over HTTP.
    pub const REMOTE: [Vendor; 3] = [Vendor::Salesforce, Vendor::HubSpot, Vendor::Pipedrive];

    /// As `create_connection(provider => ...)` and the simulator call it.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// The object that people are.
    pub fn people(self) -> &'static str {
        self.facts().people
    }

    pub fn credentials(self) -> &'static str {
        self.facts().credentials
    }
}

/// A connection of a database, and the CRM behind it. The connection has the vendor's name.
pub struct Crm {
    pub vendor: Vendor,
    way: Way,
    sim: Option<Arc<Sim>>,
}

impl Crm {
    /// Connects to a CRM of one's own.
    pub async fn connect(db: &Database, whom: impl Into<Contestant>) -> Crm {
        Crm::connect_with(db, whom, "{}").await
    }

    /// Connects to the other CRM of the same simulator.
    pub async fn connect_beside(&self, db: &Database, whom: impl Into<Contestant>) -> Crm {
        Crm::connect_to(db, whom.into(), self.sim.clone(), "{}").await
    }

    /// Connects to a CRM of one's own, by way of a gate that can be shut.
    pub async fn connect_through(db: &Database, vendor: Vendor, gate: &Gate, sim: Arc<Sim>) -> Crm {
        let (way, sim) = (Way::Direct, Some(sim));
        let crm = Crm { vendor, way, sim };
        crm.create_connection(db, Some(&gate.url()), "{}").await;
        crm
    }

    /// Connects with options of the connection.
    pub async fn connect_with(db: &Database, whom: impl Into<Contestant>, options: &str) -> Crm {
        let whom = whom.into();
        let sim = (whom.vendor != Vendor::Stub).then(|| Arc::new(Sim::start()));
        Crm::connect_to(db, whom, sim, options).await
    }

    async fn connect_to(
        db: &Database,
        Contestant { vendor, way }: Contestant,
        sim: Option<Arc<Sim>>,
        options: &str,
    ) -> Crm {
        let crm = Crm { vendor, way, sim };
        crm.create_connection(db, crm.url(), options).await;
        crm
    }

    async fn create_connection(&self, db: &Database, url: Option<&str>, options: &str) {
        let (name, credentials) = (self.vendor.name(), self.credentials());
        let options = self.way.options(self.vendor, options);
        let url = url.map_or("NULL".to_owned(), |url| format!("'{url}'"));
        let sql = format!(
            "SELECT crm.create_connection(name => '{name}', provider => '{name}', base_url => {url},
                                          options => '{options}', credentials => '{credentials}')"
        );
        db.execute(&sql).await;
    }

    pub fn url(&self) -> Option<&str> {
        let sim = self.sim.as_deref()?;
        Some(match self.way {
            Way::Direct => sim.address(self.vendor.name()),
            Way::Composio => &sim.composio,
        })
    }

    /// What the connection shows to whoever it speaks to.
    pub fn credentials(&self) -> &'static str {
        match self.way {
            Way::Direct => self.vendor.credentials(),
            Way::Composio => r#"{"api_key": "composio-key"}"#,
        }
    }

    pub fn sim(&self) -> &Sim {
        self.sim.as_deref().expect("this CRM is simulated")
    }

    /// The name by which the simulator knows the vendor, if it is simulated.
    pub fn is_simulated(&self) -> Option<&'static str> {
        self.sim.is_some().then(|| self.vendor.name())
    }

    /// Sets the CRM's clock ahead, so that what is done from now on is later by whole seconds.
    pub fn pass_time(&self) {
        if let Some(sim) = &self.sim {
            sim.post("clock", &json!({"skew_s": 5}));
        }
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
        let made = db.client().query(sql, &[&object, &json!(records)]).await;
        let made = made.map_err(|error| format!("{error:?}"))?;
        Ok(made.iter().map(|row| row.get(0)).collect())
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

    /// Changes fields of many records at one moment.
    pub async fn edit_all(&self, db: &Database, object: &str, ids: &[String], fields: &Value) {
        let fields = self
            .vendor
            .entries(fields.as_object().expect("column -> value"));
        if let Some(sim) = &self.sim {
            let edits = ids.iter().map(|id| json!({"id": id, "fields": fields}));
            let path = format!("objects/{}/{object}", self.vendor.name());
            sim.patch(&path, &edits.collect());
            return;
        }
        let sql = "UPDATE crm_stub.records SET fields = fields || $2 WHERE crm_id = ANY ($1)";
        db.rows(sql, &[&ids, &json!(fields)]).await;
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

    /// What was asked since the last [`Crm::forget`]: method and path of each request.
    pub async fn asked(&self, db: &Database) -> Vec<String> {
        match &self.sim {
            Some(sim) => {
                let word = |r: &Value, name: &str| r[name].as_str().unwrap_or_default().to_owned();
                let requests = sim.requests("");
                // What the broker was asked comes down to what it asked the CRM.
                let of_crm = requests.iter().filter(|r| r["vendor"] != "composio");
                of_crm
                    .map(|r| format!("{} {}", word(r, "method"), word(r, "path")))
                    .collect()
            }
            None => {
                let sql = "SELECT method || ' ' || path FROM crm_stub.requests ORDER BY request_id";
                db.all(sql, &[]).await
            }
        }
    }

    /// How often it was looked for changes since the last [`Crm::forget`].
    pub async fn looks(&self, db: &Database) -> usize {
        let look = self.vendor.facts().changes;
        let Some(sim) = &self.sim else {
            let asked = self.asked(db).await;
            return asked.iter().filter(|path| path.contains(look)).count();
        };
        let word = |r: &Value, name: &str| r[name].as_str().unwrap_or_default().to_owned();
        let target = |r: &Value| format!("{}?{}", word(r, "path"), word(r, "query"));
        let requests = sim.requests("");
        requests.iter().filter(|r| target(r).contains(look)).count()
    }

    /// How many requests there were since the last [`Crm::forget`], those among them that are not
    /// kept any more.
    pub async fn request_count(&self, db: &Database) -> usize {
        match &self.sim {
            Some(sim) => {
                let stats = sim.get("requests/stats")[self.vendor.name()]["requests"].take();
                stats.as_u64().unwrap_or_default() as usize
            }
            None => db.count("crm_stub.requests").await as usize,
        }
    }

    pub async fn forget(&self, db: &Database) {
        match &self.sim {
            Some(sim) => sim.forget_requests(),
            None => db.execute("TRUNCATE crm_stub.requests").await,
        }
    }
}
