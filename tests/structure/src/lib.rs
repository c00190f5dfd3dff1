//! Reads the source tree as text: the modules of `src/`, what each of them imports, and the text
//! literals that they hold.
//!
//! Comments and unit tests (`#[cfg(test)] mod tests`) are left out: they may name what code may
//! not.

mod lexer;
mod paths;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file of the crate `pg_crm`.
pub struct Module {
    /// Relative to the repository.
    pub file: String,
    /// The module's path in the crate: `worker::link::token`; empty for `lib.rs`.
    pub path: String,
    /// Code without comments and without the contents of literals.
    pub code: String,
    pub literals: Vec<String>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The Rust files below a directory, without those of the directories named.
fn files(directory: &Path, without: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && !without.contains(&&*name) {
            files(&path, without, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
}

/// The files below a directory of the repository.
pub fn modules(directory: &str, without: &[&str]) -> Vec<Module> {
    let root = repository();
    let mut found = Vec::new();
    files(&root.join(directory), without, &mut found);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file");
        let relative = path.strip_prefix(&root).expect("below the repository");
        let file = relative.to_string_lossy().into_owned();
        let (code, literals) = lexer::split(&text);
        Module {
            path: paths::of_file(file.strip_prefix(directory).unwrap_or(&file)),
            file,
            code: paths::without_tests(&code).to_owned(),
            literals,
        }
    };
    found.into_iter().map(read).collect()
}

/// Where comment lines are wider than rustfmt makes a line of code: it leaves them alone.
pub fn long_comments(most: usize) -> Vec<String> {
    let root = repository();
    let mut found = Vec::new();
    for directory in ["src", "tests", "fuzz"] {
        files(&root.join(directory), &["target"], &mut found);
    }
    let mut long = Vec::new();
    for path in found {
        let text = fs::read_to_string(&path).expect("a source file");
        let relative = path.strip_prefix(&root).unwrap_or(&path);
        let lines = text.lines().enumerate();
        let lines = lines.filter(|(_, l)| l.trim_start().starts_with("//"));
        let beyond = lines.filter(|(_, line)| line.chars().count() > most);
        long.extend(beyond.map(|(n, _)| format!("{}:{}", relative.display(), n + 1)));
    }
    long
}

/// What each module imports of the others, by their paths.
pub fn imports(modules: &[Module]) -> BTreeMap<&str, BTreeSet<&str>> {
    let known: BTreeSet<&str> = modules.iter().map(|m| m.path.as_str()).collect();
    let imported = |module: &Module| -> BTreeSet<&str> {
        let named = paths::named(&module.code, &module.path);
        let targets = named.iter().filter_map(|path| longest(path, &known));
        targets.filter(|target| *target != module.path).collect()
    };
    let edges = modules.iter().map(|m| (m.path.as_str(), imported(m)));
    edges.collect()
}

/// The module that a path leads into.
fn longest<'k>(path: &str, known: &BTreeSet<&'k str>) -> Option<&'k str> {
    let mut path = path;
    loop {
        if let Some(module) = known.get(path) {
            return Some(module);
        }
        path = match path.rsplit_once("::") {
            Some((parent, _)) => parent,
            None => return None,
        };
    }
}

/// Groups of modules that import each other, directly or through others.
pub fn circles(imports: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports
        .keys()
        .map(|module| (*module, reachable(module, imports)))
        .collect();
    let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, from_it) in &reached {
        if from_it.contains(module) {
            let mutual = from_it
                .iter()
                .filter(|other| reached[**other].contains(module));
            circles.insert(mutual.map(|m| (*m).to_owned()).collect());
        }
    }
    circles.into_iter().collect()
}

fn reachable<'m>(from: &str, imports: &BTreeMap<&'m str, BTreeSet<&'m str>>) -> BTreeSet<&'m str> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&str> = imports[from].iter().copied().collect();
    while let Some(module) = open.pop() {
        if reached.insert(module) {
            open.extend(imports[module].iter().copied());
        }
    }
    reached
}
