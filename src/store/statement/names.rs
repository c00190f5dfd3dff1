//! Which objects a statement on a mapped table may refer to.
//!
//! PostgreSQL resolves names whenever it analyses a statement: when it is prepared, and again when something that it depends on has
//! changed. The owner of a schema may rename it at any moment and create another one in its place, so a check of names before the
//! statement proves nothing. Guarantees: within [`held_to`], a statement of ours is refused right after parse analysis, before it is
//! planned or run, unless every name in it resolves to the object that was known when the mapping was read. What belongs to the
//! table, to its columns' types and to those functions (policies, triggers, defaults, casts, domain checks) is not checked: our
//! statement does not name it.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::PgOid;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::spi::{PreparedStatement, Query, SpiClient, SpiCursor, SpiResult, SpiTupleTable};
use pgrx::{PgList, PgSqlErrorCode};

/// The objects that statements may name, besides those that initdb made and the functions in `pg_catalog`.
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

struct Held {
    names: Arc<Names>,
    /// Our statement that is running. Any other text that is analysed meanwhile belongs to code that it calls.
    statement: Option<String>,
    /// It has passed the check; errors from now on may come from code that it calls.
    is_analysed: bool,
}

thread_local! {
    static HELD: RefCell<Option<Held>> = const { RefCell::new(None) };
    static FAILED_BEFORE: Cell<bool> = const { Cell::new(false) };
}

/// Lives while no code of a table's owner can have run yet: an error that unwinds through it is no row's fault.
pub struct Before;

impl Drop for Before {
    fn drop(&mut self) {
        // Errors of PostgreSQL pass through here as panics.
        if std::thread::panicking() {
            FAILED_BEFORE.set(true);
        }
    }
}

/// Whether the error that was just caught was raised before any code of the owner had run. Asking resets the answer.
pub fn failed_before() -> bool {
    FAILED_BEFORE.take()
}

/// Runs `work`, whose statements may name nothing but `names`. Each of them has to be a [`Running`] while it runs: outside of one,
/// whatever is analysed counts as ours.
pub fn held_to<T>(names: &Arc<Names>, work: impl FnOnce() -> T) -> T {
    struct Restore(Option<Held>);
    impl Drop for Restore {
        fn drop(&mut self) {
            HELD.set(self.0.take());
        }
    }
    let held = Held {
        names: names.clone(),
        statement: None,
        is_analysed: false,
    };
    let _restore = Restore(HELD.replace(Some(held)));
    FAILED_BEFORE.set(false);
    work()
}

/// A statement of ours, from its analysis until its last row is fetched.
pub struct Running {
    names: Option<Arc<Names>>,
    has_begun: bool,
}

impl Running {
    pub fn begin(statement: &str) -> Running {
        HELD.with_borrow_mut(|held| {
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
        let was_analysed = HELD.with_borrow(|held| held.as_ref().is_some_and(|h| h.is_analysed));
        if self.names.is_some() && !was_analysed {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_EXTERNAL_ROUTINE_EXCEPTION,
                "pg_crm could not check the names in one of its statements",
                "pg_crm",
            )
            .set_detail("Another library has replaced pg_crm's post_parse_analyze_hook and does not call it.")
            .set_hint("Put that library before pg_crm in shared_preload_libraries, or do not load it.")
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
            let was_analysed = HELD.with_borrow_mut(|held| {
                held.as_mut().is_none_or(|held| {
                    held.statement = None;
                    held.is_analysed
                })
            });
            // An error during the analysis passes through here, and counts as one from before any code of the owner had run.
            if !was_analysed {
                drop(Before);
            }
        }
    }
}

fn analysed_ours() {
    HELD.with_borrow_mut(|held| {
        if let Some(held) = held {
            held.is_analysed = true;
        }
    });
}

/// A statement that is planned each time.
pub struct Once<'a>(pub &'a str);

impl<'conn> Query<'conn> for Once<'_> {
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

impl Once<'_> {
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

static mut NEXT: pg_sys::post_parse_analyze_hook_type = None;

