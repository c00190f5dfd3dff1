//! Whatever a CRM answers, each record gets its one outcome, in order, and nothing counts as done
//! that no answer says.

use std::sync::{Arc, LazyLock};

use crm_domain::{Failure, canonical};
use crm_provider::composio::{self, Account};
use crm_provider::hubspot::HubSpot;
use crm_provider::salesforce::Salesforce;
use crm_provider::{
    ChangesPage, Credentials, CrmObject, Method, Provider, Request, Step, WriteKind, Written,
};
use serde_json::json;

use crate::conversation::{self, Line, run};
use crate::requests;
use crate::scenario::{Asked, Scenario};

pub fn check(provider: &dyn Provider, data: &[u8]) {
    let mut scenario = Scenario::read(data);
    scenario.keep_options(provider);
    let line = Line::direct(provider, &scenario.answers);
    hold(provider, &scenario, line);
}

/// The same by way of the broker, whose answers hold those of the CRM.
pub fn check_carried(data: &[u8]) {
    // The first letter of the object's name is as good as any to choose by.
    let provider: &dyn Provider = match data.first() {
        Some(b'H') => &HubSpot,
        _ => &Salesforce,
    };
    let mut scenario = Scenario::read(data.get(1..).unwrap_or_default());
    scenario.keep_options(provider);
    for response in &scenario.answers {
        composio::usage(response);
    }
    let mut line = Line::direct(provider, &scenario.answers);
    if scenario.asked != Asked::Authorise {
        return hold(provider, &scenario, line.by(carry, composio::deliver));
    }
    let key = Credentials([(composio::KEY.to_owned(), "key".to_owned())].into());
    let ask = ACCOUNT.authorise("https://broker.test", provider.name(), &key);
    let _ = run(ask.expect("there is a key"), &mut line);
}

static ACCOUNT: LazyLock<Account> = LazyLock::new(|| {
    let options = json!({"via": "composio", "connected_account_id": "ca_1", "user_id": "dana"});
    Account::of(options.as_object().expect("it is one")).expect("it is a way")
});

fn carry(request: &Request) -> Request {
    ACCOUNT.carry(request, "key", (Some("correlation"), None))
}

fn hold(provider: &dyn Provider, scenario: &Scenario, mut line: Line<'_>) {
    let settings = &scenario.settings;
    for response in &scenario.answers {
        provider.usage(response);
        if let Some(failure) = provider.failure(response) {
            conversation::check(&failure);
        }
    }
    match scenario.asked {
        Asked::Write(kind) => {
            let operation = provider.write(settings, Arc::new(scenario.write(kind)));
            if let Ok(outcomes) = run(operation, &mut line) {
                written(provider, scenario, kind, &outcomes, line.succeeded);
            }
        }
        Asked::Read { for_write } => {
            let operation = provider.read(settings, Arc::new(scenario.reading(for_write)));
            if let Ok(objects) = run(operation, &mut line) {
                read(provider, scenario, &objects, line.succeeded);
            }
        }
        Asked::Changes => changes(provider, scenario, &mut line),
        Asked::Overwritten => {
            let Some(operation) = provider.overwritten(settings, Arc::new(scenario.done())) else {
                return;
            };
            if let Ok(found) = run(operation, &mut line) {
                assert_eq!(found.len(), scenario.keys.len());
                let found: usize = found.iter().map(Vec::len).sum();
                assert!(line.succeeded || found == 0);
            }
        }
        Asked::Count => {
            let operation = provider.count(settings, &scenario.object);
            let counted = operation.map(|operation| run(operation, &mut line));
            assert!(line.succeeded || !matches!(counted, Some(Ok(_))));
        }
        Asked::Describe => {
            let operation = provider.describe(settings, &scenario.object);
            let told = operation.map(|operation| run(operation, &mut line));
            assert!(line.succeeded || !matches!(told, Some(Ok(_))));
        }
        Asked::Ping => {
            let told = run(provider.ping(settings), &mut line);
            // A refusal of this one question can be proof enough that the token is good.
            assert!(line.answered || told.is_err());
        }
        Asked::Authorise => authorise(provider, &mut line),
    }
}

