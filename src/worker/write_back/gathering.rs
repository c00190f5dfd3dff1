//! A batch as it is gathered: it is claimed and read in steps, and sent as one, because a CRM is
//! asked in as few requests as it allows.

use super::claim::Claim;
use crate::settings::Settings;

#[derive(Default)]
pub struct Gathering {
    claim: Option<Claim>,
    bytes: usize,
}

impl Gathering {
    pub fn is_empty(&self) -> bool {
        self.claim.is_none()
    }

    pub fn is_full(&self, settings: &Settings) -> bool {
        self.room(settings) == 0 || self.bytes >= settings.batch_bytes
    }

    /// How many records may be added.
    pub fn room(&self, settings: &Settings) -> usize {
        let records = self.claim.as_ref().map_or(0, Claim::records);
        settings.batch_rows.saturating_sub(records)
    }

    /// The settings by which the rest of the batch is read.
    pub fn rest_of(&self, settings: &Settings) -> Settings {
        Settings {
            batch_bytes: settings.batch_bytes.saturating_sub(self.bytes),
            ..settings.clone()
        }
    }

    /// Adds what was claimed. If the mapping is another by now, what was gathered before is
    /// returned, to be sent by itself.
    pub fn add(&mut self, next: Claim) -> Option<Claim> {
        let bytes = next.batch.size();
        match &mut self.claim {
            Some(claim) if claim.goes_with(&next) => {
                claim.append(next);
                self.bytes += bytes;
                None
            }
            claim => {
                self.bytes = bytes;
                claim.replace(next)
            }
        }
    }

    pub fn finish(self) -> Option<Claim> {
        self.claim
    }
}
