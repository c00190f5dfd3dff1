//! `$orderby`: in what order rows are listed.

use super::error::DataverseError;
use super::filter::{Type, compare, plain};
use super::{address, org};
use crate::store::Object;
use std::cmp::Ordering;

/// Columns to sort by, and whether each is descending.
#[derive(Debug, Default)]
pub struct Order(Vec<(u16, bool)>);

impl Order {
    pub fn parse(object: &Object, text: &str) -> Result<Self, DataverseError> {
        let one = |term: &str| {
            let mut words = term.split_whitespace();
            let column = address::column(object, words.next().unwrap_or_default())?;
            let descending = match (words.next(), words.next()) {
                (None | Some("asc"), None) => false,
                (Some("desc"), None) => true,
                _ => {
                    return Err(DataverseError::query("Syntax error in the $orderby option"));
                }
            };
            Ok((column, descending))
        };
        let terms: Result<_, DataverseError> = text.split(',').map(one).collect();
        terms.map(Self)
    }

    pub fn is_given(&self) -> bool {
        !self.0.is_empty()
    }

    /// What is empty comes first; rows that are alike in the order of their making.
    pub fn sort(&self, object: &Object, slots: &mut [u32]) {
        let order = |a: &u32, b: &u32| {
            let mut orders = self.0.iter().map(|(at, descending)| {
                let (a, b) = (org::held(object, *a, *at), org::held(object, *b, *at));
                let order = match (a.is_null(), b.is_null()) {
                    (false, false) => {
                        let kind = Type::of(&object.def.fields[*at as usize]);
                        compare(kind, &plain(&a), &plain(&b)).unwrap_or(Ordering::Equal)
                    }
                    (a, b) => b.cmp(&a),
                };
                match descending {
                    true => order.reverse(),
                    false => order,
                }
            });
            orders
                .find(|order| order.is_ne())
                .unwrap_or_else(|| a.cmp(b))
        };
        slots.sort_by(order);
    }
}
