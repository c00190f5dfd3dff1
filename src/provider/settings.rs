//! A connection's options: the limits on its requests, and the vendor's own settings.

use crm_domain::budget::{self, Limits};

use crate::composio;

/// Fixed facts of one connection that requests depend on (never a secret).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `api_version` and whatever else `connections.options` holds for this provider.
    pub options: serde_json::Map<String, serde_json::Value>,
    /// Records above which an asynchronous bulk job is used (`pg_crm.bulk_threshold`).
    pub bulk_threshold: usize,
}

/// The option that limits the requests in flight, and its default.
pub const IN_FLIGHT_OPTION: &str = "max_in_flight";
const IN_FLIGHT: u64 = 4;
const MOST_IN_FLIGHT: u64 = 64;

/// The option that limits the rate: {"requests": 100, "seconds": 10}.
pub const RATE_OPTION: &str = "rate_limit";
/// The option that limits the requests of a day, which begins at midnight UTC.
pub const DAY_OPTION: &str = "daily_limit";
/// The option that reserves a part of each budget for real-time writes, 0.0 to 0.9.
pub const RESERVE_OPTION: &str = "realtime_reserve";

impl Settings {
    pub fn new(
        options: serde_json::Map<String, serde_json::Value>,
        bulk_threshold: usize,
    ) -> Settings {
        // Jobs take files, which a broker may not carry.
        let jobs = !composio::is_way(&options);
        Settings {
            bulk_threshold: if jobs { bulk_threshold } else { usize::MAX },
            options,
        }
    }

    /// What the admin allows.
    pub fn limits(&self) -> Limits {
        let rate = self.options.get(RATE_OPTION).and_then(|rate| {
            let requests = u32::try_from(rate["requests"].as_u64()?).ok()?;
            let seconds = rate["seconds"].as_f64()?;
            (requests > 0 && seconds > 0.0).then_some((requests, (seconds * 1000.0) as i64))
        });
        let reserve = self.options.get(RESERVE_OPTION);
        let reserve = reserve.and_then(serde_json::Value::as_f64);
        let day = self.options.get(DAY_OPTION);
        Limits {
            rate,
            day: day.and_then(serde_json::Value::as_u64),
            reserve: reserve.unwrap_or(budget::RESERVE).clamp(0.0, 0.9),
        }
    }

    /// How many requests of a batch may be in flight at once.
    pub fn in_flight(&self) -> usize {
        let told = self.options.get(IN_FLIGHT_OPTION);
        let told = told.and_then(serde_json::Value::as_u64);
        told.unwrap_or(IN_FLIGHT).clamp(1, MOST_IN_FLIGHT) as usize
    }
}
