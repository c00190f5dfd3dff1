//! The options of a mapping: in which direction a field flows, and what happens when the two sides
//! disagree.

use crate::string_enum::string_enum;

string_enum! {
    /// Which way a field's values flow.
    Direction: "direction" {
        /// Postgres is the source of truth; the CRM field is read-only for people.
        Outbound = "outbound",
        /// Either side may change it.
        Bidirectional = "bidirectional",
        /// The CRM is the source of truth.
        Inbound = "inbound",
    }
}

impl Direction {
    /// Whether changes made in Postgres are written to the CRM.
    pub fn writes_crm(self) -> bool {
        self != Direction::Inbound
    }

    /// Whether changes made in the CRM are taken over into Postgres.
    pub fn reads_crm(self) -> bool {
        self != Direction::Outbound
    }
}

string_enum! {
    /// What decides when a field changed on both sides.
    ConflictPolicy: "conflict policy" {
        /// The write is skipped and the row takes the CRM's value.
        CrmWins = "crm_wins",
        /// The write goes through.
        LocalWins = "local_wins",
        /// Three-way merge; where both sides changed the CRM's value stands and the loser is
        /// audited.
        MergeWithAudit = "merge_with_audit",
        /// An operator decides; until then neither side is touched.
        ManualReview = "manual_review",
        /// Once set on both sides a local change is an error and a CRM change a conflict.
        ImmutableAfterBind = "immutable_after_bind",
        /// The later change by the clock, corrected by the offset of the CRM's own clock.
        LastWriterWins = "last_writer_wins",
    }
}

string_enum! {
    /// What a new row does to the CRM.
    OnInsert: "on_insert action" {
        Ignore = "ignore",
        /// Create the CRM record, through upsert by the external id field.
        Create = "create",
    }
}

string_enum! {
    /// What a deleted row does to the CRM.
    OnDelete: "on_delete action" {
        Ignore = "ignore",
        /// Forget the pair of ids, keep the CRM record.
        Unlink = "unlink",
        /// Delete (archive) the CRM record.
        Delete = "delete",
    }
}

string_enum! {
    /// What a row that leaves the filter of its map does to the CRM.
    OnFilterOut: "on_filter_out action" {
        /// The pair of ids stays, edits of the row are not sent.
        Ignore = "ignore",
        /// Forget the pair of ids, keep the CRM record.
        Unlink = "unlink",
        /// Delete (archive) the CRM record.
        Delete = "delete",
    }
}

string_enum! {
    /// What a new CRM record does to the table.
    OnCrmInsert: "on_crm_insert action" {
        Ignore = "ignore",
        /// Insert a row.
        Insert = "insert",
    }
}

string_enum! {
    /// What a deleted CRM record does to the table.
    OnCrmDelete: "on_crm_delete action" {
        Ignore = "ignore",
        /// Forget the pair of ids, keep the row.
        Unlink = "unlink",
        /// Delete the row.
        Delete = "delete",
    }
}

string_enum! {
    /// Which fields a real-time write compares with its base.
    ConflictScope: "conflict scope" {
        /// Every mapped field of the record that flows from the CRM.
        Record = "record",
        /// The fields being changed.
        Fields = "fields",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use super::*;
    use crate::{DataType, ErrorClass, UnknownName};

    #[test]
    fn every_word_is_read_back() {
        fn law<T: Copy + Debug + PartialEq + FromStr<Err = UnknownName>>(
            all: &[T],
            names: &[&str],
        ) {
            let read: Vec<T> = names.iter().map(|name| name.parse().unwrap()).collect();
            assert_eq!(read, all);
        }
        law(&Direction::ALL, Direction::NAMES);
        law(&ConflictPolicy::ALL, ConflictPolicy::NAMES);
        law(&OnInsert::ALL, OnInsert::NAMES);
        law(&OnDelete::ALL, OnDelete::NAMES);
        law(&OnFilterOut::ALL, OnFilterOut::NAMES);
        law(&OnCrmInsert::ALL, OnCrmInsert::NAMES);
        law(&OnCrmDelete::ALL, OnCrmDelete::NAMES);
        law(&ConflictScope::ALL, ConflictScope::NAMES);
        law(&DataType::ALL, DataType::NAMES);
        law(&ErrorClass::ALL, ErrorClass::NAMES);
    }

    #[test]
    fn an_unknown_word_lists_the_known_ones() {
        let error = "Outbound".parse::<Direction>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown direction \"Outbound\": valid values are outbound, bidirectional, inbound"
        );
        let error = "x".repeat(1000).parse::<ConflictScope>().unwrap_err();
        assert!(error.to_string().len() < 200);
    }

    #[test]
    fn directions_say_who_may_change_what() {
        let flows = Direction::ALL.map(|d| (d.writes_crm(), d.reads_crm()));
        assert_eq!(flows, [(true, false), (true, true), (false, true)]);
    }
}