/// Installs the hook; called when the library is loaded.
pub fn install() {
    // SAFETY: called once by each process, or by the one that it was forked from, before any statement is analysed by way of us.
    unsafe {
        NEXT = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analysed);
    }
}

/// Nothing in this frame has a destructor, so an error of another extension may pass over it.
unsafe extern "C-unwind" fn analysed(
    parse: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    // SAFETY: the arguments are handed on as they came.
    unsafe {
        if let Some(next) = NEXT {
            next(parse, query, jumble);
        }
        hold_to_names((*parse).p_sourcetext, query);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn hold_to_names(text: *const c_char, query: *mut pg_sys::Query) {
    let Some(names) = HELD.with_borrow(|held| {
        let held = held.as_ref()?;
        // SAFETY: the text of the statement that was just analysed, if there is one.
        let is_ours = held.statement.as_ref().is_none_or(|statement| unsafe {
            text.is_null() || CStr::from_ptr(text).to_bytes() == statement.as_bytes()
        });
        is_ours.then(|| held.names.clone())
    }) else {
        return;
    };
    let mut walk = Walk {
        names: &names,
        stranger: None,
    };
    // SAFETY: the tree that the parser has just made; the walk changes nothing of it, and ends before `walk` does.
    unsafe { visit(query.cast(), (&raw mut walk).cast()) };
    if let Some(stranger) = walk.stranger {
        stranger.refuse();
    }
    analysed_ours();
}

/// Something that a statement names and may not.
enum Stranger {
    Command,
    Table(pg_sys::Oid),
    Function(pg_sys::Oid),
    Type(pg_sys::Oid),
}

impl Stranger {
    fn refuse(self) -> ! {
        // SAFETY: inside a transaction; the names are fresh copies, or null if there is no such thing any more.
        let (code, what) = unsafe {
            match self {
                Stranger::Command => (
                    PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
                    "a command".to_owned(),
                ),
                Stranger::Table(oid) => (
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    quoted("relation", pg_sys::get_rel_name(oid)),
                ),
                Stranger::Function(oid) => (
                    PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                    quoted("function", pg_sys::get_func_name(oid)),
                ),
                Stranger::Type(oid) => (
                    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                    quoted("type", pg_sys::format_type_be(oid)),
                ),
            }
        };
        gone(code, &what)
    }
}

/// # Safety
/// `name` is null or a string.
unsafe fn quoted(kind: &str, name: *const c_char) -> String {
    if name.is_null() {
        return format!("a {kind}");
    }
    // SAFETY: see above.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    format!("{kind} \"{name}\"")
}

/// Raises the error that a name no longer resolves to what the mapping refers to.
pub fn gone(code: PgSqlErrorCode, what: &str) -> ! {
    ErrorReport::new(
        code,
        format!("{what} is not the one that the mapping refers to"),
        "pg_crm",
    )
    .set_hint("It was renamed, replaced or altered meanwhile. The worker retries with the current mapping; in a session, run the statement again.")
    .report(PgLogLevel::ERROR);
    unreachable!("an error does not return")
}

struct Walk<'a> {
    names: &'a Names,
    stranger: Option<Stranger>,
}

// nodes/nodeFuncs.h, which the bindings leave out.
unsafe extern "C-unwind" {
    fn query_tree_walker(
        query: *mut pg_sys::Query,
        walker: Walker,
        context: *mut c_void,
        flags: c_int,
    ) -> bool;
    fn expression_tree_walker(
        node: *mut pg_sys::Node,
        walker: Walker,
        context: *mut c_void,
    ) -> bool;
}

type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

/// Looks for a name that is not allowed; `true` ends the walk.
///
/// # Safety
/// `node` is null or a node of a tree that was analysed, `context` a [`Walk`].
#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    if node.is_null() {
        return false;
    }
    // SAFETY: as promised; each cast follows from the node's tag.
    unsafe {
        let walk = &mut *context.cast::<Walk>();
        match (*node).type_ {
            T_Query => {
                let query = node.cast::<pg_sys::Query>();
                if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
                    walk.stranger = Some(Stranger::Command);
                }
                // This visits each range table entry, and then what it contains.
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return walk.stranger.is_some() || query_tree_walker(query, visit, context, flags);
            }
            T_RangeTblEntry => {
                walk.entry(&*node.cast());
                return walk.stranger.is_some();
            }
            T_RangeTblFunction => walk.columns(&*node.cast()),
            T_FuncExpr => walk.call(&*node.cast()),
            T_CoerceToDomain => {
                walk.type_((*node.cast::<pg_sys::CoerceToDomain>()).resulttype);
            }
            T_CoerceViaIO => {
                let cast = &*node.cast::<pg_sys::CoerceViaIO>();
                walk.cast(pg_sys::exprType(cast.arg.cast()), cast.resulttype);
            }
            _ => {
                pg_sys::check_functions_in_node(node, Some(is_stranger), context);
            }
        }
        walk.stranger.is_some() || expression_tree_walker(node, visit, context)
    }
}

