//! What is easy to get wrong about Dataverse, over real sockets.

mod common;

use common::{Line, World, field};
use crm_domain::{DataType, ErrorClass, Value as Canonical};
use crm_provider::record::Field;
use crm_provider::{
    Credentials, CrmObject, ReadBatch, Settings, Step, Target, WriteBatch, WriteKind, WriteRecord,
    Written,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn contacts(kind: WriteKind, records: &[(&str, Canonical)]) -> WriteBatch {
    let record = |(key, value): &(&str, Canonical)| WriteRecord {
        crm_id: (kind != WriteKind::Upsert).then(|| (*key).to_owned()),
        external_id: (kind == WriteKind::Upsert).then(|| (*key).to_owned()),
        fields: vec![(field("lastname", DataType::Text), value.clone())],
        unless_changed: None,
    };
    WriteBatch {
        object: "contacts".to_owned(),
        kind,
        external_id_field: (kind == WriteKind::Upsert).then(|| "crm_externalkey".to_owned()),
        creates_only: false,
        records: records.iter().map(record).collect(),
    }
}

fn read(line: &Line<'_>, ids: &[&str], fields: &[Arc<Field>]) -> Vec<Option<CrmObject>> {
    let batch = ReadBatch {
        object: "contacts".to_owned(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        fields: fields.to_vec(),
        for_write: true,
    };
    line.run(line.provider.read(&Settings::default(), Arc::new(batch)))
        .unwrap()
}

/// An id of a table's that no row has.
const NOBODY: &str = "0a000000-0000-4000-8000-000000000001";

fn id_in(link: &str) -> String {
    let (_, id) = link.rsplit_once('(').unwrap();
    id.trim_end_matches(')').to_owned()
}

#[test]
fn a_body_that_does_not_fit_its_table_is_refused() {
    let world = World::new();
    let make = |body: Value| world.d365("POST", "/contacts", &[], body);
    let made = make(json!({"lastname": "Ada", "createdon": "x", "crm_externalkey": "K"}));
    assert_eq!((made.status, made.text.as_str()), (204, ""));
    assert_eq!(id_in(made.header("odata-entityid")).len(), 36);
    for (body, status, code) in [
        (json!({"Lastname": "x"}), 400, "0x80048d19"),
        (json!({"nope": "x"}), 400, "0x80048d19"),
        (json!({"crm_score": "5"}), 400, "0x80048d19"),
        (json!({"donotbulkemail": "true"}), 400, "0x80048d19"),
        (json!({"leadsourcecode": "1"}), 400, "0x80048d19"),
        (json!({"leadsourcecode": 9}), 400, "0x8004431a"),
        (json!({"crm_interests": "1,9"}), 400, "0x8004431a"),
        (json!({"firstname": "x".repeat(51)}), 400, "0x80044331"),
        (
            json!({"_parentcustomerid_value": NOBODY}),
            400,
            "0x80048d19",
        ),
        (
            json!({"parentcustomerid@odata.bind": format!("/accounts({NOBODY})")}),
            400,
            "0x80048d19",
        ),
        (
            json!({"parentcustomerid_account@odata.bind": format!("/contacts({NOBODY})")}),
            400,
            "0x80048d19",
        ),
        (
            json!({"parentcustomerid_account@odata.bind": format!("/accounts({NOBODY})")}),
            404,
            "0x80040217",
        ),
        (json!({"crm_externalkey": "k"}), 412, "0x80060892"),
    ] {
        let told = make(body.clone());
        let said = told.json()["error"]["code"].clone();
        assert_eq!((told.status, said.as_str()), (status, Some(code)), "{body}");
    }
    assert_eq!(world.count("dynamics365", "contacts"), 1);
}

#[test]
fn paths_and_options_are_refused_that_dataverse_refuses() {
    let world = World::new();
    let made = world.d365(
        "POST",
        "/contacts",
        &[],
        json!({"lastname": "x", "crm_externalkey": "K"}),
    );
    let id = id_in(made.header("odata-entityid"));
    let get = |path: &str, headers: &[(&str, &str)]| {
        let told = world.d365("GET", path, headers, Value::Null);
        (
            told.status,
            told.json()["error"]["code"].as_str().map(str::to_owned),
        )
    };
    let refused = |status: u16, code: &str| (status, Some(code.to_owned()));
    assert_eq!(
        get(
            &format!("/contacts({id})?$select=lastname,_parentcustomerid_value"),
            &[]
        ),
        (200, None)
    );
    assert_eq!(get("/contacts(crm_externalkey='K')", &[]), (200, None));
    assert_eq!(
        get(&format!("/contacts({id})?$select=parentcustomerid"), &[]),
        refused(400, "0x80060888")
    );
    assert_eq!(
        get(&format!("/contacts({id})?$select=LastName"), &[]),
        refused(400, "0x80060888")
    );
    assert_eq!(
        get(&format!("/contacts({id})?$expand=x"), &[]),
        refused(400, "0x80060888")
    );
    assert_eq!(
        get(&format!("/contacts({NOBODY})"), &[]),
        refused(404, "0x80040217")
    );
    assert_eq!(
        get("/contacts(crm_externalkey='no')", &[]),
        refused(404, "0x80060891")
    );
    assert_eq!(
        get("/contacts(lastname='x')", &[]),
        refused(400, "0x80060890")
    );
    assert_eq!(
        get("/contacts(crm_externalkey='a%2Fb')", &[]),
        refused(400, "0x80060888")
    );
    assert_eq!(get("/Contacts", &[]), refused(404, "0x8006088a"));
    let tracked = &[("Prefer", "odata.track-changes")];
    assert_eq!(
        get("/contacts?$filter=x", tracked),
        refused(400, "0x80060888")
    );
    assert_eq!(
        get("/contacts?$deltatoken=1", &[]),
        refused(400, "0x80060888")
    );
    assert_eq!(
        get("/contacts?$deltatoken=1!2020-01-02T03:04:05Z", &[]),
        refused(400, "0x80044352")
    );
    let bare = world
        .call(world.dynamics365, "GET", "/api/data/v9.2/WhoAmI", &[], "")
        .unwrap();
    assert_eq!(bare.status, 401);
}

#[test]
fn a_batch_is_read_to_the_letter() {
    let world = World::new();
    let send = |body: &str, headers: &[(&str, &str)]| {
        let mut all = vec![
            ("Authorization", "Bearer d365-token"),
            ("Content-Type", "multipart/mixed; boundary=\"b\""),
        ];
        all.extend(headers);
        let path = "/api/data/v9.2/$batch";
        world
            .call(world.dynamics365, "POST", path, &all, body)
            .unwrap()
    };
    let own = "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n";
    let part = |request: &str| format!("--b\r\n{own}{request}");
    let post = "POST /api/data/v9.2/contacts HTTP/1.1\r\nContent-Type: application/json\r\n\r\n";
    let (good, bad) = (
        format!("{post}{{\"lastname\":\"x\"}}\r\n"),
        format!("{post}{{\"nope\":1}}\r\n"),
    );
    let whole = format!("{}{}{}--b--\r\n", part(&good), part(&bad), part(&good));
    let told = send(&whole, &[("Prefer", "odata.continue-on-error")]);
    assert_eq!(
        (told.status, told.text.matches("HTTP/1.1 ").count()),
        (200, 3)
    );
    assert_eq!(world.count("dynamics365", "contacts"), 2);
    let told = send(&whole, &[]);
    assert_eq!(
        (told.status, told.text.matches("HTTP/1.1 ").count()),
        (400, 2)
    );
    assert_eq!(world.count("dynamics365", "contacts"), 3);
    for strange in [
        whole.replace("\r\n", "\n"),
        whole.replace("--b--", ""),
        whole.replace("binary", "base64"),
        whole.replace("HTTP/1.1", ""),
    ] {
        let told = send(&strange, &[]);
        assert_eq!(told.status, 400, "{strange}");
        assert!(told.json()["error"]["message"].is_string());
    }
    assert_eq!(world.count("dynamics365", "contacts"), 3);
}

#[test]
fn creations_sent_twice_make_no_twins() {
    let world = World::new();
    let line = Line::new(&world, "dynamics365");
    let keys = ["K-1", "O'Brien (é) = \"1\"", "a@b.c", "100 €"];
    let records: Vec<_> = keys
        .iter()
        .map(|key| (*key, Canonical::text("Ada")))
        .collect();
    let upsert = || line.write(contacts(WriteKind::Upsert, &records));
    let (first, second) = (upsert(), upsert());
    let parts = |outcome: &Result<Written, crm_domain::Failure>| {
        let written = outcome.as_ref().unwrap();
        (written.crm_id.clone(), written.created)
    };
    for (first, second) in first.iter().zip(&second) {
        assert_eq!((parts(first).0, false), parts(second));
        assert!(parts(first).1);
    }
    assert_eq!(world.count("dynamics365", "contacts"), 4);
    let held = world.admin("GET", "/objects/dynamics365/contacts", Value::Null);
    assert_eq!(held["records"][1]["fields"]["crm_externalkey"], keys[1]);
    let alone = contacts(WriteKind::Upsert, &[("K-9", Canonical::text("x"))]);
    assert!(line.write(alone.clone())[0].as_ref().unwrap().created);
    assert!(!line.write(alone)[0].as_ref().unwrap().created);
    // No alternate key: the set-up is wrong, and nothing is made.
    let mut wrong = contacts(WriteKind::Upsert, &[("x", Canonical::text("y"))]);
    wrong.external_id_field = Some("jobtitle".to_owned());
    assert_eq!(
        line.write(wrong)[0].as_ref().unwrap_err().class,
        ErrorClass::Mapping
    );
}

#[test]
fn a_write_is_bound_to_what_was_read() {
    let world = World::new();
    let line = Line::new(&world, "dynamics365");
    let records = [
        ("K-1", Canonical::text("read")),
        ("K-2", Canonical::text("read")),
    ];
    let made = line.write(contacts(WriteKind::Upsert, &records));
    let ids: Vec<&str> = made
        .iter()
        .map(|o| o.as_ref().unwrap().crm_id.as_str())
        .collect();
    let name = [field("lastname", DataType::Text)];
    let objects = read(&line, &ids, &name);
    let path = format!("/objects/dynamics365/contacts/{}", ids[1]);
    world.admin("PATCH", &path, json!({"fields": {"lastname": "theirs"}}));
    let ours: Vec<_> = ids
        .iter()
        .map(|id| (*id, Canonical::text("ours")))
        .collect();
    let mut batch = contacts(WriteKind::Update, &ours);
    for (record, object) in batch.records.iter_mut().zip(&objects) {
        record
            .unless_changed
            .clone_from(&object.as_ref().unwrap().version);
    }
    let told = line.write(batch.clone());
    assert!(told[0].is_ok() && told[1].as_ref().unwrap_err().is_stale());
    // Alone as in a batch, and a deletion as an update.
    let mut alone = batch.clone();
    alone.records.remove(0);
    assert!(
        line.write(alone.clone())[0]
            .as_ref()
            .unwrap_err()
            .is_stale()
    );
    alone.kind = WriteKind::Delete;
    assert!(
        line.write(alone.clone())[0]
            .as_ref()
            .unwrap_err()
            .is_stale()
    );
    assert_eq!(
        world.admin("GET", &path, Value::Null)["fields"]["lastname"],
        "theirs"
    );
    alone.records[0].unless_changed = None;
    assert!(line.write(alone.clone())[0].is_ok());
    // What is gone is neither changed nor made anew.
    for kind in [WriteKind::Update, WriteKind::Delete] {
        alone.kind = kind;
        assert_eq!(
            line.write(alone.clone())[0].as_ref().unwrap_err().class,
            ErrorClass::NotFound
        );
        batch.kind = kind;
        batch.records[0].unless_changed = None;
        let told = line.write(batch.clone());
        assert_eq!(told[1].as_ref().unwrap_err().class, ErrorClass::NotFound);
    }
    assert_eq!(world.count("dynamics365", "contacts"), 0);
    let found = read(&line, &ids, &name);
    assert!(found.iter().all(Option::is_none));
}

#[test]
fn values_are_read_back_as_they_were_written() {
    let world = World::new();
    let line = Line::new(&world, "dynamics365");
    let account = world.d365("POST", "/accounts", &[], json!({"name": "x"}));
    let account = id_in(account.header("odata-entityid"));
    let fields = [
        (
            "firstname",
            DataType::Text,
            Canonical::text("O'Brien \\ \"x\" 名前"),
        ),
        (
            "crm_score",
            DataType::Number,
            Canonical::number("12.5").unwrap(),
        ),
        (
            "creditlimit",
            DataType::Number,
            Canonical::number("-3").unwrap(),
        ),
        (
            "birthdate",
            DataType::Date,
            Canonical::Date("2001-02-03".parse().unwrap()),
        ),
        (
            "crm_lastseen",
            DataType::Timestamp,
            Canonical::timestamp_ms(1_767_323_045_000),
        ),
        (
            "donotbulkemail",
            DataType::Boolean,
            Canonical::Boolean(true),
        ),
        ("leadsourcecode", DataType::Choice, Canonical::text("2")),
        (
            "crm_interests",
            DataType::MultiChoice,
            Canonical::multi_choice(["3", "1"]),
        ),
        (
            "description",
            DataType::Json,
            Canonical::json(json!({"a": [1, null]})),
        ),
        (
            "parentcustomerid/parentcustomerid_account/accounts",
            DataType::Reference,
            Canonical::text(&account),
        ),
    ];
    let made = line.write(contacts(WriteKind::Upsert, &[("K", Canonical::text("x"))]));
    let id = made[0].as_ref().unwrap().crm_id.clone();
    let named: Vec<Arc<Field>> = fields
        .iter()
        .map(|(name, kind, _)| field(name, *kind))
        .collect();
    for clears in [false, true] {
        let mut batch = contacts(WriteKind::Update, &[(&id, Canonical::Null)]);
        let values = named.iter().zip(&fields).map(|(field, (.., value))| {
            (
                field.clone(),
                if clears {
                    Canonical::Null
                } else {
                    value.clone()
                },
            )
        });
        batch.records[0].fields = values.collect();
        let sent = batch.records[0].fields.clone();
        line.write(batch).remove(0).unwrap();
        let held = read(&line, &[&id], &named).remove(0).unwrap();
        for (field, value) in sent {
            let wire = &held.fields[&field.name];
            let read = line.provider.from_wire(field.data_type, wire).unwrap();
            assert_eq!(read, value, "{}", field.name);
        }
    }
}

#[test]
fn limits_and_lost_rows_are_told_apart() {
    let world = World::new();
    let line = Line::new(&world, "dynamics365");
    let limited = json!({"vendor": "dynamics365", "status": 429, "headers": {"Retry-After": "7"}});
    world.admin("POST", "/faults", limited);
    let update = contacts(WriteKind::Update, &[(NOBODY, Canonical::text("x"))]);
    let settings = Settings::default();
    let run =
        |batch: &WriteBatch| line.run(line.provider.write(&settings, Arc::new(batch.clone())));
    let failure = run(&update).unwrap_err();
    assert_eq!(
        (failure.class, failure.retry_after.unwrap().as_secs()),
        (ErrorClass::RateLimited, 7)
    );
    assert_eq!(
        run(&update).unwrap()[0].as_ref().unwrap_err().class,
        ErrorClass::NotFound
    );
    let made = line.write(contacts(WriteKind::Upsert, &[("K", Canonical::text("x"))]));
    let id = made[0].as_ref().unwrap().crm_id.clone();
    let mut lookup = contacts(WriteKind::Update, &[(&id, Canonical::Null)]);
    let name = "parentcustomerid/parentcustomerid_account/accounts";
    lookup.records[0].fields = vec![(field(name, DataType::Reference), Canonical::text(NOBODY))];
    assert_eq!(
        run(&lookup).unwrap()[0].as_ref().unwrap_err().class,
        ErrorClass::Mapping
    );
}

#[test]
fn tokens_are_granted_by_tenants() {
    let world = World::new();
    let line = Line::new(&world, "dynamics365");
    let origin = format!("http://{}", world.dynamics365);
    let ask = |more: &[(&str, &str)]| {
        let mut pairs = vec![("client_id", "d365-client"), ("login_url", &*origin)];
        pairs.extend(more);
        let pairs = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned()));
        let credentials = Credentials(pairs.collect());
        let mut operation = line.provider.authorise(&origin, &credentials).unwrap();
        let Step::Send(request) = operation.step(None) else {
            panic!("a token is asked for")
        };
        let Target::Url(url) = &request.target else {
            panic!("{request:?}")
        };
        let path = url.strip_prefix(&origin).unwrap();
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        let reply = world.call(world.dynamics365, "POST", path, &headers, &request.body);
        let reply = reply.unwrap();
        let answer = crm_provider::Response {
            status: reply.status,
            body: reply.text.into_bytes(),
            ..Default::default()
        };
        match operation.step(Some(answer)) {
            Step::Done(result) => result,
            step => panic!("{step:?}"),
        }
    };
    let app = [
        ("client_secret", "d365-secret"),
        ("tenant_id", "d365-tenant"),
    ];
    let grant = ask(&app).unwrap();
    assert_eq!(grant.expires_in.unwrap().as_secs(), 3599);
    let bearer = format!("Bearer {}", grant.access_token);
    let headers = [("Authorization", bearer.as_str())];
    let path = "/api/data/v9.2/WhoAmI";
    let reply = world
        .call(world.dynamics365, "GET", path, &headers, "")
        .unwrap();
    assert_eq!(reply.status, 200);
    assert!(
        ask(&[("refresh_token", "d365-refresh")])
            .unwrap()
            .refresh_token
            .is_some()
    );
    for (more, code) in [
        (
            [("client_secret", "x"), ("tenant_id", "d365-tenant")],
            "invalid_client",
        ),
        (
            [("client_secret", "d365-secret"), ("tenant_id", "x")],
            "invalid_request",
        ),
        (
            [("client_secret", "d365-secret"), ("refresh_token", "x")],
            "invalid_grant",
        ),
    ] {
        let failure = ask(&more).unwrap_err();
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (ErrorClass::Auth, code)
        );
    }
    let ping = line.run(line.provider.ping(&Settings::default())).unwrap();
    assert!(ping.starts_with("Dynamics 365 answers, to user "));
}

