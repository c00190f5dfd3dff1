//! CRMs, brokers and proxies that quote the credentials they were sent: nothing that pg_crm keeps
//! or says holds them.

use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use crm_suites::crm::Way;
use crm_suites::{Cluster, Contestant, Json, Live, Vendor, eventually, json};

use crate::raw::Raw;

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| {
    Cluster::shared_with(&[
        ("log_min_messages", "debug1"),
        ("log_error_verbosity", "verbose"),
    ])
});

crm_suites::with_every_contestant!(
    no_secret_is_kept_or_shown_that_an_error_quotes,
    no_secret_is_kept_or_shown_that_the_refusal_of_a_token_quotes,
);

/// All that anybody could read of it.
async fn all_that_is_kept(live: &Live) -> String {
    let tables = "SELECT c.oid::regclass::text FROM pg_class c
                  WHERE c.relnamespace = 'crm'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') AND c.relname <> 'credential'";
    let mut kept = CLUSTER.log();
    for table in live.db.all::<String>(tables, &[]).await {
        kept += &live
            .db
            .text(&format!("SELECT t::text FROM {table} t"))
            .await;
    }
    kept + &live.db.text("SELECT a::text FROM pg_stat_activity a").await
}

fn forms(secret: &str) -> Vec<String> {
    let percent = secret.bytes().map(|b| match b.is_ascii_alphanumeric() {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    });
    vec![
        secret.to_owned(),
        STANDARD.encode(secret),
        // What any base64 of a text with it holds, unless a character before shifts it.
        STANDARD
            .encode(format!("Bearer {secret}"))
            .trim_end_matches('=')
            .to_owned(),
        URL_SAFE_NO_PAD.encode(secret),
        percent.collect(),
        hex::encode(secret),
    ]
}

fn assert_secret(secrets: &[String], seen: &str, whose: &str) {
    for secret in secrets {
        for form in forms(secret) {
            if let Some(at) = seen.find(&form) {
                let start = seen.floor_char_boundary(at.saturating_sub(300));
                let end = seen.floor_char_boundary(at + 100);
                panic!("{whose}: {form} can be seen: {}", &seen[start..end]);
            }
        }
    }
}

/// What callers hear who try everything.
async fn try_everything(live: &Live, phone: &str) -> String {
    let name = live.crm.vendor.name();
    let mut told = String::new();
    let written = live.write("p1", json!({"phone": phone})).await;
    told += &format!("{written:?}");
    live.db
        .execute(&format!("UPDATE people SET phone = '{phone} too'"))
        .await;
    let flush = "SELECT crm.flush(timeout => '2 seconds')";
    live.db.one::<bool>(flush, &[]).await;
    let test = "SELECT to_jsonb(t)::text FROM crm.test_connection($1) t";
    told += &live.db.one::<String>(test, &[&name]).await;
    let people = live.crm.vendor.people();
    for call in [
        format!("SELECT crm.describe('{name}', '{people}')"),
        "SELECT crm.read_live('people', 'p1')".to_owned(),
        format!("SELECT crm.check_mapping({})", live.map),
        "SELECT crm.ingest_now(timeout => '1 second')".to_owned(),
    ] {
        match live.db.client().simple_query(&call).await {
            Ok(rows) => told += &format!("{rows:?}"),
            Err(error) => told += &format!("{:?}", error.as_db_error()),
        }
    }
    told
}

/// Puts right what the trouble left, so that the next begins as the first did.
async fn recover(live: &Live) {
    live.mend().await;
    live.db.execute("SELECT crm.replay_all()").await;
}