/// Checks the functions behind operators, aggregates and the like.
///
/// # Safety
/// `context` is a [`Walk`].
#[pg_guard]
unsafe extern "C-unwind" fn is_stranger(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: as promised.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    walk.function(function);
    walk.stranger.is_some()
}

impl Walk<'_> {
    fn entry(&mut self, entry: &pg_sys::RangeTblEntry) {
        let is_relation = entry.rtekind == pg_sys::RTEKind::RTE_RELATION;
        if is_relation && entry.relid != self.names.table {
            self.stranger = Some(Stranger::Table(entry.relid));
        }
    }

    /// The types in a function's column definition list.
    fn columns(&mut self, function: &pg_sys::RangeTblFunction) {
        // SAFETY: a list of oids, or none.
        let types = unsafe { PgList::<pg_sys::Oid>::from_pg(function.funccoltypes) };
        for type_id in types.iter_oid() {
            self.type_(type_id);
        }
    }

    fn call(&mut self, call: &pg_sys::FuncExpr) {
        use pg_sys::CoercionForm::{COERCE_EXPLICIT_CAST, COERCE_IMPLICIT_CAST};
        if !matches!(call.funcformat, COERCE_EXPLICIT_CAST | COERCE_IMPLICIT_CAST) {
            self.function(call.funcid);
            return;
        }
        // SAFETY: a list of expressions; the first is what is cast.
        let from = unsafe {
            PgList::<pg_sys::Node>::from_pg(call.args)
                .get_ptr(0)
                .map_or(pg_sys::InvalidOid, |arg| pg_sys::exprType(arg))
        };
        self.cast(from, call.funcresulttype);
    }

    /// A cast, or an input or output function, is not named: it belongs to the types that it is between.
    fn cast(&mut self, from: pg_sys::Oid, to: pg_sys::Oid) {
        for type_id in [from, to] {
            // A value of a domain is cast as one of the type beneath it.
            // SAFETY: a syscache look-up inside a transaction.
            let is_beneath =
                |known: &pg_sys::Oid| unsafe { pg_sys::getBaseType(*known) == type_id };
            if !self.names.types.iter().any(is_beneath) {
                self.type_(type_id);
            }
        }
    }

    fn function(&mut self, function: pg_sys::Oid) {
        // SAFETY: a syscache look-up inside a transaction.
        let is_catalogs = || unsafe {
            pg_sys::get_func_namespace(function) == pg_sys::Oid::from(pg_sys::PG_CATALOG_NAMESPACE)
        };
        if !is_builtin(function) && !self.names.functions.contains(&function) && !is_catalogs() {
            self.stranger = Some(Stranger::Function(function));
        }
    }

    fn type_(&mut self, type_id: pg_sys::Oid) {
        if !is_builtin(type_id) && !self.names.types.contains(&type_id) {
            self.stranger = Some(Stranger::Type(type_id));
        }
    }
}

/// Whether initdb made it.
fn is_builtin(oid: pg_sys::Oid) -> bool {
    oid.to_u32() < pg_sys::FirstNormalObjectId
}
