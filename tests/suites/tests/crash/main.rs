//! Whatever is killed, at whatever step: every edit arrives, nothing arrives twice in effect,
//! nothing is made up.

mod commits;
mod composio;
mod daily_limit;
mod fail_points;
mod faults;
mod links;
mod power_cut;
mod real_time;
mod rotation;
mod zoho_jobs;
