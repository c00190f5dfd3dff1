//! How connections are doing, durable, so that a restart neither forgets an outage nor a rate limit.

use crm_domain::{ErrorClass, Failure};
use crm_provider::{News, Usage};
use pgrx::spi::SpiClient;
use serde_json::{Map, Value as Json};

use super::{Kept, StoreError};

/// What was last told of the request budgets, be it with a refusal. Who was silent is taken at an earlier word.
pub fn used(client: &mut SpiClient, connection_id: i32, news: &News) -> Result<(), StoreError> {
    let mut told = Map::new();
    let mut tell = |name: &str, number: Option<u64>| told.insert(name.to_owned(), number.into());
    let seconds = |usage: &Usage| usage.window.map(|window| window.as_secs());
    let News { crm, broker, spent } = news;
    if *crm != Usage::default() {
        tell("daily_limit", crm.daily_limit);
        tell("daily_remaining", crm.daily_remaining);
        tell("window_limit", crm.window_limit);
        tell("window_remaining", crm.window_remaining);
        tell("window_seconds", seconds(crm));
    }
    if *broker != Usage::default() {
        tell("broker_limit", broker.window_limit);
        tell("broker_remaining", broker.window_remaining);
        tell("broker_seconds", seconds(broker));
    }
    if let Some(spent) = spent {
        tell("day", u64::try_from(spent.day).ok());
        tell("requests", Some(spent.requests));
    }
    client.update(
        Kept("UPDATE crm.connection_state SET usage = coalesce(usage, '{}') || $2::jsonb, told_at = now() WHERE connection_id = $1"),
        None,
        &[connection_id.into(), Json::from(told).to_string().into()],
    )?;
    Ok(())
}

/// The CRM answers as it should, or again; what is known of the budget stays.
pub fn healthy(client: &mut SpiClient, connection_id: i32) -> Result<(), StoreError> {
    client.update(
        Kept("UPDATE crm.connection_state
         SET failures = 0, blocked_until = '-infinity', error_class = NULL, last_error = NULL, changed_at = now()
         WHERE connection_id = $1 AND state = 'ok' AND failures > 0"),
        None,
        &[connection_id.into()],
    )?;
    Ok(())
}

/// The CRM, or the way to it, is in trouble: wait. Refused credentials stop the connection until set_credentials().
pub fn troubled(
    client: &mut SpiClient,
    connection_id: i32,
    failure: &Failure,
    wait_ms: i64,
    version: i32,
) -> Result<(), StoreError> {
    let refused = failure.class == ErrorClass::Auth;
    client.update(
        Kept("INSERT INTO crm.connection_state AS s (connection_id, state, failures, blocked_until, error_class, last_error)
         SELECT c.connection_id, CASE WHEN $2 THEN 'error' ELSE 'ok' END, 1, now() + $3 * interval '1 ms', $4, $5
         FROM crm.connection c LEFT JOIN crm.credential k USING (connection_id)
         WHERE c.connection_id = $1 AND (NOT $2 OR coalesce(k.version, 0) = $6)
         ON CONFLICT (connection_id) DO UPDATE
         SET state = CASE WHEN $2 THEN 'error' ELSE s.state END, failures = s.failures + 1, blocked_until = excluded.blocked_until,
             error_class = excluded.error_class, last_error = excluded.last_error, changed_at = now()"),
        None,
        &[
            connection_id.into(),
            refused.into(),
            wait_ms.into(),
            failure.class.name().into(),
            format!("{} ({})", failure.message, failure.code).into(),
            version.into(),
        ],
    )?;
    Ok(())
}

/// Keeps a refresh token that the vendor replaced; committed before the new access token is used. Credentials that were
/// set since are not touched.
pub fn rotate(
    client: &mut SpiClient,
    connection_id: i32,
    version: i32,
    refresh_token: &str,
) -> Result<(), StoreError> {
    // Until the end of the transaction: a generic plan holds a parameter where auto_explain would print the token.
    client.update(
        Kept("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"),
        None,
        &[],
    )?;
    client.update(
        Kept("UPDATE crm.credential SET secret = secret || jsonb_build_object('refresh_token', $2), updated_at = now()
         WHERE connection_id = $1 AND version = $3"),
        None,
        &[connection_id.into(), refresh_token.into(), version.into()],
    )?;
    Ok(())
}
