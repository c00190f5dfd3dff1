//! What may know what, in `src/`. A failure names the files: the remedy is another place for the
//! code, not a longer list here.

use crm_structure::{Module, circles, imports, long_comments, modules};

/// The crate `pg_crm`; domain and providers are crates of their own.
fn pg_crm() -> Vec<Module> {
    modules("src", &["domain", "provider"])
}

#[test]
fn no_circle_of_imports() {
    let modules = pg_crm();
    let found = circles(&imports(&modules));
    assert!(
        found.is_empty(),
        "modules that import each other: {found:#?}"
    );
}

/// The worker's components, which the main loop alone knows.
const COMPONENTS: &[&str] = &[
    "calls",
    "ingest",
    "monitor",
    "reconciler",
    "recapture",
    "table_follower",
    "webhooks",
    "write_back",
];

#[test]
fn the_main_loop_alone_knows_the_components() {
    let modules = pg_crm();
    let imports = imports(&modules);
    let mut found = Vec::new();
    for (module, imported) in &imports {
        let Some(module) = module.strip_prefix("worker::") else {
            continue;
        };
        let room = |path: &str| path.split("::").next().unwrap_or_default().to_owned();
        if matches!(&*room(module), "main_loop" | "entry") {
            continue;
        }
        for target in imported.iter().filter_map(|t| t.strip_prefix("worker::")) {
            let target_room = room(target);
            let is_foreign = COMPONENTS.contains(&&*target_room) && target_room != room(module);
            if target_room == "main_loop" || is_foreign {
                found.push(format!("{module} imports {target}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_mailbox_knows_no_message() {
    let modules = pg_crm();
    let imports = imports(&modules);
    assert!(
        imports["worker::mailbox"].is_empty(),
        "{:?}",
        imports["worker::mailbox"]
    );
}

#[test]
fn rules_and_vendors_know_no_postgres() {
    for crate_ in ["src/domain", "src/provider"] {
        for module in modules(crate_, &[]) {
            for word in ["pgrx", "pg_sys"] {
                assert!(!module.code.contains(word), "{} names {word}", module.file);
            }
        }
    }
}

#[test]
fn one_module_knows_the_versions_of_postgres() {
    for module in pg_crm().iter().filter(|m| m.path != "server_version") {
        let asks = |literal: &String| literal.starts_with("pg1") && literal.len() == 4;
        let found = module.literals.iter().any(asks);
        assert!(!found, "{} asks for a version", module.file);
    }
}

/// How a statement begins.
const STATEMENTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "UPDATE ",
    "DELETE FROM ",
    "WITH ",
    "SET LOCAL ",
    "LOCK ",
    "TRUNCATE ",
    "DECLARE ",
    "FETCH ",
    "CALL ",
    "MERGE ",
];

#[test]
fn statements_are_the_stores() {
    let mut found = Vec::new();
    for module in pg_crm() {
        if module.path.starts_with("store") {
            continue;
        }
        let is_statement = |l: &&String| STATEMENTS.iter().any(|s| l.trim_start().starts_with(s));
        let statements = module.literals.iter().filter(is_statement);
        found.extend(
            statements
                .map(|s| format!("{}: {}", module.file, s.lines().next().unwrap_or_default())),
        );
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn comments_are_as_wide_as_code() {
    let found = long_comments(100);
    assert!(found.is_empty(), "more than 100 columns: {found:#?}");
}
