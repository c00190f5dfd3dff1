//! What is left of the day, and how many records there are.

use super::Salesforce;
use crate::http::{Request, Response};
use serde_json::json;

impl Salesforce {
    pub(super) fn limit_info(&self) -> String {
        let meter = self.0.services.budget.meter();
        format!("api-usage={}/{}", meter.daily_used, meter.daily_limit)
    }

    pub(super) fn record_count(&self, request: &Request) -> Response {
        let names = request.list("sObjects");
        let store = self.0.store.lock();
        let objects = store.objects.iter();
        let asked = objects.filter(|object| names.is_empty() || names.contains(&object.def.name));
        let counts = asked.map(|object| {
            let count = object.live_since(i64::MIN).count();
            json!({"name": object.def.name, "count": count})
        });
        Response::json(200, &json!({"sObjects": counts.collect::<Vec<_>>()}))
    }

    pub(super) fn limits(&self) -> Response {
        let meter = self.0.services.budget.meter();
        let full = |max: u64| json!({"Max": max, "Remaining": max});
        Response::json(
            200,
            &json!({
                "DailyApiRequests": {"Max": meter.daily_limit, "Remaining": meter.daily_left()},
                "DailyBulkApiBatches": full(15_000),
                "DailyBulkV2QueryJobs": full(10_000),
                "DailyBulkV2QueryFileStorageMB": full(976_562),
                "DataStorageMB": full(10_240),
            }),
        )
    }
}
