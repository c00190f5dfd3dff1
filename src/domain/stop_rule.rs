//! When a map stops instead of making a dead letter of every record.
//!
//! A mapping that the CRM or the table refuses fails for each record alike. A map that has worked
//! before does not stop because records that are invalid come together.

use crate::failure::ErrorClass;

/// Records that fail because of the mapping, and no other: so many stop a map.
const MISMAPPED: usize = 5;

/// Records that fail before any other of the map has succeeded: if so many are refused, and none is
/// taken, the map stops. No more of them become dead letters.
pub const TRIAL: usize = 100;

/// Whether a map stops. `failures`: of each record of a batch or page, why it failed for good;
/// `None`: it did not. `is_new`: no record of the map has ever succeeded.
pub fn stops(failures: impl IntoIterator<Item = Option<ErrorClass>>, is_new: bool) -> bool {
    let (mut mismapped, mut refused) = (0, 0);
    for failure in failures {
        match failure {
            Some(ErrorClass::Mapping) => mismapped += 1,
            Some(ErrorClass::Validation) => refused += 1,
            _ => return false,
        }
    }
    match refused {
        0 => mismapped >= MISMAPPED,
        _ => is_new && mismapped + refused >= TRIAL,
    }
}

#[cfg(test)]
mod tests {
    use std::iter::repeat_n;

    use super::*;

    #[test]
    fn a_few_mismapped_records_stop_a_map() {
        let failures = |n| repeat_n(Some(ErrorClass::Mapping), n);
        assert!(!stops(failures(4), true));
        assert!(stops(failures(5), false));
        assert!(!stops(failures(5).chain([None]), true));
        assert!(!stops([], true));
    }

    #[test]
    fn a_trial_of_refused_records_stops_a_new_map() {
        let failures = |n| repeat_n(Some(ErrorClass::Validation), n);
        assert!(!stops(failures(TRIAL - 1), true));
        assert!(stops(failures(TRIAL), true));
        assert!(!stops(failures(TRIAL), false));
        let mixed = failures(TRIAL - 1).chain([Some(ErrorClass::Mapping)]);
        assert!(stops(mixed, true));
        let others = failures(TRIAL).chain([Some(ErrorClass::Internal)]);
        assert!(!stops(others, true));
    }
}
