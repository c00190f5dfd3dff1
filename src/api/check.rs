//! Checks of what admins state, where the rules live in the domain and in the providers.

use std::path::Path;

use crm_domain::DataType;
use crm_domain::validation::Rules;
use crm_provider::{Provider, composio};
use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;
use serde_json::Value as Json;

use super::document::Document;
use super::{or_raise, raise};
use crate::secrets;
use crate::store::table::violations;
use crate::store::transaction::subtransaction;
use crate::worker::link::allowed_hosts;

const INVALID: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE;

pub fn known_providers() -> String {
    let names = crm_provider::providers().iter().map(|p| p.name());
    format!("Known providers: {}.", names.collect::<Vec<_>>().join(", "))
}

fn provider(name: &str) -> &'static dyn Provider {
    crm_provider::provider(name).unwrap_or_else(|| {
        raise(
            INVALID,
            format!("provider \"{name}\" is not known"),
            None,
            &known_providers(),
        )
    })
}

/// The members of a JSON object whose keys are all known, or an error that lists the known ones.
fn members<'a>(what: &str, json: &'a Json, known: &[&str]) -> &'a serde_json::Map<String, Json> {
    let list = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    let Some(object) = json.as_object() else {
        raise(
            INVALID,
            format!("{what} must be a JSON object"),
            None,
            &format!("Known keys: {list}."),
        )
    };
    if let Some(key) = object.keys().find(|key| !known.contains(&key.as_str())) {
        raise(
            INVALID,
            format!("{what} does not know the key \"{key}\""),
            None,
            &format!("Known keys: {list}."),
        )
    }
    object
}

/// Raises unless the provider, its URL and its options make sense. Stable: it asks
/// `pg_crm.allowed_hosts`.
#[pg_extern(stable, parallel_safe, schema = "crm_internal")]
fn check_connection(provider_name: &str, base_url: Option<&str>, options: Document) {
    let provider = provider(provider_name);
    let common = [
        crm_provider::IN_FLIGHT_OPTION,
        crm_provider::RATE_OPTION,
        crm_provider::DAY_OPTION,
        crm_provider::RESERVE_OPTION,
    ];
    let of_broker = [
        composio::VIA_OPTION,
        composio::ACCOUNT_OPTION,
        composio::USER_OPTION,
    ];
    let carried = composio::CARRIED.contains(&provider.name());
    let known: Vec<&str> = common
        .into_iter()
        .chain(of_broker.into_iter().filter(|_| carried))
        .chain(provider.profile().option_keys.iter().copied())
        .collect();
    let options = members("options", &options.0, &known);
    check_way(options);
    if let Some(n) = options.get("max_in_flight")
        && !n.as_u64().is_some_and(|n| (1..=64).contains(&n))
    {
        raise(
            INVALID,
            format!("max_in_flight cannot be {n}"),
            None,
            "It is the number of concurrent requests, 1 to 64.",
        );
    }
    check_budget(options);
    if let Err((message, hint)) = provider.check_options(options) {
        raise(INVALID, message, None, hint);
    }
    if provider.name() == "stub" {
        return;
    }
    let upload_url = crm_provider::zoho::UPLOAD_URL_OPTION;
    if let Some(url) = options.get(upload_url) {
        admit(upload_url, url.as_str().unwrap_or_default());
    }
    match base_url.or_else(|| crm_provider::default_base_url(provider, options)) {
        None => raise(
            INVALID,
            format!("a {provider_name} connection needs a base_url"),
            None,
            "It is the org's own address, such as https://acme.my.salesforce.com.",
        ),
        Some(url) => {
            admit("base_url", url);
            let own =
                crm_provider::default_base_url(provider, options).and_then(allowed_hosts::place);
            if let Some(page) = allowed_hosts::place(url)
                && own.is_none()
            {
                raise(
                    INVALID,
                    format!(
                        "base_url \"{}\" is more than an address",
                        allowed_hosts::without_user(url)
                    ),
                    Some(format!(
                        "\"{page}\" looks like a page of the CRM's: the API does not live there."
                    )),
                    &format!(
                        "Leave it out: {}.",
                        allowed_hosts::without_user(&url[..url.len() - page.len()])
                    ),
                )
            }
        }
    }
}

