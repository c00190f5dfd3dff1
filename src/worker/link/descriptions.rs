//! What a link's CRM said of its objects, for a while: who maps many fields asks once. A CRM that does not answer is
//! not asked again at once either. All goes with the link, so new credentials ask anew.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crm_domain::{Description, ErrorClass, Failure};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::timeout;

use super::{Lane, Link, RequestContext, http};

/// How long an answer is good for those who do not ask for a fresh one.
const KEPT: Duration = Duration::from_secs(30);
/// How long these wait for the CRM.
const PATIENCE: Duration = Duration::from_secs(4);

#[derive(Default)]
pub struct Descriptions(AsyncMutex<HashMap<String, Told>>);

#[derive(Clone)]
pub struct Told {
    at: Instant,
    pub description: Result<Description, Failure>,
    /// Whether it is the answer to an earlier question.
    pub is_kept: bool,
}

impl Link {
    /// The fields of an object; `None`: the provider cannot ask.
    pub async fn describe(&self, object: &str, fresh: bool) -> Option<Told> {
        // Held meanwhile: who comes second finds the answer.
        let mut known = self.descriptions.0.lock().await;
        known.retain(|_, told| told.at.elapsed() < KEPT);
        if let Some(told) = known.get(object)
            && !fresh
        {
            return Some(Told {
                is_kept: true,
                ..told.clone()
            });
        }
        let operation = self.provider.describe(&self.settings, object)?;
        let had_outage = self.health.outage().is_some();
        let context = RequestContext::new(Lane::RealTime);
        let answer = self.run(&context, operation);
        let description = if fresh {
            answer.await
        } else {
            let late = "no answer within a few seconds";
            let late = || Failure::connection(ErrorClass::Transient, http::TIMEOUT, late);
            timeout(PATIENCE, answer)
                .await
                .unwrap_or_else(|_| Err(late()))
        };
        if !had_outage {
            // Nobody's work failed: it will find out for itself.
            self.take_outage();
        }
        let told = Told {
            at: Instant::now(),
            description: description.map(|told| self.provider.with_storage_rules(told)),
            is_kept: false,
        };
        known.insert(object.to_owned(), told.clone());
        Some(told)
    }
}
