//! Notifications to those who LISTEN.

use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::statement::Cached;

/// Notifies the listeners of channel crm.
pub fn notify(client: &mut SpiClient, events: Vec<String>) -> Result<(), StoreError> {
    if !events.is_empty() {
        client.update(
            Cached("SELECT pg_notify('crm', e) FROM unnest($1::text[]) AS e"),
            None,
            &[events.into()],
        )?;
    }
    Ok(())
}
