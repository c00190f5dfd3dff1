//! What a link's CRM said of its objects, for a while: mapping many fields asks once. A CRM that
//! does not respond is not asked again at once either. All goes with the link, so new credentials
//! ask anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::{Description, ErrorClass, Failure};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::http;

/// How long a description is good for those who do not ask for a fresh one.
const KEPT: Duration = Duration::from_secs(30);
/// How long these wait for the CRM.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Default)]
pub struct Descriptions(AsyncMutex<HashMap<String, KnownDescription>>);

#[derive(Clone)]
pub struct KnownDescription {
    at: Instant,
    pub description: Result<Description, Failure>,
    /// Whether it is the response to an earlier request.
    pub is_kept: bool,
}

impl Descriptions {
    /// The fields of an object: those that are known, or those that `ask` gets from the CRM.
    pub async fn get(
        &self,
        object: &str,
        fresh: bool,
        ask: impl Future<Output = Result<Description, Failure>>,
    ) -> KnownDescription {
        // Locked meanwhile: a second caller finds the description.
        let mut known = self.0.lock().await;
        known.retain(|_, description| description.at.elapsed() < KEPT);
        if let Some(description) = known.get(object)
            && !fresh
        {
            return KnownDescription {
                is_kept: true,
                ..description.clone()
            };
        }
        let description = match fresh {
            true => ask.await,
            false => timeout(PATIENCE, ask).await.unwrap_or_else(|_| Err(late())),
        };
        let description = KnownDescription {
            at: Instant::now(),
            description,
            is_kept: false,
        };
        known.insert(object.to_owned(), description.clone());
        description
    }
}

fn late() -> Failure {
    let late = "no answer within a few seconds";
    Failure::connection(ErrorClass::Transient, http::TIMEOUT, late)
}