/// Raises unless requests may go there.
fn admit(what: &str, url: &str) {
    let allowed_hosts = crate::settings::Settings::current().allowed_hosts;
    if let Err(reason) = allowed_hosts::check(url, &allowed_hosts) {
        raise(
            INVALID,
            format!(
                "{what} \"{}\" is not allowed",
                allowed_hosts::without_user(url)
            ),
            Some(reason),
            "Use https; plain http is allowed to loopback only; pg_crm.allowed_hosts limits the hosts.",
        )
    }
}

/// Raises unless options lead to the CRM directly, or by way of a broker's account.
fn check_way(options: &serde_json::Map<String, Json>) {
    let text = |name: &str| {
        options.get(name).is_none_or(|value| {
            value
                .as_str()
                .is_some_and(|text| !text.is_empty() && text.trim() == text)
        })
    };
    for name in [composio::ACCOUNT_OPTION, composio::USER_OPTION] {
        if !text(name) {
            raise(
                INVALID,
                format!("{name} cannot be {}", options[name]),
                None,
                "It is a string, as Composio shows it.",
            )
        }
    }
    match options.get(composio::VIA_OPTION) {
        Some(via) if via != composio::NAME => raise(
            INVALID,
            format!("via cannot be {via}"),
            None,
            "\"composio\" is the only broker; without it the connection speaks to its CRM directly.",
        ),
        Some(_) if !options.contains_key(composio::ACCOUNT_OPTION) => raise(
            INVALID,
            "a connection via Composio needs a connected_account_id".to_owned(),
            Some("With several accounts of one user, Composio would use any of them.".to_owned()),
            "Composio shows it next to the account; it looks like ca_1a2b3c.",
        ),
        Some(_) => {}
        None => {
            let own = [composio::ACCOUNT_OPTION, composio::USER_OPTION];
            if let Some(name) = own.into_iter().find(|name| options.contains_key(*name)) {
                raise(
                    INVALID,
                    format!("{name} says nothing without {{\"via\": \"composio\"}}"),
                    None,
                    "Add via, or leave it out.",
                )
            }
        }
    }
}

fn check_budget(options: &serde_json::Map<String, Json>) {
    if let Some(rate) = options.get(crm_provider::RATE_OPTION) {
        let whole = rate["requests"]
            .as_u64()
            .is_some_and(|n| (1..=1_000_000).contains(&n));
        let time = rate["seconds"]
            .as_f64()
            .is_some_and(|s| (0.1..=3600.0).contains(&s));
        let exact = rate.as_object().is_some_and(|rate| rate.len() == 2);
        if !(whole && time && exact) {
            raise(
                INVALID,
                format!("rate_limit cannot be {rate}"),
                None,
                "It limits the connection's requests within a window of 0.1 to 3600 seconds: {\"requests\": 100, \"seconds\": 10}.",
            );
        }
    }
    if let Some(day) = options.get(crm_provider::DAY_OPTION)
        && !day
            .as_u64()
            .is_some_and(|n| (1..=1_000_000_000).contains(&n))
    {
        raise(
            INVALID,
            format!("daily_limit cannot be {day}"),
            None,
            "It limits the connection's requests per day, which begins at midnight UTC: 1 to 1000000000.",
        )
    }
    if let Some(part) = options.get(crm_provider::RESERVE_OPTION)
        && !part
            .as_f64()
            .is_some_and(|part| (0.0..=0.9).contains(&part))
    {
        raise(
            INVALID,
            format!("realtime_reserve cannot be {part}"),
            None,
            "It is the fraction of each request budget reserved for real-time writes, 0 to 0.9.",
        );
    }
}

