//! Folds captured changes into the queue, a batch per turn, in steps.

use std::time::{Duration, Instant};

use crm_domain::bisect::PATIENCE;
use pgrx::prelude::*;

use crate::failpoint;
use crate::store::write_back::fold::{self, Folded};
use crate::store::{StoreError, transaction};
use crate::worker::context::{Between, Context};
use crate::worker::process::report;
use crate::worker::schedule::IDLE;
use crate::worker::step_backoff::{Owner, Step};

/// What a turn did.
#[derive(Default)]
pub struct Progress {
    folded: Folded,
    /// It failed, and is to be tried again.
    failed: bool,
    /// It took all that it could at once.
    is_full: bool,
}

impl Progress {
    /// Changes were folded, so that there may be more.
    pub fn is_any(&self) -> bool {
        self.folded.records > 0
    }

    /// Whether many changes wait to be folded.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Whether changes of a map may be left.
    pub fn leaves(&self, map_id: i32) -> bool {
        self.is_any() || self.failed || self.folded.locked_maps.contains(&map_id)
    }

    /// Whether changes were left because their records are locked.
    pub fn leaves_locked(&self) -> bool {
        !self.folded.locked_maps.is_empty()
    }
}

#[derive(Default)]
pub struct Folder {
    /// Changes folded at once, after a batch could not be folded.
    narrowed: Option<usize>,
    /// See [`fold::fold`].
    expect_queued: u32,
}

impl Folder {
    /// Folds a batch; returns what that did, and when to go on.
    ///
    /// A step that cannot be folded is tried again with half as many changes, until the row at
    /// fault is alone and is put aside after `pg_crm.max_attempts`: it holds up neither other
    /// records nor other maps. Where none can be folded, none is to blame, and all of them wait.
    pub fn turn(&mut self, cx: &mut Context, between: Between) -> (Progress, Duration) {
        let most = cx.settings.batch_rows;
        let mut progress = Progress::default();
        loop {
            let began = Instant::now();
            let left = most - progress.folded.records;
            let room = cx.steps.room(Owner::Worker, Step::Fold, left);
            let mut folded = None;
            let failures = cx.backoff.failures(Owner::Worker, Step::Fold);
            let next = cx.backoff.attempt(Owner::Worker, Step::Fold, || {
                report("folding changes into the ledger");
                self.fold(room, (failures, cx.settings.max_attempts), &mut folded)
            });
            let Some(folded) = folded else {
                progress.failed = true;
                return (progress, next);
            };
            let records = folded.records;
            cx.steps.note(Owner::Worker, Step::Fold, records, began);
            progress.folded.records += records;
            progress.folded.locked_maps.extend(folded.locked_maps);
            progress.is_full = progress.folded.records >= most;
            if records == 0 || progress.is_full {
                return (progress, next);
            }
            between(cx);
        }
    }

    fn fold(
        &mut self,
        most: usize,
        (failures, max_attempts): (u32, u32),
        folded: &mut Option<Folded>,
    ) -> Result<Duration, StoreError> {
        let rows = self.narrowed.map_or(most, |n| most.min(n));
        let mut at = None;
        let result = transaction(|client| {
            failpoint::reach("fold::store");
            let folded = fold::fold(client, rows, &mut self.expect_queued, &mut at)?;
            failpoint::reach("fold::before_commit");
            Ok(folded)
        });
        match result {
            Ok(done) => {
                failpoint::reach("fold::after_commit");
                *folded = Some(done);
                self.narrowed = self.narrowed.map(|n| n * 2).filter(|n| *n < most);
                Ok(IDLE)
            }
            Err(error) if error.blames_no_row() => Err(error),
            Err(_) if rows > 1 => {
                self.narrowed = Some(rows / 2);
                Ok(Duration::ZERO)
            }
            Err(error) => match at {
                Some(at) if error.is_about_values() || failures + 1 >= max_attempts => {
                    let alone = fold::is_alone_at_fault(&at, &error)?;
                    // The only one: it had all its attempts, or its values are refused.
                    if alone == Some(false) && failures < PATIENCE {
                        return Err(error);
                    }
                    log!("pg_crm sets changes aside that cannot be folded: {error}");
                    let why = error.message();
                    transaction(|client| fold::put_aside(client, &at, &why))?;
                    Ok(Duration::ZERO)
                }
                _ => Err(error),
            },
        }
    }
}
