//! Scans of mapped tables, in parts: requests, and how far each has come.
//!
//! Guarantees: a part and the note of how far it came are one transaction, so a scan that is
//! interrupted goes on where it was.

use crm_domain::Cells;
use pgrx::spi::SpiClient;

use crate::store::error::StoreError;
use crate::store::map_state;
use crate::store::record::key::Key;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// A table that is to be scanned.
pub struct Request {
    pub id: i64,
    pub map_id: i32,
    pub task: Task,
    pub actor: String,
    /// The last row, or record, that was looked at.
    pub after: Option<Key>,
    /// Rows that were looked at.
    pub compared: i64,
    /// Records of which cells were captured.
    pub marked: i64,
    pub is_done: bool,
}

/// What a scan is for.
pub enum Task {
    /// Rows are compared with the ledger.
    Recapture {
        phase: Phase,
        /// Rows that the ledger does not know are taken for inserted ones,
        new_rows: bool,
        /// if this snapshot does not show them.
        new_since: Option<String>,
        /// Records whose rows are gone are taken for deleted.
        lost_rows: bool,
    },
    /// Cells of rows are captured as they are.
    Push {
        /// `None`: all.
        cells: Option<Cells>,
        condition: Option<String>,
    },
}

/// What is being compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The table's rows with the ledger.
    Rows,
    /// The ledger's records with the table, to find those whose rows are gone.
    Ledger,
}

/// Every push, and the newest recapture of each map. One that is older, and was not there when this
/// one began, has its turn after it.
pub fn requests(client: &mut SpiClient) -> Result<Vec<Request>, StoreError> {
    let rows = client.update(
        Cached(
            "SELECT DISTINCT ON (r.map_id, CASE r.task WHEN 'push' THEN r.request_id END)
                    r.request_id, r.map_id, r.task = 'push' AS is_push, r.new_rows, r.new_since::text AS new_since, r.lost_rows,
                    r.phase = 'ledger' AS is_ledger, r.cells,
                    -- Never with the rights of another owner than the one who asked.
                    CASE WHEN r.condition IS NOT NULL THEN
                        format('CASE WHEN CURRENT_USER OPERATOR(pg_catalog.=) %L THEN (%s%s) END', r.owner, r.condition, chr(10))
                    END AS condition, r.actor, r.after_shard, r.after_key, r.compared, r.marked
             FROM crm.scan_request r ORDER BY r.map_id, CASE r.task WHEN 'push' THEN r.request_id END NULLS FIRST, r.request_id DESC",
        ),
        None,
        &[],
    )?;
    let mut requests = Vec::new();
    for row in rows {
        let after: (Option<String>, Option<String>) =
            (row.optional("after_shard")?, row.optional("after_key")?);
        let task = match row.required("is_push")? {
            true => Task::Push {
                cells: row.optional("cells")?.map(Cells::from_bytes),
                condition: row.optional("condition")?,
            },
            false => Task::Recapture {
                phase: match row.required("is_ledger")? {
                    true => Phase::Ledger,
                    false => Phase::Rows,
                },
                new_rows: row.required("new_rows")?,
                new_since: row.optional("new_since")?,
                lost_rows: row.required("lost_rows")?,
            },
        };
        requests.push(Request {
            id: row.required("request_id")?,
            map_id: row.required("map_id")?,
            task,
            actor: row.required("actor")?,
            after: after.0.zip(after.1).map(|(shard_key, record_key)| Key {
                shard_key,
                record_key,
            }),
            compared: row.required("compared")?,
            marked: row.required("marked")?,
            is_done: false,
        });
    }
    Ok(requests)
}

/// Locks a request before a part of its work; `false`: it was cancelled, or ends because its table
/// has another owner than when it was asked for.
pub fn lock(client: &mut SpiClient, request: &Request) -> Result<bool, StoreError> {
    let disowned = client.update(
        Cached(
            "DELETE FROM crm.scan_request r USING crm.object_map m, pg_class c
             WHERE r.request_id = $1 AND m.map_id = r.map_id AND c.oid = m.relation AND r.owner <> pg_get_userbyid(c.relowner)
             RETURNING 1",
        ),
        None,
        &[request.id.into()],
    )?;
    if !disowned.is_empty() {
        let reason = format!("push {} ended: its table has another owner", request.id);
        map_state::note_error(client, request.map_id, &reason)?;
        return Ok(false);
    }
    let found = client.update(
        Cached("SELECT FROM crm.scan_request WHERE request_id = $1 FOR UPDATE"),
        None,
        &[request.id.into()],
    )?;
    Ok(!found.is_empty())
}

/// Ends a request that cannot be worked on.
pub fn end(client: &mut SpiClient, request: &Request) -> Result<(), StoreError> {
    client.update(
        Cached("DELETE FROM crm.scan_request WHERE request_id = $1"),
        None,
        &[request.id.into()],
    )?;
    Ok(())
}

/// Notes how far a request has come. `last`: of the part; `None`: there was nothing left.
pub fn advance(
    client: &mut SpiClient,
    request: &mut Request,
    last: Option<Key>,
) -> Result<(), StoreError> {
    request.after = last;
    let mut is_ledger = false;
    if let Task::Recapture {
        phase, lost_rows, ..
    } = &mut request.task
    {
        request.is_done = request.after.is_none() && (*phase == Phase::Ledger || !*lost_rows);
        if request.after.is_none() {
            *phase = Phase::Ledger;
        }
        is_ledger = *phase == Phase::Ledger;
    } else {
        request.is_done = request.after.is_none();
    }
    if request.is_done {
        // What was asked, or committed, since is another request.
        return end(client, request);
    }
    client.update(
        Cached(
            "UPDATE crm.scan_request
             SET phase = CASE WHEN $6 THEN 'ledger' ELSE 'rows' END, after_shard = $2, after_key = $3, compared = $4, marked = $5
             WHERE request_id = $1",
        ),
        None,
        &[
            request.id.into(),
            request.after.as_ref().map(|key| key.shard_key.as_str()).into(),
            request.after.as_ref().map(|key| key.record_key.as_str()).into(),
            request.compared.into(),
            request.marked.into(),
            is_ledger.into(),
        ],
    )?;
    Ok(())
}
