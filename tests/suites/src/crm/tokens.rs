//! Access tokens of a simulated CRM: given, expired, revoked.

use serde_json::{Value, json};

use super::Crm;
use super::facts::Grant;
use crate::database::Database;

impl Crm {
    pub fn grant(&self) -> &'static Grant {
        let grant = self.vendor.facts().grant.as_ref();
        grant.unwrap_or_else(|| panic!("{} gives out no tokens", self.vendor.name()))
    }

    /// Credentials that tokens are obtained by.
    pub fn refreshable(&self) -> String {
        let url = self.url().expect("it has an address");
        self.grant().credentials.replace("{url}", url)
    }

    /// The vendor's credentials with another token.
    pub fn with_token(&self, token: &str) -> String {
        let mut credentials: Value = self.vendor.credentials().parse().expect("JSON");
        let fields = credentials.as_object_mut().expect("an object");
        fields.values_mut().for_each(|value| *value = token.into());
        credentials.to_string()
    }

    pub async fn set_credentials(&self, db: &Database, credentials: &str) {
        let name = self.vendor.name();
        let sql = format!("SELECT crm.set_credentials('{name}', '{credentials}')");
        db.execute(&sql).await;
    }

    /// Does something to the tokens of the CRM: `{"expire": "all"}`.
    pub fn tokens(&self, mut order: Value) {
        order["vendor"] = json!(self.vendor.name());
        self.sim().post("tokens", &order);
    }

    /// How often a token was asked for since the last [`Crm::forget`].
    pub fn token_requests(&self) -> usize {
        self.sim().requests(self.grant().path).len()
    }

    /// Words that nobody may see.
    pub fn secrets(&self) -> Vec<String> {
        let given: Value = self.vendor.credentials().parse().expect("JSON");
        let given = given.as_object().expect("an object").values();
        let tokens = given.filter_map(Value::as_str).map(str::to_owned);
        let grant = [self.grant().refresh_token, self.grant().secret];
        tokens.chain(grant.map(str::to_owned)).collect()
    }
}
