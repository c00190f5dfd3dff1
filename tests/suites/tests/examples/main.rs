//! The examples of README and docs/ work, and print what the documents say that they print.
//!
//! The ```` ```sql ```` blocks of a document run in order in one session of psql, against the
//! simulator. Where a block is followed by one without a language, the output has to end with that.
//! A block that cannot run is marked: ```` ```sql no-run ````.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use crm_suites::cluster::program;
use crm_suites::{Cluster, Sim};

/// What the documents other than README take for granted: a connection, and a mapped table with a
/// row that is linked.
const SETUP: &str = r#"
CREATE EXTENSION pg_crm;
SELECT crm.create_connection('acme', 'salesforce', 'http://127.0.0.1:4101', credentials => '{"access_token": "sf-token"}');
CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL, title text, phone text);
SELECT crm.map_object('acme', 'people', 'Contact', external_id_field => 'External_Key__c', on_insert => 'create');
SELECT crm.map_field(1, 'name', 'LastName', direction => 'outbound');
SELECT crm.map_field(1, 'title', 'Title', direction => 'outbound');
SELECT crm.map_field(1, 'phone', 'Phone');
INSERT INTO people VALUES (42, 'Ada Lovelace', 'Analyst', '+49 30 0');
SELECT crm.flush();
"#;

/// What the document about rights and credentials takes for granted besides.
const SECURITY: &str = r#"
CREATE ROLE app_reader;
SELECT crm.create_connection('hub', 'hubspot', 'http://127.0.0.1:4102', credentials => '{"access_token": "hs-token"}');
"#;

struct Example {
    line: usize,
    sql: String,
    output: Option<String>,
}

/// Finds the examples of a document.
fn examples(document: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut lines = document.lines().enumerate();
    // Whether a block without a language would be the output of the last example.
    let mut is_awaited = false;
    while let Some((n, line)) = lines.next() {
        let Some(info) = line.trim_start().strip_prefix("```") else {
            is_awaited &= line.trim().is_empty();
            continue;
        };
        let indent = line.len() - line.trim_start().len();
        let block: Vec<&str> = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| line.trim() != "```")
            .map(|line| line.get(indent..).unwrap_or(""))
            .collect();
        match info.trim() {
            "sql" => found.push(Example {
                line: n + 1,
                sql: block.join("\n"),
                output: None,
            }),
            "" if is_awaited => {
                if let Some(last) = found.last_mut() {
                    last.output = Some(block.join("\n"));
                }
            }
            _ => {}
        }
        is_awaited = info.trim() == "sql";
    }
    found
}

/// Without what a document leaves out: empty lines, trailing blanks, the number of rows.
fn normalised(output: &str) -> Vec<&str> {
    let is_count =
        |line: &str| line.starts_with('(') && (line.ends_with(" rows)") || line.ends_with(" row)"));
    output
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !is_count(line))
        .collect()
}

/// Runs the examples of a document, and returns what is wrong with them.
async fn failures(cluster: &Cluster, sim: &Sim, document: &str, setup: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join(document)).expect("a document");
    let examples = examples(&text);
    assert!(!examples.is_empty(), "{document} has no examples");
    let database = cluster.bare_database().await;
    // As `make sim` gives them.
    let addresses = [
        ("http://127.0.0.1:4101", sim.address("salesforce")),
        ("http://127.0.0.1:4102", sim.address("hubspot")),
        ("http://127.0.0.1:4103", sim.admin_address()),
        (
            "127.0.0.1:4103",
            sim.admin_address().trim_start_matches("http://"),
        ),
    ];
    let mut script = format!("{setup}\n");
    for (n, example) in examples.iter().enumerate() {
        script += &format!("\\echo <<{n}>>\n{}\n", example.sql);
    }
    for (written, real) in addresses {
        script = script.replace(written, real);
    }

    let log = tempfile::tempdir().expect("a directory");
    let log = log.path().join("output");
    let output = File::create(&log).expect("a file");
    let mut psql = program("psql")
        .args([
            "-X",
            "-U",
            "postgres",
            "-P",
            "pager=off",
            "-d",
            &database.name,
            "-h",
        ])
        .arg(cluster.path())
        .stdin(Stdio::piped())
        .stdout(output.try_clone().expect("a handle"))
        .stderr(output)
        .spawn()
        .expect("psql");
    let mut input = psql.stdin.take().expect("piped");
    input.write_all(script.as_bytes()).expect("psql reads");
    drop(input);
    psql.wait().expect("psql ends");
    let printed = std::fs::read_to_string(&log).expect("the output");

    let mut failures = Vec::new();
    let preamble = printed.split("<<0>>").next().unwrap_or_default();
    if preamble.contains("ERROR:") {
        failures.push(format!("{document}: the setup failed:\n{preamble}"));
    }
    for (n, example) in examples.iter().enumerate() {
        let (begin, end) = (format!("<<{n}>>\n"), format!("<<{}>>\n", n + 1));
        let printed = printed.split_once(&begin).map_or("", |(_, rest)| rest);
        let printed = printed.split_once(&end).map_or(printed, |(this, _)| this);
        let wanted = example.output.as_deref().unwrap_or_default();
        let ends_right = normalised(printed).ends_with(&normalised(wanted));
        let fails = printed.contains("ERROR:") && !wanted.contains("ERROR:");
        if fails || !ends_right {
            failures.push(format!(
                "{document}:{}: the example prints\n{printed}\nand not\n{wanted}",
                example.line
            ));
        }
    }
    failures
}

#[tokio::test]
async fn of_readme() {
    let (cluster, sim) = (Cluster::start(), Sim::start());
    let failures = failures(&cluster, &sim, "README.md", "").await;
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn of_the_manual() {
    let (cluster, sim) = (Cluster::start(), Sim::start());
    let mut all = Vec::new();
    for document in [
        "how-to",
        "ingest",
        "mapping",
        "providers",
        "real-time",
        "security",
        "webhooks",
    ] {
        let more = if document == "security" { SECURITY } else { "" };
        let (path, setup) = (format!("docs/{document}.md"), format!("{SETUP}{more}"));
        all.extend(failures(&cluster, &sim, &path, &setup).await);
    }
    assert!(all.is_empty(), "{}", all.join("\n\n"));
}
