//! The sequence that a table's keys come from, kept ahead of keys that came from the CRM.
//!
//! It never runs backwards, whoever draws from it meanwhile: `setval()` alone would set it back to
//! below what somebody drew between the look at it and the call. So a small gap is closed by
//! drawing, and a large one under a lock that nobody who has drawn in an open transaction lets us
//! have; then the record comes again.

use pgrx::PgSqlErrorCode;
use pgrx::prelude::*;

use crate::store::error::StoreError;
use crate::store::statement::{Cached, Uncached};

/// Values drawn at a time, to close a gap.
const DRAWS: i64 = 1000;
/// Drawn values come from this session's cache first, which a sequence may have; then it takes
/// another round.
const ROUNDS: usize = 3;

/// A key takes at most all but this part of the values that are left.
const SPARED: i128 = 16;

pub(super) struct Sequence {
    pub oid: pg_sys::Oid,
    pub start: i64,
    /// Negative: it descends.
    pub increment: i64,
    /// The last value that it has.
    pub end: i64,
}

impl Sequence {
    /// Sees to it that the keys are not drawn from now on. Runs as the table's owner.
    ///
    /// Keys that the sequence does not reach are none of its business. Nor are those so close to
    /// its end that hardly a value would be left: one record does not use up a sequence.
    pub fn leave_behind(&self, keys: impl Iterator<Item = i64>) -> Result<(), StoreError> {
        let (start, end) = (i128::from(self.start), i128::from(self.end));
        let room = self.steps(self.last()?, end);
        let reached = keys.map(i128::from).filter(|&key| {
            let left = self.steps(key, end);
            self.steps(start, key) >= 0 && left >= 0 && left >= room / SPARED
        });
        let Some(key) = reached.max_by_key(|&key| self.steps(start, key)) else {
            return Ok(());
        };
        for _ in 0..ROUNDS {
            let draws = self.draws_to(key)?;
            if draws == 0 {
                return Ok(());
            }
            // Close to its end, drawing fails.
            if draws > DRAWS || self.steps(key, end) <= 1 {
                break;
            }
            call(
                "SELECT pg_catalog.max(pg_catalog.nextval($1::pg_catalog.regclass)) FROM pg_catalog.generate_series(1, $2)",
                self.oid,
                draws,
            )?;
        }
        self.jump(key)
    }

    /// How many values lie from the one to the other in the direction of the sequence, rounded up;
    /// negative: the other lies behind.
    fn steps(&self, from: i128, to: i128) -> i128 {
        let increment = i128::from(self.increment);
        let gap = (to - from) * increment.signum();
        let step = increment.abs();
        gap.div_euclid(step) + i128::from(gap.rem_euclid(step) > 0)
    }

    /// What was drawn last.
    fn last(&self) -> Result<i128, StoreError> {
        let last = Spi::connect_mut(|client| {
            client
                .update(
                    Cached("SELECT pg_catalog.pg_sequence_last_value($1)"),
                    None,
                    &[self.oid.into()],
                )?
                .first()
                .get_one::<i64>()
        })?;
        let before_start = i128::from(self.start) - i128::from(self.increment);
        Ok(last.map_or(before_start, i128::from))
    }

    /// How often to draw until the key is reached.
    fn draws_to(&self, key: i128) -> Result<i64, StoreError> {
        let draws = self.steps(self.last()?, key).max(0);
        Ok(i64::try_from(draws).unwrap_or(i64::MAX))
    }

    fn jump(&self, key: i128) -> Result<(), StoreError> {
        const MODE: i32 = pg_sys::ShareRowExclusiveLock as i32;
        // SAFETY: inside a transaction, whose end would release the lock. Whoever draws takes
        // RowExclusiveLock.
        if !unsafe { pg_sys::ConditionalLockRelationOid(self.oid, MODE) } {
            return Err(StoreError::Postgres {
                code: PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
                message: "the sequence of the table's keys is in use".to_owned(),
            });
        }
        if self.draws_to(key)? > 0 {
            call(
                "SELECT pg_catalog.setval($1::pg_catalog.regclass, $2)",
                self.oid,
                // One of the table's keys.
                key as i64,
            )?;
        }
        // SAFETY: taken above. What setval() did is there at once, for everybody.
        unsafe { pg_sys::UnlockRelationOid(self.oid, MODE) };
        Ok(())
    }
}

fn call(statement: &str, sequence: pg_sys::Oid, number: i64) -> Result<(), StoreError> {
    Spi::connect_mut(|client| {
        client.update(Uncached(statement), None, &[sequence.into(), number.into()])?;
        Ok(())
    })
}
