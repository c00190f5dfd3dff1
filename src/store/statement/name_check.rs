//! Refuses our statements that name anything but what they may: a hook that PostgreSQL calls after
//! it has analysed a statement.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::prelude::*;
use pgrx::{PgList, PgSqlErrorCode};

use crate::server_version;
use crate::store::statement::names::{self, Names};

static mut NEXT: pg_sys::post_parse_analyze_hook_type = None;

/// Installs the hook; called when the library is loaded.
pub fn install() {
    // SAFETY: called once by each process, or by the one that it was forked from, before any
    // statement is analysed by way of us.
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
        check_names((*parse).p_sourcetext, query);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_names(text: *const c_char, query: *mut pg_sys::Query) {
    // SAFETY: the text of the statement that was just analysed, if there is one.
    let is_this = |statement: &str| unsafe {
        text.is_null() || CStr::from_ptr(text).to_bytes() == statement.as_bytes()
    };
    let Some(names) = names::to_check(is_this) else {
        return;
    };
    let mut walk = Walk {
        names: &names,
        stranger: None,
    };
    // SAFETY: the tree that the parser has just made; the walk changes nothing of it, and ends
    // before `walk` does.
    unsafe { visit(query.cast(), (&raw mut walk).cast()) };
    if let Some(stranger) = walk.stranger {
        stranger.refuse();
    }
    names::analysed_ours();
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
        // SAFETY: inside a transaction; the names are fresh copies, or null if there is no such
        // thing any more.
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
        names::report_replaced(code, &what)
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

struct Walk<'a> {
    names: &'a Names,
    stranger: Option<Stranger>,
}

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
                return walk.stranger.is_some()
                    || pg_sys::query_tree_walker(query, Some(visit), context, flags);
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
            tag if server_version::is_json_query(tag) => walk.type_(pg_sys::exprType(node)),
            _ => {
                pg_sys::check_functions_in_node(node, Some(is_stranger), context);
            }
        }
        walk.stranger.is_some() || pg_sys::expression_tree_walker(node, Some(visit), context)
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

    /// A cast, or an input or output function, is not named: it belongs to the types that it is
    /// between.
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
