//! What changed, page by page, from a CRM that is played by a list of records.

use std::sync::Arc;

use crm_domain::DataType;
use serde_json::{Value as Json, json};

use super::super::Pipedrive;
use super::super::values::second;
use super::{KEY, list, not_found};
use crate::scripted_server::{Log, answer, drive, field, line, settings, with_header};
use crate::{ChangesPage, ChangesQuery, Provider, Request, Response, Settings};

const START: i64 = 1_767_323_045_000;

fn query(object: &str, since: Option<Json>, limit: usize) -> Arc<ChangesQuery> {
    Arc::new(ChangesQuery {
        object: object.to_owned(),
        fields: vec![field("title", DataType::Text)],
        external_id_field: Some(KEY.to_owned()),
        since,
        limit,
    })
}

fn ask(
    object: &str,
    since: Option<Json>,
    limit: usize,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (ChangesPage, Log) {
    let operation = Pipedrive.changes(&settings(1), query(object, since, limit));
    let (result, log) = drive(operation, answer);
    (result.unwrap(), log)
}

/// A CRM: records by id, time and whether they are deleted; its clock.
struct Crm {
    records: Vec<(u64, i64, bool)>,
    now: i64,
}

impl Crm {
    fn answer(&self, request: &Request) -> Response {
        let line = line(request);
        let (_, query) = line.split_once('?').unwrap_or_default();
        let param = |name: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut pairs = pairs.filter(|(held, _)| *held == name);
            pairs
                .next()
                .map(|(_, value)| value.replace("%3A", ":").replace("%20", " "))
        };
        let at = |text: String| crate::wire::moment(&text.into()).unwrap();
        let mut records: Vec<_> = self.records.clone();
        if let Some(since) = param("updated_since").or(param("since_timestamp")).map(at) {
            records.retain(|record| record.1 >= since);
        }
        if let Some(until) = param("updated_until").map(at) {
            records.retain(|record| record.1 < until);
        }
        let recents = line.contains("/recents");
        if !recents && !line.contains("status=") {
            records.retain(|record| !record.2);
        }
        match param("sort_by").as_deref() {
            Some("id") => records.sort_by_key(|record| record.0),
            _ => records.sort_by_key(|record| (record.1, record.0)),
        }
        let limit: usize = param("limit").unwrap().parse().unwrap();
        let marker = param("cursor").or(param("start")).unwrap_or_default();
        let from: usize = marker.parse().unwrap_or(0);
        let shown = records.iter().skip(from).take(limit).map(|(id, at, deleted)| {
            let record = json!({
                "id": id, "title": "x", "update_time": second(*at), "is_deleted": deleted,
                "custom_fields": { KEY: format!("K{id}") },
            });
            match recents {
                true => json!({ "item": "person", "id": id, "data": {
                    "id": id, "update_time": second(*at), "active_flag": !deleted, KEY: format!("K{id}") } }),
                false => record,
            }
        });
        let shown: Vec<Json> = shown.collect();
        let more = from + limit < records.len();
        let next = (from + limit).to_string();
        let body = match line.contains("/api/v1/") {
            true => json!({ "success": true, "data": shown, "additional_data": { "pagination": {
                "start": from, "limit": limit, "more_items_in_collection": more, "next_start": from + limit } } }),
            false => json!({ "success": true, "data": shown,
                "additional_data": { "next_cursor": more.then_some(next) } }),
        };
        let stamp = std::time::UNIX_EPOCH + std::time::Duration::from_millis(self.now as u64);
        with_header(answer(200, &body), "date", &httpdate::fmt_http_date(stamp))
    }

    /// A whole pass: ids and whether they are deleted, and the cursor after it.
    fn pass(
        &self,
        object: &str,
        mut since: Option<Json>,
        limit: usize,
    ) -> (Vec<(u64, bool)>, Json) {
        let mut told = Vec::new();
        for _ in 0..1000 {
            let (page, _) = ask(object, since, limit, |_, request| self.answer(request));
            for change in &page.changes {
                told.push((change.object.crm_id.parse().unwrap(), change.deleted));
            }
            if !page.more {
                return (told, page.next);
            }
            since = Some(page.next);
        }
        panic!("the pass never ends");
    }
}

#[test]
fn every_record_is_told_whatever_the_pages() {
    // Many share a second, and some do not.
    let records: Vec<_> = (1..=57)
        .map(|id| {
            (
                id,
                START + if id % 3 == 0 { id as i64 * 1000 } else { 5000 },
                false,
            )
        })
        .collect();
    let crm = Crm {
        records,
        now: START + 3_600_000,
    };
    for object in ["persons", "products", "deals", "leads"] {
        for limit in [1, 2, 7, 19, 57, 500] {
            let (mut told, _) = crm.pass(object, None, limit);
            told.sort_unstable();
            told.dedup();
            let expected: Vec<_> = (1..=57).map(|id| (id, false)).collect();
            assert_eq!(told, expected, "{object} {limit}");
        }
    }
}

