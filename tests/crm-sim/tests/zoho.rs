//! What is easy to get wrong about Zoho, over real sockets.

mod common;

use common::{Line, World, field};
use crm_domain::{DataType, ErrorClass, Value as Canonical};
use crm_provider::record::Field;
use crm_provider::{
    Credentials, DoneBatch, DoneField, DoneRecord, ReadBatch, Settings, Step, Target, WriteBatch,
    WriteKind, WriteRecord,
};
use serde_json::{Value, json};
use std::sync::Arc;

fn contacts(kind: WriteKind, records: &[(&str, Canonical)]) -> WriteBatch {
    let record = |(key, value): &(&str, Canonical)| WriteRecord {
        crm_id: (kind != WriteKind::Upsert).then(|| (*key).to_owned()),
        external_id: (kind == WriteKind::Upsert).then(|| (*key).to_owned()),
        fields: vec![(field("Last_Name", DataType::Text), value.clone())],
        unless_changed: None,
    };
    WriteBatch {
        object: "Contacts".to_owned(),
        kind,
        external_id_field: (kind == WriteKind::Upsert).then(|| "External_Key".to_owned()),
        creates_only: false,
        records: records.iter().map(record).collect(),
    }
}

fn read(
    line: &Line<'_>,
    ids: &[String],
    fields: &[Arc<Field>],
) -> Vec<Option<crm_provider::CrmObject>> {
    let batch = ReadBatch {
        object: "Contacts".to_owned(),
        ids: ids.to_vec(),
        fields: fields.to_vec(),
        for_write: true,
    };
    line.run(line.provider.read(&Settings::default(), Arc::new(batch)))
        .unwrap()
}

#[test]
fn answers_tell_of_each_record_and_their_status_of_none() {
    let world = World::new();
    let one = |body: Value| {
        let reply = world.zoho("POST", "/Contacts", json!({"data": [body]}));
        (reply.status, reply.json()["data"][0].clone())
    };
    let (status, made) = one(json!({"Last_Name": "Ada", "Nonsense": 1, "External_Key": "K"}));
    assert_eq!((status, &made["code"]), (200, &json!("SUCCESS")));
    let id = made["details"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 19);
    assert!(
        made["details"]["Modified_Time"]
            .as_str()
            .unwrap()
            .ends_with("-08:00")
    );
    for (body, code, name) in [
        (
            json!({"First_Name": "x"}),
            "MANDATORY_NOT_FOUND",
            "Last_Name",
        ),
        (
            json!({"Last_Name": "x", "Score": "5"}),
            "INVALID_DATA",
            "Score",
        ),
        (
            json!({"Last_Name": "x", "Last_Seen": "2026-01-02T03:04:05.678+00:00"}),
            "INVALID_DATA",
            "Last_Seen",
        ),
        (
            json!({"Last_Name": "x", "Interests": "Data"}),
            "INVALID_DATA",
            "Interests",
        ),
        (
            json!({"Last_Name": "x", "Account_Name": "55"}),
            "INVALID_DATA",
            "Account_Name",
        ),
        (
            json!({"Last_Name": "x", "External_Key": "K"}),
            "DUPLICATE_DATA",
            "External_Key",
        ),
    ] {
        let (status, told) = one(body);
        assert_eq!((status, told["code"].as_str()), (202, Some(code)));
        assert_eq!(told["details"]["api_name"], name);
    }
    let held = world.zoho(
        "GET",
        &format!("/Contacts?ids={id}&fields=Last_Name,Nonsense"),
        Value::Null,
    );
    assert_eq!(
        held.json()["data"][0],
        json!({"id": id, "Last_Name": "Ada"})
    );
    assert_eq!(
        world
            .zoho("GET", "/Contacts?ids=1&fields=Last_Name", Value::Null)
            .status,
        204
    );
    assert_eq!(
        world.zoho("GET", "/Contacts", Value::Null).json()["code"],
        "REQUIRED_PARAM_MISSING"
    );
    assert_eq!(
        world.zoho("GET", "/Nothing?fields=x", Value::Null).json()["code"],
        "INVALID_MODULE"
    );
    let many: Vec<Value> = (0..101)
        .map(|n| json!({"Last_Name": n.to_string()}))
        .collect();
    assert_eq!(
        world
            .zoho("POST", "/Contacts", json!({"data": many}))
            .status,
        400
    );
}

#[test]
fn queries_are_refused_that_zoho_refuses() {
    let world = World::new();
    let ask = |query: &str| world.zoho("POST", "/coql", json!({"select_query": query}));
    assert_eq!(
        ask("select id from Contacts where id is not null").status,
        204
    );
    for (query, code) in [
        ("select id from Contacts", "SYNTAX_ERROR"),
        (
            "select id from Contacts where id > 1 and id < 5 and id > 2",
            "SYNTAX_ERROR",
        ),
        (
            "select Nope from Contacts where id is not null",
            "INVALID_QUERY",
        ),
        ("select id from Nope where id is not null", "INVALID_MODULE"),
        (
            "select id from Contacts where id is not null limit 2001",
            "LIMIT_EXCEEDED",
        ),
        (
            "select id from Contacts where Modified_Time > '2026-01-02T03:04:05.678Z'",
            "INVALID_QUERY",
        ),
    ] {
        // A field is only looked at if there is a record.
        world.zoho("POST", "/Contacts", json!({"data": [{"Last_Name": "x"}]}));
        let told = ask(query);
        assert_eq!(
            (told.status, told.json()["code"].as_str()),
            (400, Some(code)),
            "{query}"
        );
    }
}