#[test]
fn definitions_are_told_by_type_and_as_they_are_chosen() {
    let world = World::new();
    let get = |path: &str| world.d365("GET", path, &[], Value::Null);
    let contact = "/EntityDefinitions(LogicalName='contact')";
    let attributes = format!("{contact}/Attributes");
    let texts = format!("{attributes}/Microsoft.Dynamics.CRM.StringAttributeMetadata");
    let told = get(&format!("{texts}?$select=LogicalName,MaxLength")).json();
    let named = |name: &str| {
        let mut held = told["value"].as_array().unwrap().iter();
        held.find(|one| one["LogicalName"] == name).cloned()
    };
    assert_eq!(named("firstname").unwrap()["MaxLength"], 50);
    assert_eq!(named("description"), None, "it is a memo");
    let choices = format!("{attributes}/Microsoft.Dynamics.CRM.PicklistAttributeMetadata");
    let chosen = format!("{choices}?$select=LogicalName");
    assert_eq!(get(&chosen).json()["value"][0]["OptionSet"], Value::Null);
    let options = "$expand=OptionSet($select=Options),GlobalOptionSet($select=Options)";
    let told = get(&format!("{chosen}&{options}")).json();
    assert_eq!(told["value"][0]["OptionSet"]["Options"][2]["Value"], 3);
    let keys = get(&format!("{contact}/Keys?$select=KeyAttributes")).json();
    assert_eq!(
        keys["value"][0]["KeyAttributes"],
        json!(["crm_externalkey"])
    );
    for (path, status) in [
        (format!("{attributes}?$select=LogicalName,MaxLength"), 400),
        (format!("{texts}?$select=LogicalName,DisplayName"), 400),
        (format!("{attributes}?$select=LogicalName&$top=1"), 400),
        (format!("{texts}?$select=LogicalName&{options}"), 400),
        (format!("{chosen}&$expand=OptionSet"), 501),
        (attributes.clone(), 501),
        (
            format!(
                "{attributes}/Microsoft.Dynamics.CRM.FileAttributeMetadata?$select=LogicalName"
            ),
            501,
        ),
        (format!("{attributes}/Nope?$select=LogicalName"), 404),
        (format!("{contact}/Privileges?$select=LogicalName"), 404),
        (
            "/EntityDefinitions(LogicalName='contacts')/Keys?$select=KeyAttributes".to_owned(),
            404,
        ),
        (
            "/EntityDefinitions?$select=LogicalName&$filter=IsActivity eq true".replace(' ', "%20"),
            501,
        ),
        ("/EntityDefinitions?$select=Nope".to_owned(), 400),
    ] {
        let told = get(&path);
        assert_eq!(told.status, status, "{path}: {}", told.text);
        assert!(told.json()["error"]["code"].is_string(), "{path}");
    }
}
