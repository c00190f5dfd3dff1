//! A claimed slice with its values. What needs no sending, or cannot be sent, is judged here and not sent.

use std::collections::HashMap;

use crm_domain::ErrorClass;
use crm_provider::WriteKind;

use super::settlement::{InFlight, settled_record};
use crate::settings::Settings;
use crate::store::StoreError;
use crate::store::claims::Claimed;
use crate::store::config::Map;
use crate::store::settle::{Settled, Verdict};
use crate::store::values::{self, RowValues, Wanted};

/// Reads a slice's values. What needs no sending, or cannot be sent, is settled at once.
pub(super) fn read_slice(
    map: &Map,
    mut due: Vec<Claimed>,
    settings: &Settings,
) -> Result<(Vec<InFlight>, Vec<Settled>), StoreError> {
    // A record that the CRM does not have yet takes every field, those that were mapped since it was queued too.
    for record in due.iter_mut().filter(|record| record.op == b'c') {
        for field in &map.fields {
            record.cells.insert(field.id);
        }
    }
    let reads: Vec<usize> = (0..due.len()).filter(|&i| due[i].op != b'd').collect();
    let wanted: Vec<Wanted> = reads
        .iter()
        .map(|&i| Wanted {
            shard_key: &due[i].shard_key,
            record_key: &due[i].record_key,
            cells: &due[i].cells,
        })
        .collect();
    let mut rows: HashMap<usize, RowValues> = values::read(
        map,
        &wanted,
        settings.batch_bytes,
        settings.transform_timeout,
    )?
    .into_iter()
    .map(|(n, row)| (reads[n], row))
    .collect();
    let mut records = Vec::with_capacity(due.len());
    let mut settled = Vec::new();
    let worn_out = || {
        let error = "the worker died each time it had this record on its way";
        Verdict::Dead {
            class: ErrorClass::Internal,
            code: "abandoned".to_owned(),
            error: error.to_owned(),
        }
    };
    for (i, claimed) in due.into_iter().enumerate() {
        let row = if claimed.op == b'd' {
            Some(RowValues::Found(Vec::new()))
        } else {
            rows.remove(&i)
        };
        match row {
            // Not reached within the bound on bytes: it comes with the next slice.
            None => {}
            // Failures end as dead letters before this: only claims left behind count beyond.
            Some(_) if claimed.attempts >= settings.max_attempts => {
                settled.push(settled_record(
                    InFlight {
                        claimed,
                        fields: Vec::new(),
                    },
                    None,
                    worn_out(),
                    false,
                    None,
                ));
            }
            Some(RowValues::Found(fields)) if fields.is_empty() && claimed.op == b'u' => {
                settled.push(settled_record(
                    InFlight { claimed, fields },
                    None,
                    Verdict::Moot,
                    false,
                    None,
                ));
            }
            Some(RowValues::Found(fields)) if claimed.op == b'c' || claimed.crm_id.is_some() => {
                records.push(InFlight { claimed, fields });
            }
            Some(RowValues::Missing) if map.hides_rows => {
                let verdict = Verdict::Dead {
                    class: ErrorClass::Mapping,
                    code: "row_not_visible".to_owned(),
                    error: "the table's owner does not see the row: it is gone, or forced row security hides it".to_owned(),
                };
                let record = InFlight {
                    claimed,
                    fields: Vec::new(),
                };
                settled.push(settled_record(record, None, verdict, false, None));
            }
            Some(RowValues::Found(_) | RowValues::Missing) => {
                settled.push(settled_record(
                    InFlight {
                        claimed,
                        fields: Vec::new(),
                    },
                    None,
                    Verdict::Moot,
                    false,
                    None,
                ));
            }
            Some(RowValues::Unreadable(failure)) => {
                let verdict = Verdict::Dead {
                    class: failure.class,
                    code: failure.code,
                    error: failure.message,
                };
                settled.push(settled_record(
                    InFlight {
                        claimed,
                        fields: Vec::new(),
                    },
                    None,
                    verdict,
                    false,
                    None,
                ));
            }
        }
    }
    Ok((records, settled))
}

pub(super) fn kind_of(claimed: &Claimed) -> WriteKind {
    match claimed.op {
        b'd' => WriteKind::Delete,
        b'c' => WriteKind::Upsert,
        _ => WriteKind::Update,
    }
}