fn written(
    provider: &dyn Provider,
    scenario: &Scenario,
    kind: WriteKind,
    outcomes: &[Result<Written, Failure>],
    succeeded: bool,
) {
    assert_eq!(outcomes.len(), scenario.keys.len());
    for (key, outcome) in scenario.keys.iter().zip(outcomes) {
        match outcome {
            Ok(written) => {
                assert!(succeeded, "written, by no answer");
                assert!(!key.is_empty(), "written, without a key");
                assert!(!written.crm_id.is_empty(), "written, without an id");
                if kind != WriteKind::Upsert {
                    same(provider, key, &written.crm_id);
                    assert!(!written.created, "created by an {}", kind.name());
                }
            }
            Err(failure) => conversation::check(failure),
        }
    }
}

fn read(
    provider: &dyn Provider,
    scenario: &Scenario,
    objects: &[Option<CrmObject>],
    succeeded: bool,
) {
    assert_eq!(objects.len(), scenario.keys.len());
    for (id, object) in scenario.keys.iter().zip(objects) {
        let Some(object) = object else {
            continue;
        };
        assert!(succeeded, "read, by no answer");
        same(provider, id, &object.crm_id);
        based_on(provider, scenario, object);
        values(provider, scenario, object);
    }
}

/// The write that is based on a read names what was read, in a request that HTTP can carry.
fn based_on(provider: &dyn Provider, scenario: &Scenario, object: &CrmObject) {
    if object.version.is_none() {
        return;
    }
    let mut batch = scenario.write(WriteKind::Update);
    batch.records.truncate(1);
    for record in &mut batch.records {
        record.unless_changed.clone_from(&object.version);
    }
    let first = provider
        .write(&scenario.settings, Arc::new(batch))
        .step(None);
    if let Step::Send(request) = first {
        requests::check(&request);
    }
}

/// Both ids are one record's.
fn same(provider: &dyn Provider, asked: &str, told: &str) {
    // The last three characters of Salesforce's long spelling tell nothing of their own.
    let form = |id: &str| match provider.name() {
        "salesforce" if id.len() == 18 => provider.record_id(id.get(..15).unwrap_or(id)),
        _ => provider.record_id(id),
    };
    assert_eq!(form(asked), form(told), "another record");
}

/// The values of a record can be made canonical, or are refused.
fn values(provider: &dyn Provider, scenario: &Scenario, object: &CrmObject) {
    for field in &scenario.fields {
        let Some(told) = object.fields.get(&field.name) else {
            continue;
        };
        if let Ok(value) = provider.from_wire(field.data_type, told) {
            assert_eq!(value.hash(), canonical::hash(&value.to_json()));
        }
    }
}

/// Page after page, as long as there are answers: each goes on from what the one before left.
fn changes(provider: &dyn Provider, scenario: &Scenario, line: &mut Line<'_>) {
    let mut since = None;
    while !line.is_over() {
        let query = Arc::new(scenario.changes(since.take()));
        let result = run(provider.changes(&scenario.settings, query.clone()), line);
        let page = match result {
            Ok(page) => page,
            Err(failure) => {
                assert_ne!(failure.code, "unreadable_cursor");
                return;
            }
        };
        assert!(line.answered, "a page, by no answer");
        told(provider, scenario, &page);
        if !page.more && query.since.as_ref() == Some(&page.next) {
            return;
        }
        since = Some(page.next);
    }
}

fn told(provider: &dyn Provider, scenario: &Scenario, page: &ChangesPage) {
    assert!(page.next.is_object(), "no cursor: {}", page.next);
    for change in &page.changes {
        assert!(!change.object.crm_id.is_empty(), "a change of no record");
        assert_ne!(change.external_id.as_deref(), Some(""));
        assert!(change.merged_into.is_none() || change.deleted);
        assert_ne!(change.merged_into.as_ref(), Some(&change.object.crm_id));
        values(provider, scenario, &change.object);
    }
}

fn authorise(provider: &dyn Provider, line: &mut Line<'_>) {
    const SECRETS: [&str; 2] = ["client_secret", "refresh_token"];
    let given = ["client_id"].into_iter().chain(SECRETS);
    let given = given.map(|key| (key.to_owned(), format!("the-{key}")));
    let credentials = Credentials(given.collect());
    let Some(operation) = provider.authorise("https://crm.test", &credentials) else {
        return;
    };
    match run(operation, line) {
        Ok(grant) => {
            assert!(line.succeeded, "granted, by no answer");
            assert!(!grant.access_token.is_empty(), "an empty token");
            let mut request = Request::new(Method::Get, "/");
            provider.sign(&mut request, &grant.access_token);
            requests::check(&request);
        }
        Err(failure) => {
            for secret in SECRETS.map(|key| format!("the-{key}")) {
                assert!(!failure.message.contains(&secret), "it tells a secret");
            }
        }
    }
}
