//! Keeps the capture triggers from capturing what pg_crm itself sets.

use std::cell::RefCell;

use crate::store::table::update::Row;

/// Cells of a map's records that are being set right now.
struct Applying {
    map_id: i32,
    cells: Vec<u8>,
    /// As [`record_name`] makes them.
    records: Vec<String>,
    /// They are set to the CRM's values; else they are a user's edit.
    from_crm: bool,
}

thread_local! {
    static OURS: RefCell<Vec<Applying>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, the capture triggers of the map leave these cells of these records alone: the
/// code that created it knows of the change. What users' own triggers change on the way is captured
/// as ever.
pub struct SuppressCapture;

impl SuppressCapture {
    /// A user's edit, that goes to the CRM.
    pub fn of_edit(map_id: i32, cells: Vec<u8>, rows: &[Row]) -> SuppressCapture {
        SuppressCapture::set(map_id, cells, rows, false)
    }

    /// What the CRM holds.
    pub fn of_crm_values(map_id: i32, cells: Vec<u8>, rows: &[Row]) -> SuppressCapture {
        SuppressCapture::set(map_id, cells, rows, true)
    }

    /// A row for a CRM record that had none.
    pub fn of_new_rows(map_id: i32) -> SuppressCapture {
        SuppressCapture::set(map_id, Vec::new(), &[], true)
    }

    fn set(map_id: i32, cells: Vec<u8>, rows: &[Row], from_crm: bool) -> SuppressCapture {
        let records = rows
            .iter()
            .map(|r| record_name(&r.shard_key, &r.record_key))
            .collect();
        let applying = Applying {
            map_id,
            cells,
            records,
            from_crm,
        };
        OURS.with_borrow_mut(|ours| ours.push(applying));
        SuppressCapture
    }
}

/// One text for both keys of a record, as the triggers make it.
fn record_name(shard_key: &str, record_key: &str) -> String {
    format!("{shard_key}/{record_key}")
}

impl Drop for SuppressCapture {
    fn drop(&mut self) {
        OURS.with_borrow_mut(|ours| ours.pop());
    }
}

pub fn applying(map_id: i32) -> Option<Vec<u8>> {
    OURS.with_borrow(|ours| {
        let last = ours.last()?;
        (last.map_id == map_id).then(|| last.cells.clone())
    })
}

pub fn applying_to(map_id: i32) -> Option<Vec<String>> {
    OURS.with_borrow(|ours| {
        let last = ours.last()?;
        (last.map_id == map_id).then(|| last.records.clone())
    })
}

pub fn applying_from_crm(map_id: i32) -> bool {
    OURS.with_borrow(|ours| {
        ours.last()
            .is_some_and(|last| last.map_id == map_id && last.from_crm)
    })
}