/// Raises unless the keys are those of the provider, or of the broker that keeps its credentials,
/// and each value is a string or a reference.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
fn check_credentials(provider_name: &str, options: Document, credentials: Document) {
    let provider = provider(provider_name);
    let is_kept = options.0.as_object().is_some_and(composio::is_way);
    let known = match is_kept {
        true => &composio::CREDENTIAL_KEYS[..],
        false => provider.profile().credential_keys,
    };
    for (key, value) in members("credentials", &credentials.0, known) {
        let reference = value.as_object().is_some_and(|o| {
            o.len() == 1
                && ["file", "env"]
                    .iter()
                    .any(|k| o.get(*k).is_some_and(Json::is_string))
        });
        if let Some(text) = value.as_str() {
            check_literal(key, text);
        } else if key.ends_with(secrets::FILE) || !reference {
            raise(
                INVALID,
                format!("credential \"{key}\" is neither a string nor a reference"),
                None,
                "References are {\"file\": \"/path\"} and {\"env\": \"NAME\"}; the worker resolves them.",
            )
        }
    }
}

/// Raises unless addresses are such that may be asked, and paths lead from the root.
fn check_literal(key: &str, text: &str) {
    if key.ends_with("_url")
        && !text.is_empty()
        && let Err(reason) = allowed_hosts::check(text, &[])
    {
        raise(
            INVALID,
            format!("credential \"{key}\" is not a valid token URL"),
            Some(reason),
            "Use https; plain http is allowed to loopback only; pg_crm.allowed_hosts limits the hosts.",
        )
    }
    if key.ends_with(secrets::FILE) && !Path::new(text).is_absolute() {
        raise(
            INVALID,
            format!("credential \"{key}\" must be an absolute path"),
            None,
            "The worker reads the file on the server, as the server's operating system user.",
        )
    }
}

/// Raises unless the validation rules are known and fit the type.
#[pg_extern(immutable, parallel_safe, schema = "crm_internal")]
pub fn check_rules(validation: Document, data_type: &str) {
    let data_type: DataType = data_type.parse().unwrap_or_else(|_| {
        raise(
            INVALID,
            format!("data_type \"{data_type}\" is not known"),
            None,
            "",
        )
    });
    if let Err(error) = Rules::parse(&validation.0, data_type) {
        raise(INVALID, error.to_string(), None, &error.hint())
    }
}

/// How many rows of a table violate the rules of a column: how many do, how many were read, and
/// whether these are all. No row: the table's own code prevents reading it.
#[pg_extern(volatile, parallel_unsafe, schema = "crm_internal")]
fn count_violations(
    relation: pg_sys::Oid,
    column_name: &str,
    as_json: bool,
    data_type: &str,
    validation: Document,
) -> TableIterator<
    'static,
    (
        name!(violating, i64),
        name!(rows, i64),
        name!(is_whole, bool),
    ),
> {
    let data_type: DataType = data_type.parse().unwrap_or(DataType::Text);
    let rules = Rules::parse(&validation.0, data_type).unwrap_or_default();
    let counted =
        subtransaction(|| violations::count(relation, column_name, as_json, data_type, &rules));
    let counted = match counted {
        Err(error) if error.is_the_tables() => None,
        counted => Some(or_raise(counted)),
    };
    TableIterator::new(
        counted
            .into_iter()
            .map(|c| (c.violating as i64, c.rows as i64, c.is_whole)),
    )
}

extension_sql!(
    r#"
COMMENT ON FUNCTION crm_internal.check_connection(text, text, jsonb) IS 'raises invalid_parameter_value (22023) unless provider, base URL and options are valid';
COMMENT ON FUNCTION crm_internal.check_credentials(text, jsonb, jsonb) IS 'raises invalid_parameter_value (22023) unless the keys are those of the provider or its broker; never shows a value';
COMMENT ON FUNCTION crm_internal.count_violations(oid, text, bool, text, jsonb) IS 'how many rows of a table violate validation rules of a column (as_json: an array), of how many that were read as its owner in a few seconds';
COMMENT ON FUNCTION crm_internal.check_rules(jsonb, text) IS 'raises invalid_parameter_value (22023) unless the validation rules are known and apply to the data type';
"#,
    name = "check_comments",
    requires = [
        check_connection,
        check_credentials,
        check_rules,
        count_violations
    ]
);
