//! The one place that records a connection's health: its outages, and that it works again.

use std::time::Duration;

use crm_domain::{ErrorClass, Failure};
use pgrx::spi::SpiClient;

use crate::store::config::Connection;
use crate::store::{StoreError, connection_state, transaction};
use crate::worker::retry_policy;

/// Records how a connection is doing, by its last use: its CRM answered, or there was an outage.
/// After an outage it is left alone for the time returned; `None`: nothing was recorded, as its
/// credentials have changed.
pub fn record(
    client: &mut SpiClient,
    connection: &Connection,
    outage: Option<&Failure>,
) -> Result<Option<Duration>, StoreError> {
    let Some(failure) = outage else {
        connection_state::healthy(client, connection)?;
        return Ok(Some(Duration::ZERO));
    };
    let wait = retry_policy::backoff(failure, connection.failures, fastrand::f64());
    let recorded =
        connection_state::troubled(client, connection, failure, wait.as_millis() as i64)?;
    Ok(recorded.then_some(wait))
}

/// The same in a transaction of its own, for the connection as this worker knows it.
pub fn note(connection: &mut Connection, outage: Option<&Failure>) -> Result<(), StoreError> {
    if outage.is_none() && connection.failures == 0 {
        return Ok(());
    }
    let recorded = transaction(|client| record(client, connection, outage));
    let Some(failure) = outage else {
        connection.failures = 0;
        return recorded.map(|_| ());
    };
    // An outage that could not be recorded is one all the same.
    let wait = match &recorded {
        Ok(wait) => *wait,
        Err(_) => Some(retry_policy::backoff(
            failure,
            connection.failures,
            fastrand::f64(),
        )),
    };
    if let Some(wait) = wait {
        connection.failures += 1;
        connection.blocked_ms = wait.as_millis() as i64;
        connection.in_error |= failure.class == ErrorClass::Auth;
    }
    recorded.map(|_| ())
}

/// The connection's credentials cannot be resolved, so there is no link that could find them
/// refused.
pub fn record_unresolved(connection: &Connection, reason: String) -> Result<(), StoreError> {
    if connection.in_error {
        return Ok(());
    }
    let failure = Failure::connection(ErrorClass::Auth, "credentials", reason);
    transaction(|client| connection_state::troubled(client, connection, &failure, 0))?;
    Ok(())
}