async fn no_secret_is_kept_or_shown_that_an_error_quotes(contestant: Contestant) {
    if contestant.vendor == Vendor::Stub {
        return; // It has no credentials.
    }
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(2).await;
    let heard = Arc::new(Mutex::new(Vec::<Json>::new()));
    let _listener = live.db.listen("crm", heard.clone()).await;
    let given: Json = live.crm.credentials().parse().expect("JSON");
    let secrets: Vec<String> = given
        .as_object()
        .into_iter()
        .flat_map(|given| given.values())
        .map(|secret| secret.as_str().expect("a text").to_owned())
        .collect();
    let who = match contestant.way {
        Way::Direct => contestant.vendor.name(),
        Way::Composio => "composio",
    };
    let mut told = String::new();
    // One record of a batch, in an answer that is a success.
    if contestant.way == Way::Direct {
        let id = live.crm_id("p2").await.expect("it is linked");
        let records = json!({"ids": [id], "code": "AS_INJECTED", "message": "no:"});
        let fault = json!({"times": "unlimited", "echo": true, "fail_records": records});
        live.crm.fault(fault);
        told += &try_everything(&live, "a record").await;
        recover(&live).await;
    }
    for status in [400, 401, 403, 404, 409, 422, 429, 500, 503] {
        let fault = json!({"vendor": who, "status": status, "echo": true, "times": "unlimited"});
        live.crm.sim().fault(fault);
        told += &try_everything(&live, &format!("status {status}")).await;
        recover(&live).await;
    }
    assert!(told.contains('…'), "it did quote them: {told}");
    let events = format!("{:?}", heard.lock().expect("no panic under this lock"));
    let seen = format!("{told}{events}{}", all_that_is_kept(&live).await);
    assert_secret(&secrets, &seen, who);
}

async fn no_secret_is_kept_or_shown_that_the_refusal_of_a_token_quotes(contestant: Contestant) {
    if contestant.vendor == Vendor::Stub || contestant.way == Way::Composio {
        return;
    }
    let live = Live::open(&CLUSTER, contestant).await;
    live.people(1).await;
    let grant = live.crm.grant();
    let mut told = String::new();
    for status in [400, 401, 500, 503] {
        live.crm.fault(
            json!({"path": grant.path, "status": status, "echo": true, "times": "unlimited"}),
        );
        let credentials = live.crm.refreshable();
        live.crm.set_credentials(&live.db, &credentials).await;
        told += &try_everything(&live, &format!("status {status}")).await;
        recover(&live).await;
    }
    // A token that was granted is one too.
    live.crm.sim().end_faults();
    live.crm
        .set_credentials(&live.db, &live.crm.refreshable())
        .await;
    live.crm
        .fault(json!({"path": "/", "status": 400, "echo": true, "times": "unlimited"}));
    live.crm.sim().end_faults();
    told += &try_everything(&live, "granted").await;
    let secrets = [grant.refresh_token.to_owned(), grant.secret.to_owned()];
    let seen = told + &all_that_is_kept(&live).await;
    assert_secret(&secrets, &seen, contestant.vendor.name());
}

/// A proxy before the CRM, with a page of its own; and secrets of before a rotation.
#[tokio::test]
async fn a_proxys_page_is_no_place_to_read_them_either() {
    let live = Live::open(&CLUSTER, Vendor::HubSpot).await;
    live.people(1).await;
    let proxy = Raw::start(|stream, head| {
        use std::io::Write;
        let body = json!({"message": format!("{head} and once more: token-number-one, {}", STANDARD.encode("user:token-number-one")), "category": head, "correlationId": head});
        let body = body.to_string();
        let length = body.len();
        let _ = write!(
            stream,
            "HTTP/1.1 400 token-number-one\r\nContent-Length: {length}\r\n\r\n{body}"
        );
    });
    let url = proxy.url();
    live.db
        .execute(&format!(
            r#"SELECT crm.create_connection('proxied', 'hubspot', '{url}', credentials => '{{"access_token": "token-number-one"}}')"#
        ))
        .await;
    let test = "SELECT detail FROM crm.test_connection('proxied')";
    let told = eventually("it answers", async || {
        let told: String = live.db.one(test, &[]).await;
        told.contains('…').then_some(told)
    })
    .await;
    let seen = told + &all_that_is_kept(&live).await;
    assert_secret(&["token-number-one".to_owned()], &seen, "a proxy");
}
