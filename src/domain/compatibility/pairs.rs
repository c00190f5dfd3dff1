//! Which type of a mapping goes with which type of a CRM field.

use crate::DataType;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pair {
    Good,
    /// Some values work.
    Doubtful,
    /// No value does.
    Never,
}

/// How a field that is mapped as one type goes with those that the CRM says it has.
pub(super) fn pair(mapped: DataType, held: &[DataType], writes: bool, reads: bool) -> Pair {
    let each = held.iter().map(|&held| one(mapped, held, writes, reads));
    each.min().unwrap_or(Pair::Good)
}

fn one(mapped: DataType, held: DataType, writes: bool, reads: bool) -> Pair {
    use DataType::*;
    use Pair::*;
    match (mapped, held) {
        _ if mapped == held => Good,
        // A text holds whatever is written into it, and people may write something else.
        (_, Text) if writes => Good,
        (_, Text) => match mapped {
            Choice | MultiChoice | Reference => Good,
            _ => Doubtful,
        },
        // Anything can be read as a text.
        (Text, Choice | MultiChoice | Reference | Json) => Good,
        (Text, _) if writes => Doubtful,
        (Text, _) => Good,
        // Ids and options may be numbers.
        (Number, Choice | Reference) | (Choice, Reference) | (Reference, Choice) => Good,
        (Choice | Reference, Number) | (Choice, MultiChoice) | (MultiChoice, Choice) => Doubtful,
        (Boolean, Choice | Number) | (Choice | Number, Boolean) => Doubtful,
        (Date, Timestamp) | (Timestamp, Date) => Doubtful,
        (MultiChoice, Json) | (Json, MultiChoice) => Doubtful,
        (Json, _) if reads && !writes => Doubtful,
        _ => Never,
    }
}
