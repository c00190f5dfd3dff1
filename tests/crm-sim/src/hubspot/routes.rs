//! Which address means what.

use super::associations::{self, Version};
use super::batch::Batch;
use super::error::HsError;
use super::objects::{self, Answer};
use super::save::Writer;
use super::{HubSpot, directory, groups, portal, properties, search, unknown_type};
use crate::store::{Actor, Stamp};
use crate::vendor::Call;

/// From here on versions answer 200 where older ones answer 207.
const SINGLE_STATUS: &str = "2026-09";

impl HubSpot {
    pub(super) fn resource(&self, call: &Call<'_>, parts: &[&str]) -> Answer {
        let request = call.request;
        let kind = request.header("content-type").unwrap_or("application/json");
        if !request.body.is_empty() && !kind.to_ascii_lowercase().starts_with("application/json") {
            return Err(HsError::new(
                415,
                "VALIDATION_ERROR",
                "Unsupported Media Type",
            ));
        }
        match parts {
            ["crm", "v3", "objects", name, id, "associations", path @ ..] => {
                self.of_record(call, name, id, path, Version::V3)
            }
            ["crm", "v4", "objects", name, id, "associations", path @ ..] => {
                self.of_record(call, name, id, path, Version::V4)
            }
            [
                "crm",
                "objects",
                version,
                name,
                id,
                "associations",
                path @ ..,
            ] if is_dated(version) => self.of_record(call, name, id, path, dated(version)),
            ["crm", "v3", "associations", from, to, path @ ..] => {
                self.of_pair(call, from, to, path, Version::V3)
            }
            ["crm", "v4", "associations", from, to, path @ ..]
            | ["crm", "associations", "v4", from, to, path @ ..] => {
                self.of_pair(call, from, to, path, Version::V4)
            }
            ["crm", "associations", version, from, to, path @ ..] if is_dated(version) => {
                self.of_pair(call, from, to, path, dated(version))
            }
            ["crm", "v3", "objects", name, path @ ..] => self.objects(call, name, path, true),
            ["crm", "objects", version, name, path @ ..] if is_dated(version) => {
                self.objects(call, name, path, *version < SINGLE_STATUS)
            }
            ["crm", "v3", "properties", name, path @ ..] => {
                let mut store = self.store.lock();
                let at = portal::position(&store, name).ok_or_else(|| unknown_type(name))?;
                let object = &mut store.objects[at];
                let mut all = self.groups.lock();
                match path {
                    ["groups", path @ ..] => groups::answer(&mut all, object, request, path),
                    _ => properties::answer(object, &all, request, path),
                }
            }
            ["crm", "v3", "pipelines", name, path @ ..] => {
                directory::pipelines(&self.store.lock(), name, path)
            }
            ["crm", "v3", "owners", path @ ..] => directory::owners(request, path),
            ["crm-object-schemas", "v3", "schemas", path @ ..]
            | ["crm", "v3", "schemas", path @ ..] => {
                directory::schemas(&mut self.store.lock(), request, path)
            }
            ["account-info", "v3", "api-usage", "daily", "private-apps"] => {
                let now = self.services.clock.now();
                Ok(directory::usage(&self.services.budget.meter(), now))
            }
            ["account-info", "v3", "details"] => Ok(directory::details()),
            _ => Err(HsError::no_resource()),
        }
    }

    fn of_record(
        &self,
        call: &Call<'_>,
        name: &str,
        id: &str,
        path: &[&str],
        version: Version,
    ) -> Answer {
        let store = self.store.lock();
        let at = portal::position(&store, name).ok_or_else(|| unknown_type(name))?;
        let mut calls = associations::Calls {
            store: &store,
            links: &mut self.links.lock(),
            request: call.request,
            version,
            now: self.services.clock.now(),
        };
        calls.of_record(at, id, path)
    }

    fn of_pair(
        &self,
        call: &Call<'_>,
        from: &str,
        to: &str,
        path: &[&str],
        version: Version,
    ) -> Answer {
        let mut calls = associations::Calls {
            store: &self.store.lock(),
            links: &mut self.links.lock(),
            request: call.request,
            version,
            now: self.services.clock.now(),
        };
        calls.of_pair(from, to, path)
    }

    fn objects(&self, call: &Call<'_>, name: &str, path: &[&str], multi_status: bool) -> Answer {
        let request = call.request;
        let mut store = self.store.lock();
        let at = portal::position(&store, name).ok_or_else(|| unknown_type(name))?;
        let now = self.services.clock.now();
        let writer = Writer {
            stamp: Stamp {
                at: now,
                by: Actor::Integration,
            },
            records: call.records,
        };
        let mut calls = objects::Calls {
            store: &mut store,
            at,
            links: &mut self.links.lock(),
            request,
            writer,
        };
        match (request.method.as_str(), path) {
            ("GET", []) => calls.list(),
            ("POST", []) => calls.create(),
            ("POST", ["search"]) => {
                let lag = self.services.settings.read().search_lag_ms;
                search::answer(&calls.store.objects[at], &request.body, now - lag)
            }
            ("POST", ["merge"]) => objects::merge(&mut calls.store.objects[at], request, &writer),
            ("POST", ["gdpr-delete"]) => calls.purge(),
            ("POST", ["batch", verb]) => {
                let batch = Batch {
                    request,
                    writer,
                    multi_status,
                };
                batch.answer(calls.store, at, calls.links, verb)
            }
            ("GET", [id]) => calls.read(id),
            ("PATCH", [id]) => objects::update(&mut calls.store.objects[at], request, id, &writer),
            ("DELETE", [id]) => {
                objects::archive(&mut calls.store.objects[at], request, id, &writer)
            }
            (_, [] | [_]) => Err(HsError::method()),
            _ => Err(HsError::no_resource()),
        }
    }
}

/// `2026-03`, `2027-03-beta`
fn is_dated(version: &str) -> bool {
    let year = version.get(..4).unwrap_or_default();
    year.bytes().all(|byte| byte.is_ascii_digit()) && version.get(4..5) == Some("-")
}

fn dated(version: &str) -> Version {
    match version < SINGLE_STATUS {
        true => Version::V4,
        false => Version::Dated,
    }
}
