//! From a failure to what happens next, the one place that decides it.

use crm_domain::bisect::{PATIENCE, Undone, fail_alike};
use crm_domain::failure::Scope;
use crm_domain::retry::Backoff;
use crm_domain::{ErrorClass, Failure};

use crate::store::StoreError;
use crate::store::outcome::Outcome;
use crm_domain::mapping::OnCrmDelete;

/// What a record's failure leads to. `attempts`: failures charged to it before this one.
pub fn classify(
    failure: &Failure,
    attempts: u32,
    max_attempts: u32,
    on_crm_delete: OnCrmDelete,
    draw: f64,
) -> Outcome {
    let code = failure.code.clone();
    let error = failure.message.clone();
    let class = failure.class;
    let dead = |code: String, error: String| Outcome::Dead { class, code, error };
    match class {
        // An outage of the connection costs no attempt, and neither does a request to wait.
        _ if failure.scope == Scope::Connection => Outcome::Retry {
            delay_ms: 0,
            charged: false,
            class,
            code,
            error,
        },
        ErrorClass::RateLimited | ErrorClass::Auth => Outcome::Retry {
            delay_ms: 1000,
            charged: false,
            class,
            code,
            error,
        },
        // A response that makes no sense says nothing against the record: the next may be another
        // one.
        ErrorClass::Transient | ErrorClass::Internal if attempts + 1 < max_attempts => {
            let delay = failure
                .retry_after
                .unwrap_or_else(|| Backoff::RECORD.delay(attempts + 1, draw));
            Outcome::Retry {
                delay_ms: delay.as_millis() as i64,
                charged: true,
                class,
                code,
                error,
            }
        }
        ErrorClass::NotFound if on_crm_delete != OnCrmDelete::Ignore => {
            Outcome::Unlinked { code, error }
        }
        _ => dead(code, error),
    }
}

/// How long a connection waits after an outage. `failures`: in a row before this one.
pub fn backoff(failure: &Failure, failures: u32, draw: f64) -> std::time::Duration {
    failure.retry_after.unwrap_or_else(|| {
        // Half fixed, half jitter: an outage is probed at a steady pace, without many databases
        // probing together.
        let bound = Backoff::CONNECTION.bound(failures + 1);
        bound / 2 + (bound / 2).mul_f64(draw.clamp(0.0, 1.0))
    })
}

/// Results of which none is to blame, with their error: all of `count` cannot be stored, for the
/// same reason, which is about no value of theirs. `failures`: how often in a row that was so
/// before; in the end, each is tried for itself.
pub fn faultless<T>(
    mut undone: Vec<Undone<T, StoreError>>,
    count: usize,
    failures: u32,
) -> Result<Undone<T, StoreError>, Vec<Undone<T, StoreError>>> {
    let is_about_them = |u: &Undone<T, StoreError>| {
        u.error.is_about_values() || u.error.is_undefined() || u.error.blames_no_row()
    };
    if failures >= PATIENCE
        || !fail_alike(&undone, count, StoreError::code)
        || undone.iter().any(is_about_them)
    {
        return Err(undone);
    }
    let Some(last) = undone.pop() else {
        return Err(undone);
    };
    let mut items: Vec<T> = undone.into_iter().flat_map(|u| u.items).collect();
    items.extend(last.items);
    Ok(Undone { items, ..last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(class: ErrorClass, attempts: u32) -> Outcome {
        classify(
            &Failure::record(class, "X", "x"),
            attempts,
            3,
            OnCrmDelete::Unlink,
            0.5,
        )
    }

    #[test]
    fn what_may_go_well_the_next_time_is_tried_a_bounded_number_of_times() {
        for class in [ErrorClass::Transient, ErrorClass::Internal] {
            for attempts in 0..2 {
                let outcome = outcome(class, attempts);
                assert!(matches!(outcome, Outcome::Retry { charged: true, .. }));
            }
            assert!(matches!(outcome(class, 2), Outcome::Dead { .. }));
        }
    }

    #[test]
    fn a_panic_is_tried_again_as_well() {
        let panicked = Failure::record(ErrorClass::Internal, Failure::PANICKED, "x");
        let outcome = |attempts| classify(&panicked, attempts, 3, OnCrmDelete::Unlink, 0.5);
        assert!(matches!(outcome(1), Outcome::Retry { charged: true, .. }));
        assert!(matches!(outcome(2), Outcome::Dead { .. }));
    }

    #[test]
    fn a_failing_connection_costs_no_attempt() {
        let failure = Failure::connection(ErrorClass::Transient, "unreachable", "x");
        assert!(matches!(
            classify(&failure, 100, 3, OnCrmDelete::Unlink, 0.5),
            Outcome::Retry { charged: false, .. }
        ));
    }

    #[test]
    fn what_no_retry_can_fix_is_dead_at_once() {
        for class in [
            ErrorClass::Validation,
            ErrorClass::Mapping,
            ErrorClass::Conflict,
        ] {
            assert!(matches!(outcome(class, 0), Outcome::Dead { .. }), "{class}");
        }
    }

    #[test]
    fn a_record_the_crm_deleted_is_not_written_again() {
        assert!(matches!(
            outcome(ErrorClass::NotFound, 0),
            Outcome::Unlinked { .. }
        ));
        let failure = Failure::record(ErrorClass::NotFound, "X", "x");
        assert!(matches!(
            classify(&failure, 0, 3, OnCrmDelete::Ignore, 0.5),
            Outcome::Dead { .. }
        ));
    }

    #[test]
    fn waits_as_requested() {
        let limited = Failure::connection(ErrorClass::RateLimited, "X", "x")
            .after(Some(std::time::Duration::from_secs(7)));
        assert_eq!(backoff(&limited, 9, 0.1).as_secs(), 7);
    }
}
