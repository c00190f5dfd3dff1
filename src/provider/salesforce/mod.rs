//! Salesforce: REST rows, sObject Collections and Bulk API 2.0.
//!
//! The endpoint follows from the number of records: one goes by a row's own path, up to
//! `pg_crm.bulk_threshold` by collections of 200, more by a bulk job. All three end in the same
//! outcomes and errors.

mod api;
mod bulk;
mod changes;
mod collections;
mod csv_rows;
mod describe;
mod errors;
mod keys;
mod oauth;
mod options;
mod reads;
mod results;
mod rows;
#[cfg(test)]
mod tests;
mod values;
mod version;

use std::sync::Arc;

use crm_domain::{DataType, Description, Failure, Value, ValueError};
use serde_json::Value as Json;

use crate::calls::Calls;
use crate::change_scan::OVERLAP_OPTION;
use crate::changes::is_api_name;
use crate::creation::FindFirst;
use crate::operation::{Exchange, FailedOperation};
use crate::outcomes::{Outcome, Plan};
use crate::record_id::RecordIdForm;
use crate::storage_rules::StorageRules;
use crate::{
    BoxOperation, ChangesPage, ChangesQuery, Credentials, CrmObject, Grant, Guard, Method, Profile,
    Provider, ReadBatch, Response, Settings, Usage, WriteBatch, WriteKind, webhook, wire,
};

use api::Api;
use collections::Collection;
use keys::Keys;
use options::WriteHeaders;
use reads::Reading;
use rows::Single;

pub struct Salesforce;

const PROFILE: Profile = Profile {
    name: "salesforce",
    // Every org has a host of its own.
    base_url: None,
    option_keys: &[
        "api_version",
        OVERLAP_OPTION,
        options::DUPLICATE_RULE,
        options::AUTO_ASSIGN,
    ],
    credential_keys: &[
        "access_token",
        "client_id",
        "client_secret",
        "refresh_token",
        "token_url",
        "scope",
        "username",
        "private_key_file",
        "audience",
        "login_url",
        webhook::SECRET,
    ],
};

/// Webhooks come from a relay, since Salesforce sends none of its own.
impl Provider for Salesforce {
    fn profile(&self) -> &'static Profile {
        &PROFILE
    }

    fn check_options(
        &self,
        options: &serde_json::Map<String, Json>,
    ) -> Result<(), (String, &'static str)> {
        options::check(options)
    }

    fn write_size(&self, settings: &Settings, _kind: WriteKind, count: usize) -> usize {
        if takes_job(settings, count) {
            count
        } else {
            collections::WRITE_LIMIT
        }
    }

    /// Rows take conditions, collections and jobs do not. A delete takes none anywhere ("DELETE
    /// requests aren't supported"), and an upsert has no read that it is based on. A history, which
    /// could be asked afterwards, is kept only of the few fields that an administrator chooses.
    fn guard(&self, kind: WriteKind, count: usize) -> Guard {
        match (kind, count) {
            (WriteKind::Update, 0 | 1) => Guard::Atomic,
            _ => Guard::None,
        }
    }

    fn write(&self, settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
        if !batch.creates_only {
            return write(settings, batch);
        }
        let names = [batch.key_field(), &batch.object];
        if let Some(name) = names.into_iter().find(|name| !is_api_name(name)) {
            return Box::new(FailedOperation::new(changes::no_name(name)));
        }
        let keys = Keys::new(Api::new(settings), &batch);
        let settings = settings.clone();
        FindFirst::start(keys, self.key_equality(), batch, move |rest| {
            write(&settings, rest)
        })
    }

    fn read_size(&self, _object: &str) -> usize {
        reads::LIMIT
    }

    fn read(
        &self,
        settings: &Settings,
        batch: Arc<ReadBatch>,
    ) -> BoxOperation<Vec<Option<CrmObject>>> {
        Box::new(Reading::new(Api::new(settings), batch))
    }

    fn changes(&self, settings: &Settings, query: Arc<ChangesQuery>) -> BoxOperation<ChangesPage> {
        changes::changes(settings, query)
    }

    fn count(&self, settings: &Settings, object: &str) -> Option<BoxOperation<u64>> {
        Some(changes::count(settings, object))
    }

    fn describe(&self, settings: &Settings, object: &str) -> Option<BoxOperation<Description>> {
        Some(describe::describe(settings, object))
    }

    fn record_id_form(&self) -> RecordIdForm {
        RecordIdForm::Salesforce
    }

    fn record_id(&self, id: &str) -> String {
        api::long_id(id)
    }

    /// The limits need no right on any object, and say something worth knowing.
    fn ping(&self, settings: &Settings) -> BoxOperation<String> {
        let request = Api::new(settings).request(Method::Get, "/limits");
        Box::new(Exchange::new(request, |response| {
            errors::check(&response)?;
            Ok(what_is_left(&response))
        }))
    }

    fn authorise(&self, base_url: &str, credentials: &Credentials) -> Option<BoxOperation<Grant>> {
        oauth::authorise(base_url, credentials)
    }

    fn failure(&self, response: &Response) -> Option<Failure> {
        errors::of_response(response)
    }

    /// `Sforce-Limit-Info: api-usage=18/5000; per-app-api-usage=17/250(appName=x)`: by key, not by
    /// place.
    fn usage(&self, response: &Response) -> Usage {
        let info = response.header("sforce-limit-info").unwrap_or_default();
        let counts = info.split([';', ',']).find_map(|part| {
            let (used, limit) = part.trim().strip_prefix("api-usage=")?.split_once('/')?;
            Some((
                used.trim().parse::<u64>().ok()?,
                limit.trim().parse::<u64>().ok()?,
            ))
        });
        Usage {
            daily_limit: counts.map(|(_, limit)| limit),
            daily_remaining: counts.map(|(used, limit)| limit.saturating_sub(used)),
            ..Usage::default()
        }
    }

    fn to_wire(&self, _data_type: DataType, value: &Value) -> Json {
        values::form(value).into()
    }

    /// A checkbox is never empty, a moment is a whole second, and an id has one spelling.
    fn stored(&self, data_type: DataType, value: Value) -> Value {
        match value {
            Value::Null if data_type == DataType::Boolean => Value::Boolean(false),
            Value::Timestamp(ms) => Value::Timestamp(ms - ms.rem_euclid(1000)),
            Value::Text(id) if data_type == DataType::Reference => Value::Text(api::long_id(&id)),
            value => value,
        }
    }

    fn storage_rules(&self) -> StorageRules {
        values::STORAGE_RULES
    }

    fn from_wire(&self, data_type: DataType, wire: &Json) -> Result<Value, ValueError> {
        wire::read(data_type, wire)
    }
}

