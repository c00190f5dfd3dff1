//! A simulator of one's own, and its admin address: what the CRMs' users see and do.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use ureq::Agent;

use crate::process;

pub struct Sim {
    pub salesforce: String,
    pub hubspot: String,
    pub pipedrive: String,
    pub zoho: String,
    pub dynamics365: String,
    pub composio: String,
    admin: String,
    agent: Agent,
    child: Child,
}

/// `CRM_SIM` if it is set; otherwise the one that cargo builds beside the tests.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("CRM_SIM") {
            return path.into();
        }
        process::run(Command::new(env!("CARGO")).args(["build", "--quiet", "-p", "crm-sim"]));
        let test = std::env::current_exe().expect("a test has a path");
        test.ancestors()
            .nth(2)
            .expect("target/debug/deps/test")
            .join("crm-sim")
    })
}

impl Sim {
    pub fn start() -> Sim {
        let mut command = Command::new(program());
        for desk in [
            "--salesforce",
            "--hubspot",
            "--pipedrive",
            "--zoho",
            "--dynamics365",
            "--composio",
            "--admin",
        ] {
            command.args([desk, "127.0.0.1:0"]);
        }
        command.stdout(Stdio::piped());
        let mut child = process::spawn(command, Signal::SIGKILL);
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let said: Vec<String> = output
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "ready")
            .collect();
        let address = |name: &str| {
            let found = said
                .iter()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found
                .unwrap_or_else(|| panic!("crm-sim gave no address of {name}: {said:?}"))
                .to_owned()
        };
        let config = Agent::config_builder().timeout_global(Some(Duration::from_secs(30)));
        let agent = config.http_status_as_error(false).build().into();
        Sim {
            salesforce: address("salesforce"),
            hubspot: address("hubspot"),
            pipedrive: address("pipedrive"),
            zoho: address("zoho"),
            dynamics365: address("dynamics365"),
            composio: address("composio"),
            admin: address("admin"),
            agent,
            child,
        }
    }

    /// Where a vendor listens.
    pub fn address(&self, vendor: &str) -> &str {
        match vendor {
            "salesforce" => &self.salesforce,
            "hubspot" => &self.hubspot,
            "pipedrive" => &self.pipedrive,
            "zoho" => &self.zoho,
            _ => &self.dynamics365,
        }
    }

    /// Where the simulator itself listens.
    pub fn admin_address(&self) -> &str {
        &self.admin
    }

    fn answer(what: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
        let mut response = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        let body = response
            .body_mut()
            .with_config()
            .limit(1 << 30)
            .read_to_string();
        let body = body.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            response.status().is_success(),
            "{what}: {} {body}",
            response.status()
        );
        if body.is_empty() {
            Value::Null
        } else {
            body.parse().expect("JSON")
        }
    }

    pub fn get(&self, path: &str) -> Value {
        let url = format!("{}/{path}", self.admin);
        Sim::answer(path, self.agent.get(url).call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}/{path}", self.admin));
        Sim::answer(
            path,
            request
                .header("content-type", "application/json")
                .send(body.to_string()),
        )
    }

    pub fn patch(&self, path: &str, body: &Value) -> Value {
        let request = self.agent.patch(format!("{}/{path}", self.admin));
        Sim::answer(
            path,
            request
                .header("content-type", "application/json")
                .send(body.to_string()),
        )
    }

    /// Sends what may be refused, and says why if it is.
    pub fn attempt(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let url = format!("{}/{path}", self.admin);
        let request = match method {
            "PATCH" => self.agent.patch(url),
            _ => self.agent.post(url),
        };
        let sent = request
            .header("content-type", "application/json")
            .send(body.to_string());
        let mut answer = sent.unwrap_or_else(|error| panic!("{path}: {error}"));
        let told = answer.body_mut().read_to_string().unwrap_or_default();
        if answer.status().is_success() {
            Ok(told.parse().unwrap_or_default())
        } else {
            Err(told)
        }
    }

    pub fn delete(&self, path: &str) -> Value {
        Sim::answer(
            path,
            self.agent.delete(format!("{}/{path}", self.admin)).call(),
        )
    }

    /// Registers a fault; `crm-sim --help` tells what it may hold.
    pub fn fault(&self, fault: Value) {
        self.post("faults", &fault);
    }

    /// Faults that can still strike.
    pub fn faults_left(&self) -> usize {
        let faults = self.get("faults")["faults"].take();
        let all = faults.as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter(|fault| fault["remaining"] != 0).count()
    }

    /// Requests that are being served, whether or not their callers still wait.
    pub fn under_way(&self) -> u64 {
        self.get("requests?limit=0")["under_way"]
            .as_u64()
            .expect("a number")
    }

    pub fn end_faults(&self) {
        self.delete("faults");
    }

    /// What was asked of the CRMs, in order; only requests whose path holds `path`.
    pub fn requests(&self, path: &str) -> Vec<Value> {
        match self.get(&format!("requests?path={path}"))["requests"].take() {
            Value::Array(requests) => requests,
            other => panic!("requests: {other}"),
        }
    }

    pub fn forget_requests(&self) {
        self.delete("requests");
    }

    /// Creates records as a person would; their ids.
    pub fn create(
        &self,
        vendor: &str,
        object: &str,
        records: &[Map<String, Value>],
    ) -> Vec<String> {
        self.attempt_create(vendor, object, records)
            .unwrap_or_else(|error| panic!("{object}: {error}"))
    }

    /// The same, unless the CRM refuses them.
    pub fn attempt_create(
        &self,
        vendor: &str,
        object: &str,
        records: &[Map<String, Value>],
    ) -> Result<Vec<String>, String> {
        let edits: Vec<Value> = records
            .iter()
            .map(|fields| json!({ "fields": fields }))
            .collect();
        let path = format!("objects/{vendor}/{object}");
        let made = self.attempt("POST", &path, &Value::Array(edits))?;
        Ok(serde_json::from_value(made["ids"].clone()).expect("ids"))
    }

    /// Merges records as a person would; the id of the one that is left.
    pub fn merge(&self, vendor: &str, object: &str, into: &str, from: &[&str]) -> String {
        let order = json!({"into": into, "from": from});
        let record = self.post(&format!("merge/{vendor}/{object}"), &order);
        record["id"].as_str().expect("an id").to_owned()
    }

    /// The records of an object.
    pub fn records(&self, vendor: &str, object: &str) -> Vec<Value> {
        match self.get(&format!("objects/{vendor}/{object}"))["records"].take() {
            Value::Array(records) => records,
            other => panic!("records: {other}"),
        }
    }
}

impl Sim {
    /// Prints the last requests; must not panic, a test is doing so already.
    fn tell(&self) {
        let answer = self.agent.get(format!("{}/requests", self.admin)).call();
        let body = answer
            .ok()
            .and_then(|mut answer| answer.body_mut().read_to_string().ok());
        let log: Value = body.and_then(|body| body.parse().ok()).unwrap_or_default();
        let last = log["requests"].as_array().map_or(&[][..], Vec::as_slice);
        eprintln!("-- the last requests to the CRMs:");
        for request in &last[last.len().saturating_sub(8)..] {
            let word = |name: &str| request[name].as_str().unwrap_or_default();
            let (body, response) = (shortened(word("body")), shortened(word("response")));
            eprintln!(
                "{} {} {body} -> {} {response}",
                word("method"),
                word("path"),
                request["status"]
            );
        }
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(600).collect()
}

impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
