//! Statements that a session prepares once and keeps.

pub mod name_check;
pub mod names;

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_long;
use std::sync::Arc;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::PgOid;
use pgrx::spi::{
    OwnedPreparedStatement, PreparedStatement, Query, SpiClient, SpiCursor, SpiResult,
    SpiTupleTable,
};

use crate::store::statement::names::{Names, Running};

/// Statements beyond so many are planned each time.
const ROOM: usize = 200;

/// Keyed by what the statement may name too: the same text may resolve differently for another
/// table's owner, or later.
type Plans = HashMap<(Option<Arc<Names>>, String), &'static OwnedPreparedStatement>;

thread_local! {
    /// Never freed: a session's end must not call into a server that is shutting down.
    static PLANS: RefCell<Plans> = RefCell::default();
}

/// A statement whose plan outlives the transaction. Postgres itself plans it anew when what it
/// names, the search_path or whose row security binds it has changed. The types of its arguments
/// are always the same.
pub struct Cached<'a>(pub &'a str);

/// A statement about so many records, which its plan should know of. For few the plan is cached:
/// replanning would cost more than executing.
pub struct CachedIfFew<'a>(pub &'a str, pub usize);

/// Up to so many records are few.
pub const FEW: usize = 50;

impl Cached<'_> {
    fn plan(
        &self,
        client: &SpiClient,
        args: &[DatumWithOid],
        running: &Running,
    ) -> SpiResult<Option<&'static OwnedPreparedStatement>> {
        let key = (running.names().cloned(), self.0.to_owned());
        let known = PLANS.with_borrow(|plans| match plans.get(&key) {
            Some(plan) => Some(Some(*plan)),
            None => (plans.len() >= ROOM).then_some(None),
        });
        if let Some(known) = known {
            if known.is_some() {
                running.is_known();
            }
            return Ok(known);
        }
        let types: Vec<PgOid> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
        let plan: &'static _ = Box::leak(Box::new(client.prepare_mut(self.0, &types)?.keep()));
        running.must_be_analysed();
        PLANS.with_borrow_mut(|plans| plans.insert(key, plan));
        Ok(Some(plan))
    }
}

impl<'conn> Query<'conn> for Cached<'_> {
    fn execute<'mcx>(
        self,
        client: &SpiClient<'conn>,
        limit: Option<c_long>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiTupleTable<'conn>> {
        let running = Running::begin(self.0);
        match self.plan(client, args, &running)? {
            Some(plan) => plan.execute(client, limit, args),
            None => self.0.execute(client, limit, args),
        }
    }

    fn try_open_cursor<'mcx>(
        self,
        client: &SpiClient<'conn>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiCursor<'conn>> {
        let running = Running::begin(self.0);
        match self.plan(client, args, &running)? {
            Some(plan) => plan.try_open_cursor(client, args),
            None => self.0.try_open_cursor(client, args),
        }
    }
}

impl<'conn> Query<'conn> for CachedIfFew<'_> {
    fn execute<'mcx>(
        self,
        client: &SpiClient<'conn>,
        limit: Option<c_long>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiTupleTable<'conn>> {
        if self.1 <= FEW {
            Cached(self.0).execute(client, limit, args)
        } else {
            Uncached(self.0).execute(client, limit, args)
        }
    }

    fn try_open_cursor<'mcx>(
        self,
        client: &SpiClient<'conn>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiCursor<'conn>> {
        if self.1 <= FEW {
            Cached(self.0).try_open_cursor(client, args)
        } else {
            Uncached(self.0).try_open_cursor(client, args)
        }
    }
}

impl<'conn> Query<'conn> for Uncached<'_> {
    fn execute<'mcx>(
        self,
        client: &SpiClient<'conn>,
        limit: Option<std::ffi::c_long>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiTupleTable<'conn>> {
        let running = Running::begin(self.0);
        self.prepare(client, args, &running)?
            .execute(client, limit, args)
    }

    fn try_open_cursor<'mcx>(
        self,
        client: &SpiClient<'conn>,
        args: &[DatumWithOid<'mcx>],
    ) -> SpiResult<SpiCursor<'conn>> {
        let running = Running::begin(self.0);
        self.prepare(client, args, &running)?
            .try_open_cursor(client, args)
    }
}

impl Uncached<'_> {
    fn prepare<'conn>(
        &self,
        client: &SpiClient<'conn>,
        args: &[DatumWithOid],
        running: &Running,
    ) -> SpiResult<PreparedStatement<'conn>> {
        let types: Vec<PgOid> = args.iter().map(|arg| PgOid::from(arg.oid())).collect();
        let prepared = client.prepare_mut(self.0, &types)?;
        running.must_be_analysed();
        Ok(prepared)
    }
}

/// A statement that is planned each time.
pub struct Uncached<'a>(pub &'a str);
