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

/// An ascending sequence.
pub(super) struct Sequence {
    pub oid: pg_sys::Oid,
    pub start: i64,
    pub increment: i64,
    pub max: i64,
}

impl Sequence {
    /// Sees to it that the key is not drawn from now on. Runs as the table's owner. Keys that the
    /// sequence does not reach are none of its business.
    pub fn leave_behind(&self, key: i64) -> Result<(), StoreError> {
        if key < self.start || key > self.max {
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let draws = self.draws_to(key)?;
            if draws == 0 {
                return Ok(());
            }
            // Close to its end, drawing fails.
            if draws > DRAWS || key > self.max - self.increment {
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

    /// How often to draw until the key is reached.
    fn draws_to(&self, key: i64) -> Result<i64, StoreError> {
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
        let increment = i128::from(self.increment);
        let last = last.map_or(i128::from(self.start) - increment, i128::from);
        let gap = (i128::from(key) - last).max(0);
        Ok(i64::try_from((gap + increment - 1) / increment).unwrap_or(i64::MAX))
    }

    fn jump(&self, key: i64) -> Result<(), StoreError> {
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
                key,
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