fn write(settings: &Settings, batch: Arc<WriteBatch>) -> BoxOperation<Vec<Outcome>> {
    let api = Api::new(settings);
    let key_form = match batch.kind {
        WriteKind::Upsert => api::whole_key,
        WriteKind::Update | WriteKind::Delete => api::id_form,
    };
    let plan = Plan::new(&batch, key_form);
    match &batch.records[..] {
        [_] if batch.kind != WriteKind::Upsert || api::is_path_safe(batch.key(0)) => {
            Box::new(Single::new(api, batch, plan))
        }
        records if records.len() > 1 && takes_job(settings, records.len()) => {
            bulk::write(api, batch, plan)
        }
        _ => Box::new(Calls::new(
            Collection { api, batch },
            plan,
            collections::WRITE_LIMIT,
        )),
    }
}

/// Whether so many records are work for a job.
fn takes_job(settings: &Settings, count: usize) -> bool {
    count > settings.bulk_threshold && !WriteHeaders::any(&settings.options)
}

/// What `test_connection` shows of an answer of `/limits`.
fn what_is_left(response: &Response) -> String {
    let limits = response.json().unwrap_or_default();
    let requests = &limits["DailyApiRequests"];
    match (requests["Remaining"].as_u64(), requests["Max"].as_u64()) {
        (Some(left), Some(max)) => {
            format!("Salesforce answers: {left} of {max} API requests left for today")
        }
        _ => "Salesforce answers".to_owned(),
    }
}

#[cfg(test)]
mod stored_tests {
    use super::*;

    #[test]
    fn a_checkbox_is_never_empty_and_a_moment_is_a_whole_second() {
        for (data_type, written, kept) in [
            (DataType::Boolean, Value::Null, Value::Boolean(false)),
            (
                DataType::Boolean,
                Value::Boolean(true),
                Value::Boolean(true),
            ),
            (
                DataType::Timestamp,
                Value::Timestamp(1_999),
                Value::Timestamp(1_000),
            ),
            (
                DataType::Timestamp,
                Value::Timestamp(-1),
                Value::Timestamp(-1_000),
            ),
            (DataType::Timestamp, Value::Null, Value::Null),
            (DataType::Text, Value::text("1"), Value::text("1")),
        ] {
            assert_eq!(Salesforce.stored(data_type, written), kept);
        }
    }
}
