//! The types that a mapped field may have, whatever Postgres or a vendor calls them.

use serde::{Deserialize, Serialize};

use crate::string_enum::string_enum;

string_enum! {
    /// The type of a mapped field: what its values mean, whatever either side calls it.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    DataType: "data type" {
        Text = "text",
        Number = "number",
        Boolean = "boolean",
        Date = "date",
        Timestamp = "timestamp",
        /// One of a closed set of words (picklist, enumeration).
        Choice = "choice",
        /// A set of words; order and repetition do not count.
        MultiChoice = "multi_choice",
        /// The id of another CRM record.
        Reference = "reference",
        Json = "json",
    }
}
