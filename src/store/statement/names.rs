//! Which objects a statement on a mapped table may refer to.
//!
//! PostgreSQL resolves names whenever it analyses a statement: when it is prepared, and again when
//! something that it depends on has changed. The owner of a schema may rename it at any moment and
//! create another one in its place, so a check of names before the statement proves nothing.
//! Guarantees: within [`restrict_to`], a statement of ours is refused right after parse analysis,
//! before it is planned or run, unless every name in it resolves to the object that was known when
//! the mapping was read. What belongs to the table, to its columns' types and to those functions
//! (policies, triggers, defaults, casts, domain checks) is not checked: our statement does not name
//! it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use pgrx::PgSqlErrorCode;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// The objects that statements may name, besides those that initdb made and the functions in
/// `pg_catalog`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Names {
    /// The only relation.
    pub table: pg_sys::Oid,
    pub functions: Vec<pg_sys::Oid>,
    pub types: Vec<pg_sys::Oid>,
}

impl Names {
    /// For a statement that names nothing but a table.
    pub fn of_table(table: pg_sys::Oid) -> Names {
        Names {
            table,
            functions: Vec::new(),
            types: Vec::new(),
        }
    }
}

struct Restriction {
    names: Arc<Names>,
    /// Our statement that is running. Any other text that is analysed meanwhile belongs to code
    /// that it calls.
    statement: Option<String>,
    /// It has passed the check; errors from now on may come from code that it calls.
    is_analysed: bool,
}

thread_local! {
    static RESTRICTION: RefCell<Option<Restriction>> = const { RefCell::new(None) };
    static FAILED_BEFORE_OWNERS_CODE: Cell<bool> = const { Cell::new(false) };
}

/// Lives while no code of a table's owner can have run yet: an error that unwinds through it is no
/// row's fault.
pub struct BeforeOwnersCode;

impl Drop for BeforeOwnersCode {
    fn drop(&mut self) {
        // Errors of PostgreSQL pass through here as panics.
        if std::thread::panicking() {
            FAILED_BEFORE_OWNERS_CODE.set(true);
        }
    }
}

/// Whether the error that was just caught was raised before any code of the owner had run. Asking
/// resets the answer.
pub fn failed_before_owners_code() -> bool {
    FAILED_BEFORE_OWNERS_CODE.take()
}

/// Runs `work`, whose statements may name nothing but `names`. Each of them has to be a [`Running`]
/// while it runs: outside of one, whatever is analysed counts as ours.
pub fn restrict_to<T>(names: &Arc<Names>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Restriction>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RESTRICTION.set(self.0.take());
        }
    }
    let held = Restriction {
        names: names.clone(),
        statement: None,
        is_analysed: false,
    };
    let _restore = Restore(RESTRICTION.replace(Some(held)));
    FAILED_BEFORE_OWNERS_CODE.set(false);
    work()
}

/// A statement of ours, from its analysis until its last row is fetched.
pub struct Running {
    names: Option<Arc<Names>>,
    has_begun: bool,
}

impl Running {
    pub fn begin(statement: &str) -> Running {
        RESTRICTION.with_borrow_mut(|held| {
            let (names, has_begun) = match held {
                Some(held) if held.statement.is_none() => {
                    held.statement = Some(statement.to_owned());
                    held.is_analysed = false;
                    (Some(held.names.clone()), true)
                }
                Some(held) if held.statement.as_deref() == Some(statement) => {
                    (Some(held.names.clone()), false)
                }
                // Not one of ours, or nothing is being checked.
                _ => (None, false),
            };
            Running { names, has_begun }
        })
    }

    /// The objects that it may name, if that is checked.
    pub fn names(&self) -> Option<&Arc<Names>> {
        self.names.as_ref()
    }

    /// Raises an error if it was prepared without the hook having been called.
    pub fn must_be_analysed(&self) {
        let was_analysed =
            RESTRICTION.with_borrow(|held| held.as_ref().is_some_and(|h| h.is_analysed));
        if self.names.is_some() && !was_analysed {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                "pg_crm could not check the names in one of its statements",
                "pg_crm",
            )
            .set_detail("Another library has replaced pg_crm's post_parse_analyze_hook and does not call it.")
            .set_hint("List that library before pg_crm in shared_preload_libraries, or do not load it.")
            .report(PgLogLevel::ERROR);
        }
    }

    /// Its plan is kept: PostgreSQL analyses it again only if something changed.
    pub fn is_known(&self) {
        if self.names.is_some() {
            analysed_ours();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_begun {
            let was_analysed = RESTRICTION.with_borrow_mut(|held| {
                held.as_mut().is_none_or(|held| {
                    held.statement = None;
                    held.is_analysed
                })
            });
            // An error during the analysis passes through here, and counts as one from before any
            // code of the owner had run.
            if !was_analysed {
                drop(BeforeOwnersCode);
            }
        }
    }
}

/// The objects that a statement may name that was just analysed, if it is ours and that is checked.
pub(super) fn to_check(is_this: impl Fn(&str) -> bool) -> Option<Arc<Names>> {
    RESTRICTION.with_borrow(|held| {
        let held = held.as_ref()?;
        let is_ours = held.statement.as_deref().is_none_or(is_this);
        is_ours.then(|| held.names.clone())
    })
}

pub(super) fn analysed_ours() {
    RESTRICTION.with_borrow_mut(|held| {
        if let Some(held) = held {
            held.is_analysed = true;
        }
    });
}

/// Raises the error that a name no longer resolves to what the mapping refers to.
pub fn report_replaced(code: PgSqlErrorCode, what: &str) -> ! {
    ErrorReport::new(
        code,
        format!("{what} is not the object that the mapping refers to"),
        "pg_crm",
    )
    .set_hint("It was renamed, replaced or altered meanwhile. The worker retries with the current mapping; in a session, run the statement again.")
    .report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}
