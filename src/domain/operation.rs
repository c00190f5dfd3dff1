//! Operations on records and their results, by the names that the queue, claims and the audit give
//! them.

use crate::string_enum::string_enum;

string_enum! {
    /// What waits to be done about a record in the CRM.
    Op: "queue op" {
        Update = "u",
        /// Create it, or find it by its key.
        Create = "c",
        /// Update it and bring it the key of its row, which the CRM does not have yet.
        UpdateAndKey = "k",
        Delete = "d",
    }
}

string_enum! {
    /// How an attempt was made.
    Path: "path" {
        /// Write-back of outbound edits and of whole records.
        Batch = "batch",
        /// A call of crm.write().
        RealTime = "realtime",
        /// An edit of bidirectional cells that was not written by its call.
        Reconcile = "reconcile",
        /// A row takes the CRM's values again, because the transaction that wrote them was rolled
        /// back.
        Compensate = "compensate",
        /// Changes of the CRM.
        Ingest = "ingest",
    }
}

string_enum! {
    /// What an audited attempt did, or tried to do.
    Operation: "operation" {
        Create = "create",
        Update = "update",
        /// An update that did not compare.
        Force = "force",
        Delete = "delete",
        /// Take in a CRM record.
        Ingest = "ingest",
        /// Insert a row for a CRM record.
        Insert = "insert",
        Link = "link",
        Relink = "relink",
        Unlink = "unlink",
    }
}

string_enum! {
    /// How an audited attempt ended.
    AuditResult: "result" {
        Applied = "applied",
        /// Applied, over a change that somebody made in the CRM between the comparison and the
        /// write.
        Raced = "raced",
        /// It failed and is tried again.
        Retry = "retry",
        /// It failed for good.
        Dead = "dead",
        Conflict = "conflict",
        /// The CRM's value stands, or there is nothing left to be written.
        Superseded = "superseded",
        /// What was changed in the CRM is written over.
        Overwritten = "overwritten",
        /// The CRM keeps the value in a form of its own.
        StoredForm = "stored_form",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_back() {
        for op in Op::ALL {
            assert_eq!(op.name().parse::<Op>().unwrap(), op);
        }
        for path in Path::ALL {
            assert_eq!(path.name().parse::<Path>().unwrap(), path);
        }
        for operation in Operation::ALL {
            assert_eq!(operation.name().parse::<Operation>().unwrap(), operation);
        }
        for result in AuditResult::ALL {
            assert_eq!(result.name().parse::<AuditResult>().unwrap(), result);
        }
    }
}
