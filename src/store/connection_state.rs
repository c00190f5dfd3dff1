//! How connections are doing, durable, so that a restart neither forgets an outage nor a rate
//! limit.

use crm_domain::{ErrorClass, Failure};
use crm_provider::{Usage, UsageReport};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;
use serde_json::{Map, Value as Json};

use crate::store::config::connection::Connection;
use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// Failures in a row after which a connection's circuit is open: see `crm.status_wide.circuit`.
pub const OPENS_AFTER: u32 = 3;

/// Stores what was last reported of the request budgets, a refusal included. If one side reported
/// nothing, its last report stands.
pub fn used(
    client: &mut SpiClient,
    connection_id: i32,
    report: &UsageReport,
) -> Result<(), StoreError> {
    let mut usage = Map::new();
    let mut add = |name: &str, number: Option<u64>| usage.insert(name.to_owned(), number.into());
    let seconds = |usage: &Usage| usage.window.map(|window| window.as_secs());
    let UsageReport { crm, broker, used } = report;
    if *crm != Usage::default() {
        add("daily_limit", crm.daily_limit);
        add("daily_remaining", crm.daily_remaining);
        add("window_limit", crm.window_limit);
        add("window_remaining", crm.window_remaining);
        add("window_seconds", seconds(crm));
    }
    if *broker != Usage::default() {
        add("broker_limit", broker.window_limit);
        add("broker_remaining", broker.window_remaining);
        add("broker_seconds", seconds(broker));
    }
    if let Some(used) = used {
        add("day", u64::try_from(used.day).ok());
        add("requests", Some(used.requests));
    }
    client.update(
        Cached("UPDATE crm.connection_state SET usage = coalesce(usage, '{}') || $2::jsonb, usage_reported_at = now() WHERE connection_id = $1"),
        None,
        &[connection_id.into(), Json::from(usage).to_string().into()],
    )?;
    Ok(())
}

/// The CRM answers as it should, or again; what is known of the budget stays.
pub fn healthy(client: &mut SpiClient, connection: &Connection) -> Result<(), StoreError> {
    let mut well = client.update(
        Cached("UPDATE crm.connection_state s
         SET failures = 0, blocked_until = '-infinity', error_class = NULL, last_error = NULL, changed_at = now()
         FROM (SELECT b.failures FROM crm.connection_state b WHERE b.connection_id = $1) before
         WHERE s.connection_id = $1 AND s.state = 'ok' AND s.failures > 0
           AND coalesce((SELECT k.version FROM crm.credential k WHERE k.connection_id = $1), 0) = $2
         RETURNING before.failures"),
        None,
        &[connection.id.into(), connection.version.into()],
    )?;
    let failures: Option<i32> = well
        .next()
        .map(|row| row.required("failures"))
        .transpose()?;
    if failures.is_some_and(|failures| failures >= OPENS_AFTER as i32) {
        log!(
            "pg_crm: the CRM of connection \"{}\" responds again",
            connection.name
        );
    }
    Ok(())
}

/// Whether these are the connection's credentials still, and stay so until this transaction ends:
/// what was done with others says nothing of how it is doing. Credentials that another session is
/// just setting are others.
fn is_current(client: &mut SpiClient, connection: &Connection) -> Result<bool, StoreError> {
    if connection.version == 0 {
        // There were none: a restored database. A session that sets the first has locked the
        // connection; one statement to lock, or not, and another to see.
        let free = client.update(
            Cached("SELECT FROM crm.connection c WHERE c.connection_id = $1 FOR SHARE SKIP LOCKED"),
            None,
            &[connection.id.into()],
        )?;
        let none = client.update(
            Cached("SELECT FROM crm.credential k WHERE k.connection_id = $1"),
            None,
            &[connection.id.into()],
        )?;
        return Ok(!free.is_empty() && none.is_empty());
    }
    let same = client.update(
        Cached("SELECT FROM crm.credential k WHERE k.connection_id = $1 AND k.version = $2 FOR SHARE SKIP LOCKED"),
        None,
        &[connection.id.into(), connection.version.into()],
    )?;
    Ok(!same.is_empty())
}

/// The CRM, or the way to it, is in trouble: wait. Refused credentials stop the connection until
/// set_credentials(). `connection`: as it was when the CRM was asked. `false`: its credentials are
/// others by now, so that nothing is noted.
pub fn troubled(
    client: &mut SpiClient,
    connection: &Connection,
    failure: &Failure,
    wait_ms: i64,
) -> Result<bool, StoreError> {
    if !is_current(client, connection)? {
        return Ok(false);
    }
    let refused = failure.class == ErrorClass::Auth;
    let reason = format!("{} ({})", failure.message, failure.code);
    let mut noted = client.update(
        Cached("WITH before AS (SELECT b.state FROM crm.connection_state b WHERE b.connection_id = $1)
         INSERT INTO crm.connection_state AS s (connection_id, state, failures, blocked_until, error_class, last_error)
         SELECT c.connection_id, CASE WHEN $2 THEN 'error' ELSE 'ok' END, 1, now() + $3 * interval '1 ms', $4, $5
         FROM crm.connection c WHERE c.connection_id = $1
         ON CONFLICT (connection_id) DO UPDATE
         SET state = CASE WHEN $2 THEN 'error' ELSE s.state END, failures = s.failures + 1, blocked_until = excluded.blocked_until,
             error_class = excluded.error_class, last_error = excluded.last_error, changed_at = now()
         RETURNING s.state = 'error' AND (SELECT b.state FROM before b) IS DISTINCT FROM 'error' AS stopped, s.failures"),
        None,
        &[
            connection.id.into(),
            refused.into(),
            wait_ms.into(),
            failure.class.name().into(),
            reason.as_str().into(),
        ],
    )?;
    let (stopped, failures): (Option<bool>, Option<i32>) = match noted.next() {
        Some(row) => (row.optional("stopped")?, row.optional("failures")?),
        None => (None, None),
    };
    let name = &connection.name;
    if stopped.unwrap_or_default() {
        log!(
            "pg_crm stops connection \"{name}\" until crm.set_credentials(): its credentials were refused: {reason}"
        );
    } else if !refused && failures == Some(OPENS_AFTER as i32) {
        log!(
            "pg_crm pauses connection \"{name}\" after {OPENS_AFTER} failed requests in a row: {reason}"
        );
    }
    Ok(true)
}

/// Keeps a refresh token that the vendor replaced; committed before the new access token is used.
/// Credentials that were set since are not touched.
pub fn rotate(
    client: &mut SpiClient,
    connection_id: i32,
    version: i32,
    refresh_token: &str,
) -> Result<(), StoreError> {
    // Until the end of the transaction: a generic plan holds a parameter where auto_explain would
    // print the token.
    client.update(
        Cached("SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"),
        None,
        &[],
    )?;
    client.update(
        Cached("UPDATE crm.credential SET secret = secret || jsonb_build_object('refresh_token', $2), updated_at = now()
         WHERE connection_id = $1 AND version = $3"),
        None,
        &[connection_id.into(), refresh_token.into(), version.into()],
    )?;
    Ok(())
}