#[test]
fn records_are_created_once_and_then_updated() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    let keys: Vec<String> = (0..230).map(|n| format!("K {n}")).collect();
    let records: Vec<_> = keys
        .iter()
        .map(|key| (key.as_str(), Canonical::text("x")))
        .collect();
    for round in 0..3 {
        let outcomes = line.write(contacts(WriteKind::Upsert, &records));
        let created = outcomes
            .iter()
            .filter(|o| o.as_ref().unwrap().created)
            .count();
        assert_eq!(created, if round == 0 { 230 } else { 0 });
    }
    assert_eq!(world.count("zoho", "Contacts"), 230);
    let count = line.provider.count(&Settings::default(), "Contacts");
    assert_eq!(line.run(count.unwrap()).unwrap(), 230);
}

#[test]
fn one_bad_record_fails_alone() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    let long = Canonical::text(&"x".repeat(81));
    let good = Canonical::text("x");
    let made = line.write(contacts(
        WriteKind::Upsert,
        &[("A", good.clone()), ("B", good.clone())],
    ));
    let ids: Vec<String> = made.into_iter().map(|o| o.unwrap().crm_id).collect();
    let records = [
        (ids[0].as_str(), long),
        (ids[1].as_str(), good.clone()),
        ("5545974000000000001", good),
    ];
    let outcomes = line.write(contacts(WriteKind::Update, &records));
    let classes: Vec<_> = outcomes
        .iter()
        .map(|o| o.as_ref().err().map(|f| f.class))
        .collect();
    assert_eq!(
        classes,
        [
            Some(ErrorClass::Validation),
            None,
            Some(ErrorClass::NotFound)
        ]
    );
    let fault = json!({"vendor": "zoho", "fail_records": {"ids": [ids[0]], "code": "RECORD_LOCKED", "message": "locked"}});
    world.admin("POST", "/faults", fault);
    let outcomes = line.write(contacts(
        WriteKind::Delete,
        &[(&ids[0], Canonical::Null), (&ids[1], Canonical::Null)],
    ));
    assert_eq!(
        outcomes[0].as_ref().unwrap_err().class,
        ErrorClass::Transient
    );
    assert!(outcomes[1].is_ok());
}

#[test]
fn values_of_every_type_come_back_as_they_were_written() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    let made = line.write(contacts(WriteKind::Upsert, &[("K", Canonical::text("x"))]));
    let id = made[0].as_ref().unwrap().crm_id.clone();
    let account = json!({"data": [{"Account_Name": "Acme"}]});
    let account =
        world.zoho("POST", "/Accounts", account).json()["data"][0]["details"]["id"].clone();
    let values = [
        ("Title", DataType::Text, Canonical::text("O'Neil \"x\"\nй")),
        (
            "Score",
            DataType::Number,
            Canonical::number("-12.50").unwrap(),
        ),
        (
            "Date_of_Birth",
            DataType::Date,
            Canonical::from_json(DataType::Date, &json!("2026-01-02")).unwrap(),
        ),
        (
            "Last_Seen",
            DataType::Timestamp,
            Canonical::Timestamp(1_767_323_045_000),
        ),
        ("Email_Opt_Out", DataType::Boolean, Canonical::Boolean(true)),
        (
            "Interests",
            DataType::MultiChoice,
            Canonical::multi_choice(["Data", "Cloud"]),
        ),
        ("Lead_Source", DataType::Choice, Canonical::text("Web")),
        (
            "Account_Name",
            DataType::Reference,
            Canonical::text(account.as_str().unwrap()),
        ),
        (
            "Description",
            DataType::Json,
            Canonical::json(json!({"a": [1, null, "x"]})),
        ),
    ];
    let fields: Vec<_> = values.iter().map(|(name, t, _)| field(name, *t)).collect();
    let nothing = values
        .iter()
        .map(|(_, t, _)| line.provider.stored(*t, Canonical::Null));
    for round in [
        values.iter().map(|(_, _, v)| v.clone()).collect::<Vec<_>>(),
        nothing.collect(),
    ] {
        let mut batch = contacts(WriteKind::Update, &[(&id, Canonical::Null)]);
        batch.records[0].fields = fields.iter().cloned().zip(round.clone()).collect();
        line.write(batch).remove(0).unwrap();
        let object = read(&line, std::slice::from_ref(&id), &fields)
            .remove(0)
            .unwrap();
        for (field, value) in fields.iter().zip(round) {
            let held = line
                .provider
                .from_wire(field.data_type, &object.fields[&field.name])
                .unwrap();
            assert_eq!(held.hash(), value.hash(), "{}: {held:?}", field.name);
        }
    }
}

