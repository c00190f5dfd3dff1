//! Whose fault it is: work on many records that fails is done again in halves, down to the record.
//!
//! Every record that can be worked on is; each one that cannot is named with the error it caused. An error that no record
//! causes ([`StoreError::is_nobodys`]) ends the search at once, with all that is left in one lot.

use crate::store::StoreError;

/// What could not be done: one item and the error that it causes, or several that nobody is to blame for.
pub struct Left<T> {
    pub items: Vec<T>,
    pub error: StoreError,
}

/// Has `work` done for all items, in as few parts as will do. `work` is all or nothing: a transaction.
pub fn in_parts<T>(
    items: Vec<T>,
    mut work: impl FnMut(&mut Vec<T>) -> Result<(), StoreError>,
) -> Vec<Left<T>> {
    let mut left = Vec::new();
    // Those still to be done, the first ones last.
    let mut parts = vec![items];
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match work(&mut part) {
            Ok(()) => {}
            Err(error) if error.is_nobodys() => {
                let items = std::iter::once(part).chain(parts.drain(..).rev());
                let items = items.flatten().collect();
                left.push(Left { items, error });
            }
            Err(error) if part.len() == 1 => left.push(Left { items: part, error }),
            Err(_) => {
                let right = part.split_off(part.len() / 2);
                parts.push(right);
                parts.push(part);
            }
        }
    }
    left
}
