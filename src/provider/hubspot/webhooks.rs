//! HubSpot's webhooks, version 3.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::webhook::{self, SECRET, URL_OPTION};
use crate::{Credentials, Settings, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, wire};

/// Objects by the word in a subscription's type, the name in paths, and the id of the type.
const OBJECTS: [(&str, &str, &str); 6] = [
    ("contact", "contacts", "0-1"),
    ("company", "companies", "0-2"),
    ("deal", "deals", "0-3"),
    ("ticket", "tickets", "0-5"),
    ("product", "products", "0-7"),
    ("line_item", "line_items", "0-8"),
];

/// The one name of an object that has several.
pub(super) fn object_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let known = OBJECTS
        .iter()
        .find(|(word, plural, id)| name == *word || name == *plural || name == *id);
    known.map_or(name, |(_, plural, _)| (*plural).to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    subscription_type: String,
    #[serde(default)]
    event_id: Json,
    #[serde(default)]
    subscription_id: Json,
    #[serde(default)]
    portal_id: Json,
    #[serde(default)]
    object_id: Json,
    #[serde(default)]
    occurred_at: Json,
    #[serde(default)]
    object_type_id: Option<String>,
    #[serde(default)]
    property_name: Option<String>,
    #[serde(default)]
    primary_object_id: Json,
    #[serde(default)]
    new_object_id: Json,
    #[serde(default)]
    merged_object_ids: Vec<Json>,
}

pub(super) fn read(
    settings: &Settings,
    credentials: &Credentials,
    request: &WebhookRequest<'_>,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    // HubSpot signs with the secret of the app that subscribes.
    let secret = webhook::secret(credentials, &[SECRET, "client_secret"])?;
    let told = settings.options.get(URL_OPTION).and_then(Json::as_str);
    let url = told.unwrap_or(request.url);
    if url.is_empty() {
        return Err(WebhookError::Unconfigured(URL_OPTION));
    }
    webhook::check_hubspot(secret, url, request)?;
    let events: Vec<Event> = crate::body::read(request.body).ok_or(WebhookError::Malformed)?;
    let mut out = Vec::with_capacity(events.len());
    for event in &events {
        event.read_into(&mut out)?;
    }
    Ok(out)
}

impl Event {
    fn read_into(&self, out: &mut Vec<WebhookEvent>) -> Result<(), WebhookError> {
        let Some((object, verb)) = self.subscription_type.rsplit_once('.') else {
            return Err(WebhookError::Malformed);
        };
        let Some(object) = self.object(object) else {
            return Ok(());
        };
        let kind = match verb {
            "creation" | "propertyChange" | "associationChange" => WebhookKind::Changed,
            "deletion" | "privacyDeletion" => WebhookKind::Deleted,
            "restore" => WebhookKind::Restored,
            "merge" => WebhookKind::Merged,
            _ => return Ok(()),
        };
        let occurred_at = wire::moment(&self.occurred_at).ok_or(WebhookError::Malformed)?;
        // The survivor's values may be those of the records that it took in.
        let survivor = [&self.new_object_id, &self.primary_object_id]
            .into_iter()
            .find_map(id);
        let losers: Vec<String> = self.merged_object_ids.iter().filter_map(id).collect();
        let records: Vec<(String, WebhookKind)> = match kind {
            WebhookKind::Merged if !losers.is_empty() => {
                let losers = losers
                    .into_iter()
                    .filter(|loser| Some(loser) != survivor.as_ref())
                    .map(|loser| (loser, kind));
                let survivor = survivor.clone().map(|id| (id, WebhookKind::Changed));
                losers.chain(survivor).collect()
            }
            _ => vec![(id(&self.object_id).ok_or(WebhookError::Malformed)?, kind)],
        };
        for (crm_id, kind) in records {
            out.push(WebhookEvent {
                event_id: self.unique_id(&crm_id, occurred_at),
                object: object.clone(),
                crm_id,
                kind,
                occurred_at,
            });
        }
        Ok(())
    }

    /// The object that an event is about; `None` for what is no CRM object.
    fn object(&self, word: &str) -> Option<String> {
        match (&self.object_type_id, word) {
            (Some(id), _) if !id.is_empty() => Some(object_name(id)),
            (_, "object") => None,
            _ => {
                let known = OBJECTS.iter().find(|(w, ..)| *w == word);
                known.map(|(_, plural, _)| (*plural).to_owned())
            }
        }
    }

    /// HubSpot's `eventId` is not unique, so all that tells an event from another is taken
    /// together; the number of the attempt is left out.
    fn unique_id(&self, crm_id: &str, occurred_at: i64) -> String {
        let word = |json: &Json| wire::scalar_text(json).unwrap_or_default();
        let parts = [
            word(&self.portal_id),
            word(&self.subscription_id),
            word(&self.event_id),
            self.subscription_type.clone(),
            crm_id.to_owned(),
            self.property_name.clone().unwrap_or_default(),
            occurred_at.to_string(),
        ];
        parts.join(":")
    }
}

fn id(json: &Json) -> Option<String> {
    wire::scalar_text(json).filter(|id| !id.is_empty() && id != "0")
}
