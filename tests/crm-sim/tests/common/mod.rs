//! A simulator in this process on free ports, and a client that keeps its connection.

#![allow(dead_code)]

use crm_domain::{DataType, Failure};
use crm_provider::record::Field;
use crm_provider::{
    Operation, Provider, Request, Response, Settings, Step, Target, WriteBatch, Written, provider,
};
use crm_sim::Sim;
use crm_sim::server::{Desk, listen};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::runtime::Runtime;

pub struct World {
    agent: ureq::Agent,
    pub salesforce: SocketAddr,
    pub hubspot: SocketAddr,
    pub pipedrive: SocketAddr,
    pub zoho: SocketAddr,
    pub dynamics365: SocketAddr,
    pub admin: SocketAddr,
    _runtime: Runtime,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub text: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}

pub const VERSION: &str = "/services/data/v66.0";

impl World {
    pub fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let sim = Arc::new(Sim::default());
        let bind = |desk| {
            let bound = listen(sim.clone(), desk, "127.0.0.1:0");
            runtime.block_on(bound).unwrap()
        };
        let vendor = |name| Desk::Vendor(sim.vendor(name).unwrap().clone());
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // Salesforce's 300 leads nowhere.
            .max_redirects(0);
        Self {
            agent: config.build().new_agent(),
            salesforce: bind(vendor("salesforce")),
            hubspot: bind(vendor("hubspot")),
            pipedrive: bind(vendor("pipedrive")),
            zoho: bind(vendor("zoho")),
            dynamics365: bind(vendor("dynamics365")),
            admin: bind(Desk::Admin),
            _runtime: runtime,
        }
    }

    pub fn call(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Result<Reply, ureq::Error> {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.as_ref().to_vec()).unwrap();
        let mut response = self.agent.run(request)?;
        let body = response.body_mut().read_to_vec()?;
        Ok(Reply {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            text: String::from_utf8_lossy(&body).into_owned(),
            body,
        })
    }

    /// A Salesforce call with the default token; the path follows the version.
    pub fn sf(&self, method: &str, path: &str, body: Value) -> Reply {
        self.sf_with(method, path, &[], body)
    }

    pub fn sf_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Reply {
        let mut all = vec![
            ("Authorization", "Bearer sf-token"),
            ("Content-Type", "application/json"),
        ];
        all.extend(headers);
        let path = format!("{VERSION}{path}");
        self.call(self.salesforce, method, &path, &all, text(&body))
            .unwrap()
    }

    /// A HubSpot call with the default token; the path follows `/crm/v3`.
    pub fn hs(&self, method: &str, path: &str, body: Value) -> Reply {
        let headers = [
            ("Authorization", "Bearer hs-token"),
            ("Content-Type", "application/json"),
        ];
        let path = format!("/crm/v3{path}");
        self.call(self.hubspot, method, &path, &headers, text(&body))
            .unwrap()
    }

    /// A Pipedrive call with the default token; the path follows `/api`.
    pub fn pd(&self, method: &str, path: &str, body: Value) -> Reply {
        let headers = [
            ("x-api-token", "pd-token"),
            ("Content-Type", "application/json"),
        ];
        let path = format!("/api{path}");
        self.call(self.pipedrive, method, &path, &headers, text(&body))
            .unwrap()
    }

    /// A Zoho call with the default token; the path follows `/crm/v8`.
    pub fn zoho(&self, method: &str, path: &str, body: Value) -> Reply {
        let headers = [
            ("Authorization", "Zoho-oauthtoken zoho-token"),
            ("Content-Type", "application/json"),
        ];
        let path = format!("/crm/v8{path}");
        self.call(self.zoho, method, &path, &headers, text(&body))
            .unwrap()
    }

    /// A Dataverse call with the default token; the path follows `/api/data/v9.2`.
    pub fn d365(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
        let mut all = vec![
            ("Authorization", "Bearer d365-token"),
            ("Content-Type", "application/json"),
        ];
        all.extend(headers);
        let path = format!("/api/data/v9.2{path}");
        self.call(self.dynamics365, method, &path, &all, text(&body))
            .unwrap()
    }

    pub fn admin(&self, method: &str, path: &str, body: Value) -> Value {
        let reply = self
            .call(self.admin, method, path, &[], text(&body))
            .unwrap();
        assert!(reply.status < 300, "{method} {path}: {}", reply.text);
        reply.json()
    }

    /// How many live records of an object there are.
    pub fn count(&self, vendor: &str, object: &str) -> u64 {
        let path = format!("/objects/{vendor}/{object}?limit=0");
        self.admin("GET", &path, Value::Null)["total"]
            .as_u64()
            .unwrap()
    }
}

pub fn field(name: &str, data_type: DataType) -> Arc<Field> {
    Arc::new(Field {
        name: name.to_owned(),
        data_type,
    })
}

pub type Outcomes = Vec<Result<Written, Failure>>;

/// A provider and the vendor that it talks to, as the engine joins them.
pub struct Line<'a> {
    pub world: &'a World,
    pub provider: &'static dyn Provider,
    address: SocketAddr,
    token: &'static str,
}

impl<'a> Line<'a> {
    pub fn new(world: &'a World, vendor: &str) -> Self {
        let (address, token) = match vendor {
            "salesforce" => (world.salesforce, "sf-token"),
            // As the provider tells an API token from a granted one.
            "pipedrive" => (world.pipedrive, "x-api-token pd-token"),
            "zoho" => (world.zoho, "zoho-token"),
            "dynamics365" => (world.dynamics365, "d365-token"),
            _ => (world.hubspot, "hs-token"),
        };
        Self {
            world,
            provider: provider(vendor).unwrap(),
            address,
            token,
        }
    }

    /// Writes as few records as no job is made for.
    pub fn write(&self, batch: WriteBatch) -> Outcomes {
        let settings = Settings {
            bulk_threshold: 2000,
            ..Settings::default()
        };
        self.run(self.provider.write(&settings, Arc::new(batch)))
            .unwrap()
    }

    pub fn send(&self, mut request: Request) -> Response {
        self.provider.sign(&mut request, self.token);
        let base_url = format!("http://{}", self.address);
        let path = match &request.target {
            Target::Api(path) => path.clone(),
            Target::File(file) => {
                let url = self
                    .provider
                    .file_url(&Settings::default(), &base_url, file);
                let url = url.unwrap_or_else(|| panic!("{request:?}"));
                url.replace(&base_url, "")
            }
            Target::Url(_) => panic!("{request:?}"),
        };
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        let method = request.method.name();
        let reply = self
            .world
            .call(self.address, method, &path, &headers, &request.body);
        let reply = reply.unwrap();
        let headers = reply.headers.iter();
        Response {
            status: reply.status,
            headers: headers
                .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
                .collect(),
            body: reply.body,
            success: request.success,
        }
    }

    /// What the engine does with an operation; waits are waited.
    pub fn run<T>(&self, mut operation: Box<dyn Operation<T>>) -> Result<T, Failure> {
        let mut step = operation.step(None);
        loop {
            step = match step {
                Step::Done(result) => return result,
                Step::Wait(wait) => {
                    std::thread::sleep(wait);
                    operation.step(None)
                }
                Step::Send(request) => operation.step(Some(self.send(request))),
            };
        }
    }
}

fn text(body: &Value) -> String {
    match body {
        Value::Null => String::new(),
        body => body.to_string(),
    }
}
