//! What Dataverse does with queries, conditions, numbers and change sets, over real sockets.

mod common;

use common::{Reply, World};
use serde_json::{Value, json};

const OWN: &str = "11111111-2222-4333-8444-555555555555";

fn id_of(reply: &Reply) -> String {
    let (_, id) = reply.header("odata-entityid").rsplit_once('(').unwrap();
    id.trim_end_matches(')').to_owned()
}

fn code(reply: &Reply) -> (u16, String) {
    let code = reply.json()["error"]["code"].as_str().map(str::to_owned);
    (reply.status, code.unwrap_or_default())
}

fn make(world: &World, body: Value) -> String {
    id_of(&world.d365("POST", "/contacts", &[], body))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn filters_mean_what_they_mean_to_the_database() {
    let world = World::new();
    let account = id_of(&world.d365("POST", "/accounts", &[], json!({"name": "Acme"})));
    for body in [
        json!({"lastname": "a", "crm_score": 1.5, "donotbulkemail": true, "leadsourcecode": 2}),
        json!({"lastname": "b", "crm_score": 2, "birthdate": "2001-02-03", "crm_lastseen": "2026-01-02T03:04:05Z"}),
        json!({"lastname": "c", "parentcustomerid_account@odata.bind": format!("/accounts({account})")}),
        json!({"lastname": "it's", "crm_interests": "1,3"}),
    ] {
        make(&world, body);
    }
    let found = |filter: &str| -> Result<String, (u16, String)> {
        let path = format!("/contacts?$select=lastname&$filter={}", encoded(filter));
        let reply = world.d365("GET", &path, &[], Value::Null);
        if reply.status != 200 {
            return Err(code(&reply));
        }
        let rows = reply.json()["value"].as_array().cloned().unwrap();
        Ok(rows
            .iter()
            .map(|row| row["lastname"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "))
    };
    for (filter, rows) in [
        ("lastname eq 'A'", "a"),
        ("lastname eq 'it''s'", "it's"),
        ("lastname gt 'a' and lastname lt 'c'", "b"),
        ("lastname eq 'a' or lastname eq 'b' and crm_score eq 1", "a"),
        (
            "(lastname eq 'a' or lastname eq 'b') and crm_score ge 1.50",
            "a b",
        ),
        ("crm_score eq null", "c it's"),
        ("crm_score ne 2", "a c it's"),
        ("not (crm_score ne null)", "c it's"),
        ("donotbulkemail eq true", "a"),
        ("leadsourcecode eq 2", "a"),
        ("birthdate le 2001-02-03", "b"),
        ("crm_lastseen ge 2026-01-02T03:04:05Z", "b"),
        ("crm_lastseen gt 2026-01-02T03:04:05Z", ""),
        ("crm_lastseen eq 2026-01-02T04:04:05+01:00", "b"),
        ("crm_lastseen gt 2026-01-02", "b"),
        (&format!("_parentcustomerid_value eq {account}"), "c"),
        ("contains(lastname,'T''S')", "it's"),
        (
            "endswith(lastname,'s') or startswith(lastname,'c')",
            "c it's",
        ),
    ] {
        assert_eq!(found(filter).as_deref(), Ok(rows), "{filter}");
    }
    let refused = Err((400, "0x80060888".to_owned()));
    for filter in [
        "",
        "lastname",
        "lastname eq",
        "lastname eq 5",
        "lastname eq 'a",
        "LastName eq 'a'",
        "lastname gt null",
        "lastname = 'a'",
        "crm_score eq '5'",
        "birthdate eq 2026-01-02T03:04:05Z",
        "donotbulkemail eq 1",
        "_parentcustomerid_value eq 'x'",
        "contains(crm_score,'1')",
        "lastname eq 'a' lastname eq 'b'",
        &"(".repeat(5000),
        &"not ".repeat(5000),
    ] {
        let short: String = filter.chars().take(40).collect();
        assert_eq!(found(filter), refused, "{short}");
    }
    assert_eq!(found("length(lastname) eq 1").unwrap_err().0, 501);
}

#[test]
fn pages_of_a_sorted_list_go_on_where_they_were() {
    let world = World::new();
    for (name, score) in [("a", 3), ("b", 1), ("c", 2), ("d", 2), ("e", 9)] {
        make(&world, json!({"lastname": name, "crm_score": score}));
    }
    let query = "/contacts?$select=lastname&$filter=crm_score%20lt%209&$orderby=crm_score%20desc,lastname&$count=true";
    let sized = &[("Prefer", "odata.maxpagesize=3")];
    let first = world.d365("GET", query, sized, Value::Null);
    assert_eq!(first.header("preference-applied"), "odata.maxpagesize=3");
    let names = |page: &Value| {
        let rows = page["value"].as_array().unwrap().clone();
        let names = rows
            .iter()
            .map(|row| row["lastname"].as_str().unwrap().to_owned());
        names.collect::<String>()
    };
    let page = first.json();
    assert_eq!(
        (names(&page).as_str(), &page["@odata.count"]),
        ("acd", &json!(4))
    );
    // A row that comes meanwhile makes none of the others appear twice.
    make(&world, json!({"lastname": "f", "crm_score": 8}));
    let next = page["@odata.nextLink"].as_str().unwrap();
    let (_, next) = next.split_once("/api/data/v9.2").unwrap();
    let page = world.d365("GET", next, sized, Value::Null).json();
    assert_eq!(names(&page), "b");
    assert!(page.get("@odata.nextLink").is_none());
    let top = world.d365(
        "GET",
        "/contacts?$top=2&$orderby=lastname%20desc",
        sized,
        Value::Null,
    );
    let page = top.json();
    assert_eq!(names(&page), "fe");
    assert!(page.get("@odata.nextLink").is_none());
    let count = world.d365(
        "GET",
        "/contacts/$count?$filter=crm_score%20eq%202",
        &[],
        Value::Null,
    );
    assert_eq!((count.status, count.text.as_str()), (200, "2"));
    for strange in [
        "$top=0",
        "$top=x",
        "$count=2",
        "$skip=1",
        "$orderby=lastname%20up",
        "$orderby=nope",
    ] {
        let told = world.d365("GET", &format!("/contacts?{strange}"), &[], Value::Null);
        assert_eq!(code(&told), (400, "0x80060888".to_owned()), "{strange}");
    }
    let tracked = &[("Prefer", "odata.track-changes")];
    for option in [
        "$filter=crm_score%20eq%202",
        "$orderby=lastname",
        "$top=1",
        "$count=true",
    ] {
        let told = world.d365("GET", &format!("/contacts?{option}"), tracked, Value::Null);
        assert_eq!(told.status, 400, "{option}");
    }
}

#[test]
fn numbers_are_kept_to_the_digits_of_their_column() {
    let world = World::new();
    let fields = json!({"fields": [
        {"name": "crm_rate", "type": "Decimal", "scale": 5}, {"name": "crm_ratio", "type": "Double"},
    ]});
    world.admin("POST", "/schema/dynamics365/contacts", fields);
    let body = r#"{"crm_score": 12.345, "creditlimit": 922337203685476.125, "crm_rate": -0.000005, "crm_ratio": 1234567890123456789}"#;
    let headers = [
        ("Authorization", "Bearer d365-token"),
        ("Content-Type", "application/json"),
        ("Prefer", "return=representation"),
    ];
    let path = "/api/data/v9.2/contacts";
    let made = world
        .call(world.dynamics365, "POST", path, &headers, body)
        .unwrap();
    for shown in [
        r#""crm_score":12.3500000000,"#,
        r#""creditlimit":922337203685476.1300,"#,
        r#""crm_rate":-0.0000100000,"#,
        r#""crm_ratio":1.2345678901234568e+18,"#,
    ] {
        assert!(
            format!("{},", made.text.trim_end_matches('}')).contains(shown),
            "{shown}: {}",
            made.text
        );
    }
    for too_much in [
        json!({"creditlimit": 922_337_203_685_478_i64}),
        json!({"crm_score": -100_000_000_001_i64}),
    ] {
        let told = world.d365("POST", "/contacts", &[], too_much);
        assert_eq!(code(&told), (400, "0x80044330".to_owned()));
    }
    let cast = "/EntityDefinitions(LogicalName='contact')/Attributes/Microsoft.Dynamics.CRM.DecimalAttributeMetadata?$select=LogicalName,Precision";
    let told = world.d365("GET", cast, &[], Value::Null).json();
    assert_eq!(told["value"][1]["Precision"], 5);
}

#[test]
fn conditions_are_heeded() {
    let world = World::new();
    let id = make(&world, json!({"lastname": "x"}));
    let row = format!("/contacts({id})");
    let tag = world
        .d365("GET", &row, &[], Value::Null)
        .header("etag")
        .to_owned();
    let unless = |tag: &str| {
        let told = world.d365("GET", &row, &[("If-None-Match", tag)], Value::Null);
        (told.status, told.text.is_empty())
    };
    assert_eq!(
        (unless(&tag), unless("W/\"1\"")),
        ((304, true), (200, false))
    );
    let create_only = [("If-None-Match", "*")];
    let put = |path: &str| code(&world.d365("PATCH", path, &create_only, json!({"lastname": "y"})));
    assert_eq!(put(&row), (412, "0x80040237".to_owned()));
    assert_eq!(put("/contacts(crm_externalkey='K')"), (204, String::new()));
    assert_eq!(put("/contacts(crm_externalkey='K')").0, 412);
    // Without a condition a row of that id is made.
    let own = format!("/contacts({OWN})");
    let only_old = [("If-Match", "*")];
    assert_eq!(
        world
            .d365("PATCH", &own, &only_old, json!({"lastname": "z"}))
            .status,
        404
    );
    assert_eq!(
        id_of(&world.d365("PATCH", &own, &[], json!({"lastname": "z"}))),
        OWN
    );
    assert_eq!(
        world.d365("GET", &own, &[], Value::Null).json()["contactid"],
        OWN
    );
    let again = world.d365("POST", "/contacts", &[], json!({"contactid": OWN}));
    assert_eq!(code(&again), (412, "0x80040237".to_owned()));
    // One that was deleted may be made anew, and is changed where it is.
    assert_eq!(world.d365("DELETE", &row, &[], Value::Null).status, 204);
    assert_eq!(
        world
            .d365("PATCH", &row, &only_old, json!({"lastname": "w"}))
            .status,
        404
    );
    assert_eq!(
        id_of(&world.d365("PATCH", &row, &[], json!({"lastname": "w"}))),
        id
    );
    assert_eq!(
        world
            .d365("PATCH", &row, &only_old, json!({"lastname": "v"}))
            .status,
        204
    );
    assert_eq!(
        world.d365("GET", &row, &[], Value::Null).json()["lastname"],
        "v"
    );
    assert_eq!(world.count("dynamics365", "contacts"), 3);
}

#[test]
fn duplicates_are_looked_for_on_request() {
    let world = World::new();
    let id = make(
        &world,
        json!({"lastname": "x", "emailaddress1": "a@x.test"}),
    );
    let other = make(
        &world,
        json!({"lastname": "y", "emailaddress1": "b@x.test"}),
    );
    let detect = [("MSCRM.SuppressDuplicateDetection", "false")];
    let duplicate = (412, "0x80040333".to_owned());
    let told = world.d365(
        "POST",
        "/contacts",
        &detect,
        json!({"emailaddress1": "A@X.test"}),
    );
    assert_eq!(code(&told), duplicate);
    let change = |id: &str, headers: &[(&str, &str)], body: Value| {
        code(&world.d365("PATCH", &format!("/contacts({id})"), headers, body))
    };
    assert_eq!(
        change(&other, &detect, json!({"emailaddress1": "a@x.test"})),
        duplicate
    );
    assert_eq!(
        change(&id, &detect, json!({"emailaddress1": "a@x.test"})).0,
        204
    );
    assert_eq!(change(&other, &detect, json!({"lastname": "z"})).0, 204);
    let off = [("MSCRM.SuppressDuplicateDetection", "true")];
    assert_eq!(
        change(&other, &off, json!({"emailaddress1": "a@x.test"})).0,
        204
    );
    assert_eq!(
        change(&other, &[], json!({"emailaddress1": "a@x.test"})).0,
        204
    );
}

#[test]
fn lookups_are_written_in_all_their_ways() {
    let world = World::new();
    let account = json!({"name": "Acme", "crm_externalkey": "A'1"});
    let account = id_of(&world.d365("POST", "/accounts", &[], account));
    let id = make(&world, json!({"lastname": "x"}));
    let row = format!("/contacts({id})");
    let employer = || {
        let path = format!("{row}?$select=_parentcustomerid_value");
        world.d365("GET", &path, &[], Value::Null).json()["_parentcustomerid_value"].clone()
    };
    let bind = |link: Value| {
        let body = json!({"parentcustomerid_account@odata.bind": link});
        world.d365("PATCH", &row, &[], body).status
    };
    let whole = format!(
        "http://{}/api/data/v9.2/accounts({account})",
        world.dynamics365
    );
    for link in [
        "/accounts(crm_externalkey='A''1')",
        "/accounts(crm_externalkey='A%27%271')",
        &whole,
    ] {
        assert_eq!(
            (bind(json!(link)), employer()),
            (204, json!(account)),
            "{link}"
        );
        assert_eq!((bind(Value::Null), employer()), (204, Value::Null));
    }
    assert_eq!(bind(json!("/accounts(crm_externalkey='none')")), 404);
    assert_eq!(bind(json!("/accounts(name='Acme')")), 400);
    let link = format!("{row}/parentcustomerid_account/$ref");
    let set = world.d365("PUT", &link, &[], json!({"@odata.id": whole}));
    assert_eq!((set.status, employer()), (204, json!(account)));
    assert_eq!(world.d365("DELETE", &link, &[], Value::Null).status, 204);
    assert_eq!(employer(), Value::Null);
    bind(json!(whole));
    let plain = world.d365(
        "PATCH",
        &row,
        &[],
        json!({"parentcustomerid_account": null}),
    );
    assert_eq!((plain.status, employer()), (204, Value::Null));
    let one = format!("{row}/lastname");
    assert_eq!(
        world.d365("PUT", &one, &[], json!({"value": "y"})).status,
        204
    );
    assert_eq!(
        world.d365("GET", &one, &[], Value::Null).json()["value"],
        "y"
    );
    assert_eq!(world.d365("DELETE", &one, &[], Value::Null).status, 204);
    assert_eq!(world.d365("GET", &one, &[], Value::Null).status, 204);
}

#[test]
fn annotations_and_expansions_come_with_those_who_ask() {
    let world = World::new();
    let account = id_of(&world.d365(
        "POST",
        "/accounts",
        &[],
        json!({"name": "Acme", "revenue": 1234567.5}),
    ));
    let id = make(
        &world,
        json!({
            "lastname": "x", "leadsourcecode": 2, "crm_interests": "1,3", "donotbulkemail": true, "birthdate": "2001-02-03",
            "crm_lastseen": "2026-01-02T15:04:05Z", "parentcustomerid_account@odata.bind": format!("/accounts({account})"),
        }),
    );
    let row = format!("/contacts({id})");
    let all = [("Prefer", "odata.include-annotations=\"*\"")];
    let shown = world.d365("GET", &row, &all, Value::Null).json();
    let formatted =
        |name: &str| shown[format!("{name}@OData.Community.Display.V1.FormattedValue")].clone();
    for (name, text) in [
        ("leadsourcecode", "Option 2"),
        ("crm_interests", "Option 1; Option 3"),
        ("donotbulkemail", "Yes"),
        ("birthdate", "2/3/2001"),
        ("crm_lastseen", "1/2/2026 3:04 PM"),
    ] {
        assert_eq!(formatted(name), text);
    }
    let lookup = "_parentcustomerid_value@Microsoft.Dynamics.CRM";
    assert_eq!(shown[format!("{lookup}.lookuplogicalname")], "account");
    assert_eq!(
        shown[format!("{lookup}.associatednavigationproperty")],
        "parentcustomerid_account"
    );
    let some = [(
        "Prefer",
        "odata.maxpagesize=5,odata.include-annotations=\"OData.Community.Display.*\"",
    )];
    let list = world.d365("GET", "/accounts?$select=revenue", &some, Value::Null);
    assert_eq!(
        list.json()["value"][0]["revenue@OData.Community.Display.V1.FormattedValue"],
        "$1,234,567.50"
    );
    assert!(
        list.header("preference-applied")
            .contains("include-annotations")
    );
    let plain = world.d365("GET", &row, &[], Value::Null);
    assert!(!plain.text.contains("Display.V1"));
    let expanded = "$select=lastname&$expand=parentcustomerid_account($select=name)";
    let one = world
        .d365("GET", &format!("{row}?{expanded}"), &[], Value::Null)
        .json();
    assert_eq!(one["parentcustomerid_account"]["name"], "Acme");
    assert!(one["parentcustomerid_account"].get("revenue").is_none());
    make(&world, json!({"lastname": "y"}));
    let list = world
        .d365("GET", &format!("/contacts?{expanded}"), &[], Value::Null)
        .json();
    assert_eq!(
        list["value"][0]["parentcustomerid_account"]["accountid"],
        account
    );
    assert_eq!(list["value"][1]["parentcustomerid_account"], Value::Null);
    // A tag says nothing of another row.
    let tag = plain.header("etag");
    let unless = [("If-None-Match", tag)];
    let told = world.d365("GET", &format!("{row}?{expanded}"), &unless, Value::Null);
    assert_eq!(told.status, 200);
    for (strange, status) in [
        ("nope", 400),
        ("parentcustomerid_account(", 400),
        ("parentcustomerid_account)", 400),
        ("parentcustomerid_account($select=nope)", 400),
        ("parentcustomerid_account($expand=x)", 501),
    ] {
        let told = world.d365("GET", &format!("{row}?$expand={strange}"), &[], Value::Null);
        assert_eq!(told.status, status, "{strange}");
    }
}

/// A batch of parts, each of which is a whole request.
fn batch(world: &World, preamble: &str, parts: &[String], headers: &[(&str, &str)]) -> Reply {
    let mut all = vec![
        ("Authorization", "Bearer d365-token"),
        ("Content-Type", "multipart/mixed;boundary=b"),
    ];
    all.extend(headers);
    let mut body = preamble.to_owned();
    for part in parts {
        body += &format!("--b\r\n{part}\r\n");
    }
    body += "--b--\r\n";
    let path = "/api/data/v9.2/$batch";
    world
        .call(world.dynamics365, "POST", path, &all, body)
        .unwrap()
}

fn http(id: Option<u32>, request: &str, body: Value) -> String {
    let id = id
        .map(|id| format!("Content-ID: {id}\r\n"))
        .unwrap_or_default();
    format!(
        "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n{id}\r\n{request} HTTP/1.1\r\nContent-Type: application/json\r\n\r\n{body}"
    )
}

fn change_set(requests: &[String]) -> String {
    let mut set = "Content-Type: multipart/mixed; boundary=\"c\"\r\n\r\n".to_owned();
    for request in requests {
        set += &format!("--c\r\n{request}\r\n");
    }
    set + "--c--"
}

#[test]
fn a_batch_may_begin_with_a_line_break_or_a_preamble() {
    let world = World::new();
    for preamble in ["", "\r\n", "\r\n\r\nThis is a batch.\r\n"] {
        let parts = [
            http(None, "POST /api/data/v9.2/contacts", json!({"lastname": "--b"})),
            "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nGET WhoAmI HTTP/1.1\r\n".to_owned(),
            "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nGET /api/data/v9.2/WhoAmI HTTP/1.1\r\n".to_owned(),
        ];
        let told = batch(
            &world,
            preamble,
            &parts,
            &[("Prefer", "odata.continue-on-error")],
        );
        assert_eq!(told.status, 200, "{}", told.text);
        let statuses: Vec<&str> = told
            .text
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|part| &part[..3])
            .collect();
        assert_eq!(statuses, ["204", "200", "200"]);
    }
    assert_eq!(world.count("dynamics365", "contacts"), 3);
    assert_eq!(batch(&world, "--x\r\n", &[], &[]).status, 200);
}

#[test]
fn a_change_set_is_applied_as_a_whole() {
    let world = World::new();
    let parts = [
        change_set(&[
            http(
                Some(1),
                "POST /api/data/v9.2/accounts",
                json!({"name": "Acme"}),
            ),
            http(
                Some(2),
                "POST /api/data/v9.2/contacts",
                json!({"lastname": "x", "parentcustomerid_account@odata.bind": "$1"}),
            ),
            http(Some(3), "PATCH $2", json!({"jobtitle": "Boss"})),
            http(
                Some(4),
                "PUT $1/primarycontactid/$ref",
                json!({"@odata.id": "$2"}),
            ),
        ]),
        http(
            None,
            "POST /api/data/v9.2/contacts",
            json!({"lastname": "beside"}),
        ),
    ];
    let told = batch(&world, "", &parts, &[]);
    assert_eq!(told.status, 200, "{}", told.text);
    assert_eq!(told.text.matches("Content-ID: ").count(), 4);
    assert_eq!(told.text.matches("HTTP/1.1 204").count(), 5);
    let held = |object: &str| {
        world.admin(
            "GET",
            &format!("/objects/dynamics365/{object}"),
            Value::Null,
        )["records"]
            .clone()
    };
    let (account, contact) = (held("accounts")[0].clone(), held("contacts")[0].clone());
    assert_eq!(contact["fields"]["_parentcustomerid_value"], account["id"]);
    assert_eq!(account["fields"]["_primarycontactid_value"], contact["id"]);
    assert_eq!(contact["fields"]["jobtitle"], "Boss");
    let before = (held("accounts"), held("contacts"));
    for (bad, code) in [
        (
            http(Some(3), "POST /api/data/v9.2/contacts", json!({"nope": 1})),
            "0x80048d19",
        ),
        (
            http(Some(3), "PATCH $9", json!({"name": "x"})),
            "0x80060888",
        ),
        (
            http(
                Some(3),
                "POST /api/data/v9.2/contacts",
                json!({"parentcustomerid_account@odata.bind": "$9"}),
            ),
            "0x80060888",
        ),
    ] {
        let set = change_set(&[
            http(
                Some(1),
                "POST /api/data/v9.2/accounts",
                json!({"name": "Gone"}),
            ),
            http(
                Some(2),
                &format!(
                    "PATCH /api/data/v9.2/accounts({})",
                    account["id"].as_str().unwrap()
                ),
                json!({"name": "Gone"}),
            ),
            bad,
        ]);
        let told = batch(&world, "", &[set], &[]);
        assert_eq!(
            (told.status, told.text.matches("HTTP/1.1 ").count()),
            (400, 1),
            "{}",
            told.text
        );
        assert!(told.text.contains(code), "{}", told.text);
        assert_eq!((held("accounts"), held("contacts")), before);
    }
    for malformed in [
        http(None, "POST /api/data/v9.2/contacts", json!({})),
        http(Some(1), "GET /api/data/v9.2/contacts", Value::Null),
        change_set(&[]),
    ] {
        assert_eq!(
            batch(&world, "", &[change_set(&[malformed])], &[]).status,
            400
        );
    }
    assert_eq!((held("accounts"), held("contacts")), before);
}