#[test]
fn a_quiet_crm_is_asked_once_and_tells_nothing() {
    let mut crm = Crm {
        records: vec![(1, START, false)],
        now: START + 600_000,
    };
    let (_, cursor) = crm.pass("persons", None, 100);
    crm.now += 1000;
    let (page, log) = ask("persons", Some(cursor), 100, |_, request| {
        crm.answer(request)
    });
    assert!(page.changes.is_empty() && !page.more);
    assert_eq!(
        log.lines(),
        [format!(
            "GET /api/v2/persons?limit=100&sort_by=update_time&sort_direction=asc&updated_since=2026-01-02T03%3A04%3A06Z&custom_fields={KEY}"
        )]
    );
}

#[test]
fn what_becomes_visible_late_is_told() {
    let mut crm = Crm {
        records: vec![(1, START, false)],
        now: START + 10_000,
    };
    let (_, cursor) = crm.pass("persons", None, 100);
    crm.records.push((2, START - 60_000, false));
    crm.now += 30_000;
    let (told, _) = crm.pass("persons", Some(cursor), 100);
    assert!(told.contains(&(2, false)));
}

#[test]
fn deleted_deals_are_in_the_list_and_others_among_the_recent_changes() {
    for object in ["deals", "persons"] {
        let mut crm = Crm {
            records: vec![(1, START, false), (2, START, false)],
            now: START + 600_000,
        };
        let (_, cursor) = crm.pass(object, None, 100);
        crm.now += 1_200_000;
        crm.records[1] = (2, crm.now - 60_000, true);
        let (told, cursor) = crm.pass(object, Some(cursor), 1);
        assert!(told.contains(&(2, true)), "{object} {told:?}");
        // Soon after, it is not looked elsewhere again.
        let (_, log) = ask(object, Some(cursor), 100, |_, request| crm.answer(request));
        let elsewhere = |line: &String| line.contains("/recents") || line.contains("/archived");
        assert!(!log.lines().iter().any(elsewhere), "{object}");
    }
}

#[test]
fn archived_deals_are_told_too() {
    let crm = Crm {
        records: vec![(1, START, false)],
        now: START + 600_000,
    };
    let (page, log) = ask("deals", None, 100, |_, request| crm.answer(request));
    assert_eq!(page.changes.len(), 2);
    assert!(log.lines()[1].starts_with("GET /api/v2/deals/archived?limit=100"));
    assert!(log.lines()[0].contains("&status=open,won,lost,deleted"));
}

#[test]
fn recent_changes_that_are_no_more_stop_nothing() {
    let mut crm = Crm {
        records: vec![(1, START, false)],
        now: START + 600_000,
    };
    let (_, cursor) = crm.pass("persons", None, 100);
    crm.now += 1_200_000;
    let (page, log) = ask("persons", Some(cursor), 100, |_, request| {
        match line(request).contains("/recents") {
            true => not_found(),
            false => crm.answer(request),
        }
    });
    assert!(page.changes.is_empty() && !page.more);
    assert!(log.lines()[1].starts_with(
        "GET /api/v1/recents?since_timestamp=2026-01-02%2003%3A12%3A05&items=person&start=0"
    ));
}

#[test]
fn a_text_that_is_not_taken_any_more_begins_the_second_anew() {
    let records: Vec<_> = (1..=30).map(|id| (id, START, false)).collect();
    let crm = Crm {
        records,
        now: START + 600_000,
    };
    let (mut told, mut since) = (Vec::new(), None);
    let mut refused = 0;
    loop {
        let (page, _) = ask("persons", since, 10, |_, request| {
            if line(request).contains("cursor=20") && refused == 0 {
                refused += 1;
                return answer(400, &json!({ "success": false, "error": "Invalid cursor" }));
            }
            crm.answer(request)
        });
        told.extend(
            page.changes
                .iter()
                .map(|c| c.object.crm_id.parse::<u64>().unwrap()),
        );
        since = Some(page.next);
        if !page.more {
            break;
        }
    }
    told.sort_unstable();
    told.dedup();
    assert_eq!((told.len(), refused), (30, 1));
}

#[test]
fn a_change_bears_what_the_record_holds() {
    let record = json!({
        "id": 7, "title": "Acme", "update_time": "2026-01-02T03:04:05Z", "custom_fields": { KEY: "K7" },
    });
    let (page, _) = ask("organizations", None, 10, |_, _| {
        list(json!([record.clone()]), None)
    });
    let change = &page.changes[0];
    assert_eq!(change.external_id.as_deref(), Some("K7"));
    assert_eq!(json!(change.object.fields), json!({ "title": "Acme" }));
    assert_eq!(change.object.modified_at, Some(START));
}

#[test]
fn a_list_that_stands_still_and_a_strange_cursor_end() {
    let full = json!([{ "id": 7, "update_time": "2026-01-02T03:04:05Z" }]);
    let run = |since: Option<Json>| {
        let operation = Pipedrive.changes(&Settings::default(), query("persons", since, 1));
        drive(operation, |_, _| list(full.clone(), Some("same")))
    };
    let (mut result, _) = run(None);
    for _ in 0..3 {
        result = match result {
            Ok(page) => run(Some(page.next)).0,
            failed => failed,
        };
    }
    assert_eq!(result.unwrap_err().code, "no_progress");
    let (result, _) = run(Some(json!({ "version": 7 })));
    assert_eq!(result.unwrap_err().code, "unreadable_cursor");
}
