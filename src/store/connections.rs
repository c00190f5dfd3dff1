//! How connections are doing, durable, so that a restart neither forgets an outage nor a rate limit.

use crm_domain::{ErrorClass, Failure};
use crm_provider::Usage;
use pgrx::spi::SpiClient;
use serde_json::json;

use super::{Kept, StoreError};

/// What the CRM last told of the request budget, if it did, be it with a refusal.
pub fn used(client: &mut SpiClient, connection_id: i32, usage: &Usage) -> Result<(), StoreError> {
    let usage = json!({
        "daily_limit": usage.daily_limit, "daily_remaining": usage.daily_remaining,
        "window_remaining": usage.window_remaining, "window_limit": usage.window_limit,
        "window_seconds": usage.window.map(|w| w.as_secs()),
    });
    client.update(
        Kept("UPDATE crm.connection_state SET usage = $2::jsonb, told_at = now() WHERE connection_id = $1"),
        None,
        &[connection_id.into(), usage.to_string().into()],
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
    client.update(
        Kept("UPDATE crm.credential SET secret = secret || jsonb_build_object('refresh_token', $2), updated_at = now()
         WHERE connection_id = $1 AND version = $3"),
        None,
        &[connection_id.into(), refresh_token.into(), version.into()],
    )?;
    Ok(())
}