#[test]
fn a_changed_record_is_not_written_and_what_slips_through_is_told() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    let made = line.write(contacts(
        WriteKind::Upsert,
        &[("K", Canonical::text("read"))],
    ));
    let id = made[0].as_ref().unwrap().crm_id.clone();
    let name = field("Last_Name", DataType::Text);
    let object = read(
        &line,
        std::slice::from_ref(&id),
        std::slice::from_ref(&name),
    )
    .remove(0)
    .unwrap();
    let path = format!("/objects/zoho/Contacts/{id}");
    let theirs = |at: Value| json!({"fields": {"Last_Name": "theirs"}, "modified_at": at});
    let mut batch = contacts(WriteKind::Update, &[(&id, Canonical::text("ours"))]);
    batch.records[0].unless_changed.clone_from(&object.version);
    // A second later it is refused.
    let at = object.modified_at.unwrap();
    let later = Canonical::timestamp_ms(at + 1000).to_json();
    world.admin("PATCH", &path, theirs(later));
    assert!(line.write(batch.clone()).remove(0).unwrap_err().is_stale());
    // Within the same second it is not, and the timeline tells of it.
    world.admin("PATCH", &path, json!({"fields": {"Last_Name": "read"}, "modified_at": Canonical::timestamp_ms(at).to_json()}));
    world.admin(
        "PATCH",
        &path,
        theirs(Canonical::timestamp_ms(at + 10).to_json()),
    );
    line.write(batch).remove(0).unwrap();
    let done = DoneBatch {
        object: "Contacts".to_owned(),
        records: vec![DoneRecord {
            crm_id: id,
            modified_at: object.modified_at,
            fields: vec![DoneField {
                field: name,
                read: Canonical::text("read"),
                written: Canonical::text("ours"),
            }],
        }],
    };
    let look = line
        .provider
        .overwritten(&Settings::default(), Arc::new(done))
        .unwrap();
    let lost = line.run(look).unwrap().remove(0);
    assert_eq!((lost.len(), &lost[0].value), (1, &json!("theirs")));
}

#[test]
fn tokens_are_granted_and_refused_with_200() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    let origin = format!("http://{}", world.zoho);
    let ask = |refresh: &str| {
        let pairs = [
            ("client_id", "zoho-client"),
            ("client_secret", "zoho-secret"),
            ("refresh_token", refresh),
        ];
        let credentials = Credentials(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        let mut operation = line.provider.authorise(&origin, &credentials).unwrap();
        let Step::Send(request) = operation.step(None) else {
            panic!("a token is asked for")
        };
        let Target::Url(url) = &request.target else {
            panic!("{request:?}")
        };
        assert_eq!(*url, format!("{origin}/oauth/v2/token"));
        let headers: Vec<_> = request
            .headers
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        let reply = world
            .call(
                world.zoho,
                "POST",
                "/oauth/v2/token",
                &headers,
                &request.body,
            )
            .unwrap();
        let response = crm_provider::Response {
            status: reply.status,
            body: reply.text.into_bytes(),
            ..Default::default()
        };
        match operation.step(Some(response)) {
            Step::Done(result) => result,
            other => panic!("{other:?}"),
        }
    };
    let grant = ask("zoho-refresh").unwrap();
    assert_eq!(grant.base_url.as_ref(), Some(&origin));
    let scheme = format!("Zoho-oauthtoken {}", grant.access_token);
    let reply = world.call(
        world.zoho,
        "GET",
        "/crm/v8/users",
        &[("Authorization", &scheme)],
        "",
    );
    assert_eq!(reply.unwrap().status, 200);
    let bearer = format!("Bearer {}", grant.access_token);
    let reply = world.call(
        world.zoho,
        "GET",
        "/crm/v8/users",
        &[("Authorization", &bearer)],
        "",
    );
    assert_eq!(reply.unwrap().status, 401);
    let refused = ask("nobody").unwrap_err();
    assert_eq!(
        (refused.class, refused.code.as_str()),
        (ErrorClass::Auth, "invalid_code")
    );
}

#[test]
fn credits_are_told_once_half_of_them_are_spent() {
    let world = World::new();
    let line = Line::new(&world, "zoho");
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "zoho", "daily_limit": 4}),
    );
    let left = |reply: common::Reply| reply.header("x-api-credits-remaining").to_owned();
    assert_eq!(left(world.zoho("GET", "/users", Value::Null)), "");
    assert_eq!(left(world.zoho("GET", "/users", Value::Null)), "");
    assert_eq!(left(world.zoho("GET", "/users", Value::Null)), "1");
    world.zoho("GET", "/users", Value::Null);
    let failure = line
        .run(line.provider.ping(&Settings::default()))
        .unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str()),
        (ErrorClass::RateLimited, "credits_spent")
    );
}
