//! Work on many items that fails as a whole is done again in halves, until it is known which item
//! is at fault.
//!
//! Guarantees: every item that can be worked on is; the parts are tried in the items' order; an
//! error that no item causes ends the search at once.

/// What is left of some work, in order, part by part.
#[derive(Debug, Default)]
pub struct Parts<T> {
    /// The next part last.
    parts: Vec<Vec<T>>,
}

impl<T> Parts<T> {
    pub fn new(items: Vec<T>) -> Self {
        let mut parts = Parts { parts: Vec::new() };
        parts.push(items);
        parts
    }

    /// Takes the next part, which is never empty.
    pub fn pop(&mut self) -> Option<Vec<T>> {
        self.parts.pop()
    }

    /// Makes these items the next part.
    pub fn push(&mut self, part: Vec<T>) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// Makes the first `at` of these items the next part, and the others the one after it.
    pub fn split(&mut self, mut part: Vec<T>, at: usize) {
        let rest = part.split_off(at.min(part.len()));
        self.push(rest);
        self.push(part);
    }

    /// Makes the first half of these items the next part, and the second half the one after it.
    pub fn halve(&mut self, part: Vec<T>) {
        let half = part.len().div_ceil(2);
        self.split(part, half);
    }

    /// Makes quarters of these items the next parts.
    pub fn quarter(&mut self, part: Vec<T>) {
        let parts = quarters(part).into_iter().rev();
        parts.for_each(|part| self.push(part));
    }

    /// Takes all that is left.
    pub fn drain(&mut self) -> impl Iterator<Item = T> + '_ {
        self.parts.drain(..).rev().flatten()
    }
}

/// The items in four parts of nearly one size; fewer parts, if there are fewer items.
pub fn quarters<T>(items: Vec<T>) -> Vec<Vec<T>> {
    let size = items.len().div_ceil(4).max(1);
    let mut items = items.into_iter().peekable();
    let mut parts = Vec::with_capacity(4);
    while items.peek().is_some() {
        parts.push(items.by_ref().take(size).collect());
    }
    parts
}

/// What could not be done: one item and the error that it causes, or several that are not to blame.
#[derive(Debug)]
pub struct Undone<T, E> {
    pub items: Vec<T>,
    pub error: E,
}

/// How often in a row items that fail alike are tried together before each is tried for itself:
/// minutes.
pub const PATIENCE: u32 = 10;

/// Whether all of `count` items fail, for the same reason: then the reason is none of them.
pub fn fail_alike<T, E, R: PartialEq>(
    undone: &[Undone<T, E>],
    count: usize,
    reason: impl Fn(&E) -> R,
) -> bool {
    let mut reasons = undone.iter().map(|u| reason(&u.error));
    let first = reasons.next();
    count > 1 && undone.len() == count && reasons.all(|reason| Some(reason) == first)
}

/// Does `work` for all items, in as few parts as will do. `work` is all or nothing, such as a
/// transaction. An error of which `is_blameless` is true is no item's fault: it ends the search.
pub fn bisect<T, E>(
    items: Vec<T>,
    is_blameless: impl Fn(&E) -> bool,
    mut work: impl FnMut(&mut Vec<T>) -> Result<(), E>,
) -> Vec<Undone<T, E>> {
    let mut undone = Vec::new();
    let mut parts = Parts::new(items);
    while let Some(mut part) = parts.pop() {
        let Err(error) = work(&mut part) else {
            continue;
        };
        if is_blameless(&error) {
            part.extend(parts.drain());
        } else if part.len() > 1 {
            parts.halve(part);
            continue;
        }
        undone.push(Undone { items: part, error });
    }
    undone
}

/// Decides whether to send several records at once after such a request was refused, so that a
/// refused batch costs hardly more requests than its records would one by one, however many of them
/// are at fault.
///
/// What is refused goes again in quarters: few at fault are found by as many requests as halves
/// take, and many are known to be many after half as many that were in vain.
#[derive(Debug)]
pub struct BisectBudget {
    /// Requests that may fail to decide anything, beyond one for each record that was decided.
    allowance: usize,
    requests: usize,
    decided: usize,
}

