//! Signed posts of the simulator, as the providers read them.

mod common;

use common::World;
use crm_provider::{
    Credentials, Settings, WebhookError, WebhookEvent, WebhookKind, WebhookRequest, provider,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

struct Post {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// Takes posts; answers the first `refused` of them with 503.
fn receiver(refused: usize) -> (String, Receiver<Post>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let (sender, posts) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let post = take(stream.unwrap(), if number < refused { 503 } else { 204 });
            if number >= refused && sender.send(post).is_err() {
                return;
            }
        }
    });
    (url, posts)
}

fn take(mut stream: TcpStream, status: u16) -> Post {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(line(), "POST /hooks HTTP/1.1");
    let mut headers = Vec::new();
    loop {
        let line = line();
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let length = headers
        .iter()
        .find(|(n, _)| n.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.unwrap().1.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    write!(
        stream,
        "HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    Post { headers, body }
}

fn read(
    vendor: &str,
    url: &str,
    secret: &str,
    now_ms: i64,
    post: &Post,
) -> Result<Vec<WebhookEvent>, WebhookError> {
    let credentials = Credentials([("webhook_secret".to_owned(), secret.to_owned())].into());
    let request = WebhookRequest {
        method: "POST",
        url,
        headers: &post.headers,
        body: &post.body,
        now_ms,
    };
    provider(vendor)
        .unwrap()
        .webhook(&Settings::default(), &credentials, &request)
}

fn now(world: &World) -> i64 {
    // The simulator's clock is this machine's, but for its skew.
    let skew = world.admin("GET", "/clock", Value::Null)["skew_s"]
        .as_f64()
        .unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    now.as_millis() as i64 + (skew * 1000.0) as i64
}

/// Events until there are `count`.
fn collect(
    posts: &Receiver<Post>,
    count: usize,
    read: impl Fn(&Post) -> Vec<WebhookEvent>,
) -> Vec<WebhookEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let post = posts
            .recv_timeout(Duration::from_secs(20))
            .expect("a post in time");
        events.extend(read(&post));
    }
    events
}

#[test]
fn changes_are_posted_signed_and_again_until_they_are_taken() {
    for (vendor, object, name) in [
        ("salesforce", "Contact", "LastName"),
        ("hubspot", "contacts", "lastname"),
        ("pipedrive", "persons", "name"),
    ] {
        let world = World::new();
        let (url, posts) = receiver(2);
        let signed = "https://db.acme.test/hooks?c=a%2Fb";
        world.admin(
            "POST",
            &format!("/webhooks/{vendor}"),
            json!({"url": url, "secret": "s", "signed_url": signed}),
        );
        let path = format!("/objects/{vendor}/{object}");
        let make = |value: &str| {
            let made = world.admin("POST", &path, json!({"fields": {name: value}}));
            made["id"].as_str().unwrap().to_owned()
        };
        let (one, two, three) = (make("one"), make("two"), make("three"));
        world.admin(
            "PATCH",
            &format!("{path}/{one}"),
            json!({"fields": {name: "eins"}}),
        );
        world.admin("DELETE", &format!("{path}/{three}"), Value::Null);
        world.admin(
            "PATCH",
            &format!("{path}/{three}"),
            json!({"deleted": false}),
        );
        world.admin(
            "POST",
            &format!("/merge/{vendor}/{object}"),
            json!({"into": one, "from": [two]}),
        );
        let good = |post: &Post| read(vendor, signed, "s", now(&world), post).unwrap();
        let events = collect(&posts, 8, good);
        let told: BTreeSet<(&str, WebhookKind)> =
            events.iter().map(|e| (e.crm_id.as_str(), e.kind)).collect();
        use WebhookKind::{Changed, Deleted, Merged, Restored};
        let mut expected = BTreeSet::from([
            (one.as_str(), Changed),
            (&two, Changed),
            (&three, Changed),
            (&three, Deleted),
            (&two, Merged),
        ]);
        // Pipedrive does not tell what comes back from what changes.
        if vendor != "pipedrive" {
            expected.insert((&three, Restored));
        }
        assert_eq!(told, expected);
        let unique: BTreeSet<&str> = events.iter().map(|e| e.event_id.as_str()).collect();
        assert_eq!(unique.len(), 8);
        assert!(
            events
                .iter()
                .all(|e| provider(vendor).unwrap().same_object(&e.object, object))
        );
        let tally =
            world.admin("GET", &format!("/webhooks/{vendor}"), Value::Null)["tally"].clone();
        assert!(tally["posts"].as_u64() >= Some(3), "{tally}");
        // Whoever has not the secret, or comes late, is not believed.
        make("four");
        let post = posts.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(
            read(vendor, signed, "x", now(&world), &post),
            Err(WebhookError::Forged)
        );
        let late = read(vendor, signed, "s", now(&world) + 400_000, &post);
        // What is not signed bears no time that could be believed.
        match vendor {
            "pipedrive" => assert!(late.is_ok()),
            _ => assert_eq!(late, Err(WebhookError::Stale)),
        }
    }
}

#[test]
fn zoho_shows_its_token_in_the_body() {
    let world = World::new();
    let (url, posts) = receiver(1);
    let order = json!({"url": url, "secret": "s"});
    world.admin("POST", "/webhooks/zoho", order);
    let made = world.admin(
        "POST",
        "/objects/zoho/Contacts",
        json!({"fields": {"Last_Name": "x"}}),
    );
    let path = format!("/objects/zoho/Contacts/{}", made["id"].as_str().unwrap());
    world.admin("DELETE", &path, Value::Null);
    let good = |post: &Post| read("zoho", "", "s", now(&world), post).unwrap();
    let events = collect(&posts, 2, good);
    let kinds: BTreeSet<WebhookKind> = events.iter().map(|event| event.kind).collect();
    assert_eq!(
        kinds,
        BTreeSet::from([WebhookKind::Changed, WebhookKind::Deleted])
    );
    assert!(
        events
            .iter()
            .all(|event| event.object == "Contacts" && event.crm_id == made["id"])
    );
    world.admin("PATCH", &path, json!({"deleted": false}));
    let post = posts.recv_timeout(Duration::from_secs(20)).unwrap();
    let forged = read("zoho", "", "x", now(&world), &post);
    assert_eq!(forged, Err(WebhookError::Forged));
}

#[test]
fn dynamics365_shows_its_secret_in_a_header() {
    let world = World::new();
    let (url, posts) = receiver(1);
    let order = json!({"url": url, "secret": "s"});
    world.admin("POST", "/webhooks/dynamics365", order);
    let body = json!({"fields": {"name": "x"}});
    let made = world.admin("POST", "/objects/dynamics365/opportunities", body);
    let path = format!(
        "/objects/dynamics365/opportunities/{}",
        made["id"].as_str().unwrap()
    );
    world.admin("DELETE", &path, Value::Null);
    let good = |post: &Post| read("dynamics365", "", "s", now(&world), post).unwrap();
    let events = collect(&posts, 2, good);
    let kinds: BTreeSet<WebhookKind> = events.iter().map(|event| event.kind).collect();
    let both = BTreeSet::from([WebhookKind::Changed, WebhookKind::Deleted]);
    assert_eq!(kinds, both);
    let provider = provider("dynamics365").unwrap();
    assert!(events.iter().all(|event| {
        provider.same_object(&event.object, "opportunities") && event.crm_id == made["id"]
    }));
    assert_ne!(events[0].event_id, events[1].event_id);
    world.admin("PATCH", &path, json!({"deleted": false}));
    let post = posts.recv_timeout(Duration::from_secs(20)).unwrap();
    let forged = read("dynamics365", "", "x", now(&world), &post);
    assert_eq!(forged, Err(WebhookError::Forged));
}

#[test]
fn posts_come_twice_on_request_and_end_on_request() {
    let world = World::new();
    let (url, posts) = receiver(0);
    world.admin(
        "POST",
        "/webhooks/hubspot",
        json!({"url": url, "secret": "s", "duplicate": true}),
    );
    let edits: Vec<Value> = (0..150)
        .map(|n| json!({"fields": {"lastname": n.to_string()}}))
        .collect();
    world.admin("POST", "/objects/hubspot/contacts", edits.into());
    let events = collect(&posts, 300, |post| {
        read("hubspot", &url, "s", now(&world), post).unwrap()
    });
    let unique: BTreeSet<&str> = events.iter().map(|e| e.event_id.as_str()).collect();
    assert_eq!((events.len(), unique.len()), (300, 150));
    world.admin("DELETE", "/webhooks/hubspot", Value::Null);
    world.admin(
        "POST",
        "/objects/hubspot/contacts",
        json!({"fields": {"lastname": "x"}}),
    );
    assert!(posts.recv_timeout(Duration::from_millis(300)).is_err());
    let bad = world.call(
        world.admin,
        "POST",
        "/webhooks/hubspot",
        &[],
        r#"{"url":"x","secret":"s"}"#,
    );
    assert_eq!(bad.unwrap().status, 400);
}

#[test]
fn what_is_undone_is_not_told() {
    let world = World::new();
    let (url, posts) = receiver(0);
    world.admin(
        "POST",
        "/webhooks/salesforce",
        json!({"url": url, "secret": "s"}),
    );
    let record = |name: &str| json!({"attributes": {"type": "Contact"}, "LastName": name});
    let refused = json!({"allOrNone": true, "records": [record("good"), record("")]});
    world.sf("POST", "/composite/sobjects", refused);
    world.sf(
        "POST",
        "/composite/sobjects",
        json!({"allOrNone": true, "records": [record("kept")]}),
    );
    let events = collect(&posts, 1, |post| {
        read("salesforce", "", "s", now(&world), post).unwrap()
    });
    assert_eq!(events.len(), 1);
    assert!(posts.recv_timeout(Duration::from_millis(300)).is_err());
}
