//! What not every PostgreSQL has that the suites run on: contrib and ICU. A scenario that needs
//! such a thing asks first, and is skipped for everybody to see where it is missing.

use std::io::Write as _;
use std::path::Path;

use crate::cluster::program;
use crate::process;

#[derive(Clone, Copy)]
pub enum Need {
    /// A library of contrib.
    Library(&'static str),
    Icu,
}

/// Whether the server lacks it, and the scenario is skipped.
pub fn lacks(need: Need) -> bool {
    let (is_there, what) = match need {
        Need::Library(name) => {
            let file = format!("{name}.so");
            let directory = pg_config("--pkglibdir");
            (Path::new(&directory).join(file).exists(), name)
        }
        // Built in unless it was left out: Debian's 15 says that it has it, newer ones do by
        // default.
        Need::Icu => (!pg_config("--configure").contains("--without-icu"), "ICU"),
    };
    if !is_there {
        let test = std::thread::current();
        let test = test.name().unwrap_or_default();
        // Not by eprintln!(), of which the harness shows nothing if the test passes.
        let _ = writeln!(
            std::io::stderr(),
            "skipped: {test}: this PostgreSQL has no {what}"
        );
    }
    !is_there
}

fn pg_config(option: &str) -> String {
    let output = process::run(program("pg_config").arg(option));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