impl BisectBudget {
    pub fn new(records: usize) -> BisectBudget {
        BisectBudget {
            allowance: BisectBudget::in_vain(records),
            requests: 0,
            decided: 0,
        }
    }

    /// How many requests more than one for each of so many records there may be: enough to get down
    /// to single records, and a few for those at fault that lie side by side.
    pub fn in_vain(records: usize) -> usize {
        (4 + records / 50).min(records.div_ceil(4))
    }

    pub fn count_request(&mut self) {
        self.requests += 1;
    }

    /// Counts records whose outcome is known.
    pub fn count_decided(&mut self, records: usize) {
        self.decided += records;
    }

    /// Whether another request that may decide nothing is affordable.
    pub fn allows_batch(&self) -> bool {
        self.requests < self.decided + self.allowance
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many requests a batch takes that is refused as long as one of its records is at fault.
    fn requests(bad: &[bool]) -> usize {
        let mut budget = BisectBudget::new(bad.len());
        let mut parts = Parts::new((0..bad.len()).collect());
        while let Some(part) = parts.pop() {
            if part.len() > 1 && part.len() < bad.len() && !budget.allows_batch() {
                parts.split(part, 1);
                let one = parts.pop().expect("it was not empty");
                budget.count_request();
                budget.count_decided(one.len());
                continue;
            }
            budget.count_request();
            match part.len() > 1 && part.iter().any(|&n| bad[n]) {
                true => parts.quarter(part),
                false => budget.count_decided(part.len()),
            }
        }
        assert_eq!(budget.decided, bad.len());
        budget.requests
    }

    #[test]
    fn few_at_fault_are_found_by_few_requests() {
        for (records, most) in [
            (1, 1),
            (4, 5),
            (16, 9),
            (25, 12),
            (100, 15),
            (200, 17),
            (1000, 21),
        ] {
            for at in 0..records {
                let bad: Vec<bool> = (0..records).map(|n| n == at).collect();
                let requests = requests(&bad);
                assert!(requests <= most, "{at} of {records}: {requests}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_batch_costs_hardly_more_than_its_records(
            draws in prop::collection::vec(0.0..1.0, 1..300),
            share in 0.0..=1.0,
        ) {
            let bad: Vec<bool> = draws.iter().map(|draw| *draw < share).collect();
            let records = bad.len();
            let requests = requests(&bad);
            prop_assert!(requests <= records + BisectBudget::in_vain(records), "{requests} of {records}");
        }

        #[test]
        fn exactly_the_items_at_fault_are_left(bad in prop::collection::vec(any::<bool>(), 0..40)) {
            let mut done = Vec::new();
            let undone = bisect(
                (0..bad.len()).collect(),
                |_| false,
                |part| match part.iter().any(|&n| bad[n]) {
                    true => Err(()),
                    false => {
                        done.extend(part.iter().copied());
                        Ok(())
                    }
                },
            );
            prop_assert!(undone.iter().all(|undone| undone.items.len() == 1));
            let left: Vec<usize> = undone.into_iter().flat_map(|undone| undone.items).collect();
            let (bad, good): (Vec<usize>, Vec<usize>) = (0..bad.len()).partition(|&n| bad[n]);
            prop_assert_eq!(left, bad);
            prop_assert_eq!(done, good);
        }
    }

    #[test]
    fn an_error_that_no_item_causes_ends_the_search() {
        let mut calls = 0;
        let undone = bisect(
            vec![1, 2, 3, 4, 5, 6],
            |error| *error == "outage",
            |part| {
                calls += 1;
                match (part.contains(&2), calls) {
                    (_, 6) => Err("outage"),
                    (true, _) => Err("refused"),
                    _ => Ok(()),
                }
            },
        );
        let left: Vec<_> = undone.iter().map(|u| (&u.items[..], u.error)).collect();
        assert_eq!(left, [(&[2][..], "refused"), (&[3, 4, 5, 6], "outage")]);
    }
}
