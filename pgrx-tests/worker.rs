//! Components of the worker, each by itself: with a test database, and a fake link instead of a
//! CRM.

#[pgrx::pg_schema]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use crm_provider::{Response, Target};
    use pgrx::prelude::*;
    use serde_json::{Value as Json, json};
    use tokio::runtime::Runtime;
    use tokio::sync::oneshot;

    use crate::pgrx_suite::fixture::*;
    use crate::store::write_back::fold;
    use crate::store::{config, transaction};
    use crate::worker::connections::Connections;
    use crate::worker::context::Context;
    use crate::worker::in_flight::RecordsInFlight;
    use crate::worker::ingest::Ingest;
    use crate::worker::ingest::waiters::IngestWaiter;
    use crate::worker::link;
    use crate::worker::mailbox::{self, Inbox, Sender};
    use crate::worker::reconciler::Reconciler;
    use crate::worker::session::start_threads;
    use crate::worker::socket::protocol::Wait;
    use crate::worker::waiters::Waiter;

    /// A CRM that answers requests, by path and body.
    fn fake_crm(
        respond: impl Fn(&str, &Json) -> Json + Send + Sync + 'static,
    ) -> Sender<link::Message> {
        Sender::new(move |message| {
            let link::Message::StubRequest { request, reply, .. } = message else {
                return;
            };
            let (Target::Api(path) | Target::File(path) | Target::Url(path)) = &request.target;
            let body = serde_json::from_slice(&request.body).unwrap_or_default();
            let _ = reply.send(Ok(Response {
                status: 200,
                body: respond(path, &body).to_string().into_bytes(),
                ..Response::default()
            }));
        })
    }

    /// What the main loop would lend, after it has read the configuration.
    fn context(runtime: &Runtime, crm: Sender<link::Message>) -> Context {
        let mut cx = Context::new(runtime.handle().clone(), Connections::new(crm));
        let (connections, maps) = transaction(|client| {
            let connections = config::connections(client)?;
            Ok((connections, config::maps(client)?))
        })
        .expect("the configuration");
        cx.connections.set_known(connections);
        cx.maps = maps.into();
        cx.connections.connect(&cx.settings, &mut cx.backoff);
        cx
    }

    fn next<M>(inbox: &Inbox<M>) -> M {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(message) = inbox.drain().pop() {
                return message;
            }
            assert!(Instant::now() < deadline, "no message came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[pg_test]
    fn ingestion_answers_its_waiters_after_the_last_page() {
        let map = mapped("t", &["a text"]);
        let runtime = start_threads();
        let crm = fake_crm(|path, body| match path {
            "/changes" => {
                let is_first = body["since"].is_null();
                let page = if is_first { 1 } else { 2 };
                json!({ "changes": [], "next": { "page": page }, "more": is_first })
            }
            _ => json!({ "count": 0 }),
        });
        let mut cx = context(&runtime, crm);
        let (mailbox, inbox) = mailbox::channel().expect("an eventfd");
        let mut ingest = Ingest::new(mailbox);
        let (reply, mut answer) = oneshot::channel();
        let wait = Wait {
            map_ids: Some(vec![map]),
            timeout_ms: 60_000,
        };
        ingest.add_waiter(IngestWaiter::new(Waiter::new(wait, reply), false));
        let nothing_in_flight = |_| RecordsInFlight::default();

        ingest.turn(&mut cx, &nothing_in_flight, &|_| false);
        ingest.on_message(&mut cx, next(&inbox), &nothing_in_flight, &mut |_| ());
        ingest.answer_waiters(&mut cx);
        assert!(answer.try_recv().is_err(), "answered before the last page");

        ingest.on_message(&mut cx, next(&inbox), &nothing_in_flight, &mut |_| ());
        ingest.answer_waiters(&mut cx);
        assert_eq!(answer.try_recv(), Ok(json!({ "done": true })));
        let cursor = format!("SELECT cursor FROM crm.ingest_state WHERE map_id = {map}");
        assert_eq!(value(&cursor), r#"{"page": 2}"#);
        runtime.shutdown_background();
    }

    #[pg_test]
    fn the_reconciler_writes_an_edit_whose_base_stands() {
        let map = mapped("t", &["a text"]);
        run("INSERT INTO t VALUES (1, 'old')");
        captured(map);
        run(&format!(
            "SELECT crm.link({map}, '1', 'account-1', write_key => false)"
        ));
        run("UPDATE t SET a = 'new'");
        transaction(|client| fold::fold(client, 100, &mut 0, &mut None)).expect("folded");
        let runtime = start_threads();
        let written = Arc::new(Mutex::new(Vec::new()));
        let writes = written.clone();
        let crm = fake_crm(move |path, body| match path {
            "/read" => {
                json!({ "results": [{ "id": "account-1", "fields": { "x_a": "old" }, "version": "1" }] })
            }
            _ => {
                writes
                    .lock()
                    .expect("no panic")
                    .push(body["records"].clone());
                json!({ "results": [{ "id": "account-1" }] })
            }
        });
        let mut cx = context(&runtime, crm);
        let (mailbox, inbox) = mailbox::channel().expect("an eventfd");
        let mut reconciler = Reconciler::new(mailbox);

        reconciler.turn(&mut cx, &|_| false, &mut |_| ());
        assert!(reconciler.works_on(&[map]));
        reconciler.on_message(&mut cx, next(&inbox), &mut |_| ());
        assert!(!reconciler.works_on(&[map]) && !reconciler.has_unrecorded());
        let written = written.lock().expect("no panic");
        assert_eq!(written.len(), 1);
        assert_eq!(written[0][0]["fields"]["x_a"], "new");
        let pending = format!("SELECT count(*) FROM crm.pending_write WHERE map_id = {map}");
        assert_eq!(value(&pending), "0");
        runtime.shutdown_background();
    }
}
