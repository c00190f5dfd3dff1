//! What Zoho does with single records, external fields, lookups, searches, pages and values, over
//! real sockets.

mod common;

use common::{Reply, World};
use serde_json::{Value, json};

fn with(world: &World, method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Reply {
    let mut all = vec![
        ("Authorization", "Zoho-oauthtoken zoho-token"),
        ("Content-Type", "application/json"),
    ];
    all.extend(headers);
    let path = format!("/crm/v8{path}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    world.call(world.zoho, method, &path, &all, body).unwrap()
}

fn make(world: &World, module: &str, record: Value) -> String {
    let made = world.zoho("POST", &format!("/{module}"), json!({"data": [record]}));
    let id = made.json()["data"][0]["details"]["id"].clone();
    id.as_str()
        .unwrap_or_else(|| panic!("{}", made.text))
        .to_owned()
}

fn told(reply: &Reply) -> (String, Value) {
    let told = reply.json()["data"][0].clone();
    let told = if told.is_null() { reply.json() } else { told };
    (
        told["code"].as_str().unwrap_or_default().to_owned(),
        told["details"].clone(),
    )
}

/// The names of the records that a query found, or the status and the code of its refusal.
fn last_names(reply: &Reply) -> Result<String, (u16, String)> {
    match reply.status {
        200 => {
            let data = reply.json()["data"].as_array().cloned().unwrap();
            let names = data
                .iter()
                .map(|record| record["Last_Name"].as_str().unwrap());
            Ok(names.collect::<Vec<_>>().join(","))
        }
        204 => Ok(String::new()),
        status => Err((status, told(reply).0)),
    }
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[test]
fn a_record_is_read_changed_and_deleted_by_its_own_path() {
    let world = World::new();
    let id = make(&world, "Contacts", json!({"Last_Name": "x"}));
    let path = format!("/Contacts/{id}");
    let changed = world.zoho("PUT", &path, json!({"data": [{"Last_Name": "y"}]}));
    assert_eq!(told(&changed).0, "SUCCESS");
    let held = world.zoho("GET", &path, Value::Null).json()["data"][0].clone();
    assert_eq!((&held["Last_Name"], &held["id"]), (&json!("y"), &json!(id)));
    assert!(held.get("Modified_By").is_some());
    let some = world.zoho("GET", &format!("{path}?fields=Last_Name"), Value::Null);
    assert_eq!(some.json()["data"][0], json!({"id": id, "Last_Name": "y"}));
    let modified = held["Modified_Time"].as_str().unwrap().to_owned();
    let since = |at: &str| {
        with(
            &world,
            "GET",
            &path,
            &[("If-Modified-Since", at)],
            Value::Null,
        )
        .status
    };
    assert_eq!(
        (since(&modified), since("2026-01-01T00:00:00+00:00")),
        (304, 200)
    );
    let list = with(
        &world,
        "GET",
        "/Contacts?fields=id",
        &[("If-Modified-Since", &modified)],
        Value::Null,
    );
    assert_eq!(list.status, 304);
    let two = json!({"data": [{"Last_Name": "y"}, {"Last_Name": "z"}]});
    assert_eq!(world.zoho("PUT", &path, two).status, 400);
    assert_eq!(told(&world.zoho("DELETE", &path, Value::Null)).0, "SUCCESS");
    assert_eq!(world.zoho("GET", &path, Value::Null).status, 204);
    assert_eq!(world.zoho("GET", "/Contacts/x", Value::Null).status, 400);
    let gone = told(&world.zoho("PUT", &path, json!({"data": [{"Last_Name": "y"}]})));
    assert_eq!(
        (gone.0.as_str(), &gone.1["api_name"]),
        ("INVALID_DATA", &json!("id"))
    );
}

#[test]
fn external_fields_stand_for_ids() {
    let world = World::new();
    let account = make(
        &world,
        "Accounts",
        json!({"Account_Name": "Acme", "External_Key": "A 1"}),
    );
    let id = make(
        &world,
        "Contacts",
        json!({"Last_Name": "x", "External_Key": "K 1"}),
    );
    let by = [("X-EXTERNAL", "Contacts.External_Key")];
    let held = with(
        &world,
        "GET",
        "/Contacts/K%201?fields=Last_Name",
        &by,
        Value::Null,
    );
    assert_eq!(held.json()["data"][0]["id"], json!(id));
    let both = [(
        "X-EXTERNAL",
        "Contacts.External_Key, Contacts.Account_Name.External_Key",
    )];
    let body =
        json!({"data": [{"Last_Name": "y", "Account_Name": {"External_Key": "A 1", "id": "1"}}]});
    let changed = with(&world, "PUT", "/Contacts/K%201", &both, body);
    assert_eq!(told(&changed).0, "SUCCESS", "{}", changed.text);
    let held = || {
        world
            .zoho("GET", &format!("/Contacts/{id}"), Value::Null)
            .json()["data"][0]
            .clone()
    };
    assert_eq!(
        (&held()["Last_Name"], &held()["Account_Name"]["id"]),
        (&json!("y"), &json!(account))
    );
    let many = json!({"data": [{"External_Key": "K 1", "Last_Name": "z"}, {"External_Key": "none", "Last_Name": "z"}]});
    let told_of_many = with(&world, "PUT", "/Contacts", &by, many).json();
    assert_eq!(told_of_many["data"][0]["code"], "SUCCESS");
    assert_eq!(
        told_of_many["data"][1]["details"]["api_name"],
        "External_Key"
    );
    let missing = json!({"data": [{"Last_Name": "q", "Account_Name": {"External_Key": "none"}}]});
    let lookup = [("X-EXTERNAL", "Contacts.Account_Name.External_Key")];
    let refused = told(&with(&world, "POST", "/Contacts", &lookup, missing));
    assert_eq!(
        (refused.0.as_str(), &refused.1["parent_api_name"]),
        ("INVALID_DATA", &json!("Account_Name"))
    );
    for strange in [
        "Contacts.Last_Name",
        "Accounts.External_Key",
        "Contacts.Nope",
    ] {
        let reply = with(
            &world,
            "GET",
            "/Contacts/x",
            &[("X-EXTERNAL", strange)],
            Value::Null,
        );
        assert_eq!(
            (reply.status, told(&reply).0.as_str()),
            (400, "INVALID_DATA"),
            "{strange}"
        );
    }
    assert_eq!(
        told(&with(
            &world,
            "DELETE",
            "/Contacts?ids=K%201",
            &by,
            Value::Null
        ))
        .0,
        "SUCCESS"
    );
    assert_eq!(world.count("zoho", "Contacts"), 0);
}

#[test]
fn lookups_lead_to_records_that_are_there() {
    let world = World::new();
    let account = make(&world, "Accounts", json!({"Account_Name": "Acme"}));
    // An id of 19 digits is no double, and is sent as a number by some clients all the same.
    let number: Value = serde_json::from_str(&account).unwrap();
    for id in [json!(account), number] {
        let id = make(
            &world,
            "Contacts",
            json!({"Last_Name": "x", "Account_Name": {"id": id}}),
        );
        let held = world.zoho("GET", &format!("/Contacts/{id}"), Value::Null);
        assert_eq!(held.json()["data"][0]["Account_Name"]["id"], json!(account));
    }
    for (id, code) in [
        ("5545974000000000077", "INVALID_DATA"),
        ("x", "INVALID_DATA"),
    ] {
        let body = json!({"data": [{"Last_Name": "x", "Account_Name": {"id": id}}]});
        let refused = told(&world.zoho("POST", "/Contacts", body));
        assert_eq!(
            (refused.0.as_str(), &refused.1["api_name"]),
            (code, &json!("Account_Name"))
        );
    }
    let field = world
        .zoho("GET", "/settings/fields?module=Contacts", Value::Null)
        .json();
    let fields = field["fields"].as_array().unwrap();
    let lookup = fields
        .iter()
        .find(|field| field["api_name"] == "Account_Name")
        .unwrap();
    assert_eq!(lookup["lookup"]["module"]["api_name"], "Accounts");
}

#[test]
fn searches_find_by_criteria_email_phone_and_word() {
    let world = World::new();
    for record in [
        json!({"Last_Name": "Byron", "First_Name": "Ada", "Email": "ada@x.test", "Score": 1.5, "Phone": "+1 23"}),
        json!({"Last_Name": "Bo (x)", "Email": "bo@x.test", "Score": 2, "Description": "knows ada well", "Date_of_Birth": "2001-02-03"}),
        json!({"Last_Name": "Cy", "Email_Opt_Out": true}),
    ] {
        make(&world, "Contacts", record);
    }
    let names = |query: &str| -> Result<String, (u16, String)> {
        let reply = world.zoho(
            "GET",
            &format!("/Contacts/search?fields=Last_Name&{query}"),
            Value::Null,
        );
        last_names(&reply)
    };
    let criteria = |text: &str| names(&format!("criteria={}", encoded(text)));
    for (text, found) in [
        ("(Last_Name:equals:byron)", "Byron"),
        ("(Last_Name:starts_with:B)", "Byron,Bo (x)"),
        (r"(Last_Name:equals:Bo \(x\))", "Bo (x)"),
        ("(Last_Name:in:cy,Byron)", "Byron,Cy"),
        (
            "((Last_Name:starts_with:b)and(Score:greater_than:1.5))",
            "Bo (x)",
        ),
        ("((Last_Name:equals:Cy)or(Score:between:1,1.6))", "Byron,Cy"),
        (
            "(((Last_Name:starts_with:b)and(Score:less_equal:2))and(Date_of_Birth:equals:2001-02-03))",
            "Bo (x)",
        ),
        ("(Score:equals:${EMPTY})", "Cy"),
        ("(Email_Opt_Out:equals:true)", "Cy"),
        ("(Last_Name:equals:nobody)", ""),
    ] {
        assert_eq!(criteria(text).as_deref(), Ok(found), "{text}");
    }
    for text in [
        "Last_Name:equals:x",
        "(Last_Name:equals:x",
        "(Nope:equals:x)",
        "(Last_Name:resembles:x)",
        "(Score:equals:x)",
        "(Score:starts_with:1)",
        "(Last_Name:equals:x)(Last_Name:equals:y)",
        &"(".repeat(5000),
    ] {
        let short: String = text.chars().take(40).collect();
        assert_eq!(
            criteria(text),
            Err((400, "INVALID_QUERY".to_owned())),
            "{short}"
        );
    }
    let many = vec!["(Score:equals:1)"; 16].join("and");
    assert_eq!(
        criteria(&format!("({many})")),
        Err((400, "LIMIT_EXCEEDED".to_owned()))
    );
    assert_eq!(names("email=ADA%40x.test").as_deref(), Ok("Byron"));
    assert_eq!(names("email=ada").as_deref(), Ok(""));
    assert_eq!(names("phone=%2B1%2023").as_deref(), Ok("Byron"));
    assert_eq!(names("word=ada").as_deref(), Ok("Byron,Bo (x)"));
    assert_eq!(names("word=a").unwrap_err().0, 400);
    assert_eq!(names("").unwrap_err().1, "REQUIRED_PARAM_MISSING");
    let count = world.zoho(
        "GET",
        "/Contacts/actions/count?email=bo%40x.test",
        Value::Null,
    );
    assert_eq!(count.json(), json!({"count": 1}));
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "zoho", "search_lag_ms": 60_000}),
    );
    assert_eq!(names("word=ada").as_deref(), Ok(""));
}

#[test]
fn pages_beyond_two_thousand_records_need_a_token() {
    let world = World::new();
    let records: Vec<Value> = (0..2101)
        .map(|n| json!({"fields": {"Last_Name": n.to_string()}}))
        .collect();
    world.admin("POST", "/objects/zoho/Contacts", json!(records));
    let page = |query: &str| {
        world.zoho(
            "GET",
            &format!("/Contacts?fields=Last_Name&{query}"),
            Value::Null,
        )
    };
    let tenth = page("page=10").json();
    assert_eq!(
        (&tenth["info"]["count"], &tenth["info"]["more_records"]),
        (&json!(200), &json!(true))
    );
    // Newest first, if nothing is said.
    assert_eq!(
        (&tenth["data"][199]["Last_Name"], &tenth["info"]["sort_by"]),
        (&json!("101"), &json!("id"))
    );
    let beyond = page("page=11");
    assert_eq!(
        (beyond.status, told(&beyond).0.as_str()),
        (400, "DISCRETE_PAGINATION_LIMIT_EXCEEDED")
    );
    let token = tenth["info"]["next_page_token"]
        .as_str()
        .unwrap()
        .to_owned();
    make(&world, "Contacts", json!({"Last_Name": "new"}));
    let next = page(&format!("page_token={token}")).json();
    assert_eq!(
        (&next["data"][0]["Last_Name"], &next["info"]["count"]),
        (&json!("100"), &json!(101))
    );
    assert_eq!(
        (&next["info"]["page"], &next["info"]["next_page_token"]),
        (&json!(11), &Value::Null)
    );
    let both = page(&format!("page=11&page_token={token}"));
    assert_eq!(told(&both).0, "AMBIGUITY_DURING_PROCESSING");
    assert_eq!(told(&page("page_token=x")).0, "INVALID_DATA");
    world.admin("POST", "/clock", json!({"skew_s": 90_000}));
    assert_eq!(
        told(&page(&format!("page_token={token}"))).0,
        "EXPIRED_VALUE"
    );
    let sorted = page("sort_by=Created_Time&sort_order=asc&per_page=1").json();
    assert_eq!(sorted["data"][0]["Last_Name"], "0");
    for strange in [
        "sort_by=Last_Name",
        "sort_order=up",
        "per_page=201",
        "page=0",
    ] {
        assert_eq!(page(strange).status, 400, "{strange}");
    }
}

#[test]
fn queries_compare_by_type() {
    let world = World::new();
    let account = make(&world, "Accounts", json!({"Account_Name": "Acme"}));
    for record in [
        json!({"Last_Name": "Ada", "Score": 9, "Date_of_Birth": "2001-02-03", "Email_Opt_Out": true}),
        json!({"Last_Name": "Bo", "Score": 10, "Account_Name": {"id": account}}),
        json!({"Last_Name": "Cy_1", "Last_Seen": "2026-01-02T03:04:05+00:00"}),
    ] {
        make(&world, "Contacts", record);
    }
    let ask = |rest: &str| {
        let query = format!("select Last_Name from Contacts where {rest}");
        let reply = world.zoho("POST", "/coql", json!({"select_query": query}));
        last_names(&reply).map_err(|(_, code)| code)
    };
    for (rest, found) in [
        ("Score > 9", "Bo"),
        ("Score >= '9'", "Ada,Bo"),
        ("Score != 9", "Bo,Cy_1"),
        ("Last_Name = 'ADA'", "Ada"),
        ("Last_Name in ('ada', 'bo')", "Ada,Bo"),
        ("Last_Name not in ('ada', 'bo')", "Cy_1"),
        ("Score between 9 and 9.5", "Ada"),
        ("Score not between 9 and 9.5", "Bo"),
        ("(Score between 1 and 20 and Last_Name like 'b%')", "Bo"),
        ("Last_Name like '%_1'", "Cy_1"),
        ("Last_Name like '%O%'", "Bo"),
        ("Last_Name not like 'a%'", "Bo,Cy_1"),
        ("Score is null", "Cy_1"),
        ("Email_Opt_Out = true", "Ada"),
        ("Date_of_Birth <= '2001-02-03'", "Ada"),
        ("Last_Seen = '2026-01-02T04:04:05+01:00'", "Cy_1"),
        (&format!("Account_Name = {account}"), "Bo"),
        (
            "id is not null order by Score desc, Last_Name",
            "Bo,Ada,Cy_1",
        ),
        ("id is not null order by Last_Name desc limit 1, 1", "Bo"),
        ("id is not null limit 2 offset 2", "Cy_1"),
        ("id is not null limit 2 offset 3", ""),
    ] {
        assert_eq!(ask(rest).as_deref(), Ok(found), "{rest}");
    }
    let listed = vec!["'x'"; 51].join(",");
    for (rest, code) in [
        ("Last_Name like 'a%b'", "INVALID_QUERY"),
        ("Last_Name like 'ab'", "INVALID_QUERY"),
        ("Score like '1%'", "INVALID_QUERY"),
        ("Score = 'x'", "INVALID_QUERY"),
        ("Description = 'x'", "INVALID_QUERY"),
        ("Nope = 'x'", "INVALID_QUERY"),
        ("Last_Name in ()", "SYNTAX_ERROR"),
        ("Score between 1", "SYNTAX_ERROR"),
        ("Last_Name not = 'x'", "SYNTAX_ERROR"),
        (&format!("Last_Name in ({listed})"), "LIMIT_EXCEEDED"),
        ("id is not null limit 0", "LIMIT_EXCEEDED"),
        ("id is not null limit 2000 offset 98001", "LIMIT_EXCEEDED"),
        ("id is not null order by id, id", "DUPLICATE_DATA"),
    ] {
        assert_eq!(ask(rest), Err(code.to_owned()), "{rest}");
    }
}

#[test]
fn values_are_kept_as_zoho_keeps_them() {
    let world = World::new();
    let id = make(
        &world,
        "Contacts",
        json!({"Last_Name": " Byron\t", "Score": 12.345, "External_Key": " K ", "Description": " x ", "Email": " Ada@x.test "}),
    );
    let path = format!("/objects/zoho/Contacts/{id}");
    let held = world.admin("GET", &path, Value::Null)["fields"].clone();
    let kept = ["Last_Name", "Score", "External_Key", "Description", "Email"]
        .map(|name| held[name].clone());
    assert_eq!(
        kept.to_vec(),
        vec![
            json!("Byron"),
            json!(12.35),
            json!("K"),
            json!(" x "),
            json!("Ada@x.test")
        ]
    );
    let again = json!({"data": [{"Last_Name": "x", "External_Key": "k  "}]});
    assert_eq!(
        told(&world.zoho("POST", "/Contacts", again)).0,
        "DUPLICATE_DATA"
    );
    let blank = json!({"data": [{"Last_Name": "  "}]});
    assert_eq!(
        told(&world.zoho("POST", "/Contacts", blank)).0,
        "MANDATORY_NOT_FOUND"
    );
    let deal = make(&world, "Deals", json!({"Deal_Name": "x", "Amount": -0.005}));
    let held = world.admin("GET", &format!("/objects/zoho/Deals/{deal}"), Value::Null);
    assert_eq!(held["fields"]["Amount"], json!(-0.01));
    let huge = json!({"data": [{"Deal_Name": "x", "Amount": 1e16}]});
    assert_eq!(told(&world.zoho("POST", "/Deals", huge)).0, "INVALID_DATA");
}

#[test]
fn an_upsert_finds_by_the_fields_that_zoho_checks() {
    let world = World::new();
    let upsert = |module: &str, record: Value, keys: Option<Value>| {
        let mut body = json!({"data": [record]});
        if let Some(keys) = keys {
            body["duplicate_check_fields"] = keys;
        }
        let reply = world
            .zoho("POST", &format!("/{module}/upsert"), body)
            .json();
        (
            reply["data"][0]["action"].clone(),
            reply["data"][0]["duplicate_field"].clone(),
            reply["code"].clone(),
        )
    };
    let insert = (json!("insert"), Value::Null, Value::Null);
    let update = |field: &str| (json!("update"), json!(field), Value::Null);
    let ada = json!({"Last_Name": "Ada", "Email": "a@x.test", "External_Key": "K1"});
    assert_eq!(upsert("Contacts", ada.clone(), None), insert);
    // The module's own field comes before those that are unique.
    assert_eq!(
        upsert(
            "Contacts",
            json!({"Last_Name": "x", "Email": "A@X.test"}),
            None
        ),
        update("Email")
    );
    assert_eq!(
        upsert(
            "Contacts",
            json!({"Last_Name": "x", "External_Key": "k1"}),
            None
        ),
        update("External_Key")
    );
    let keys = Some(json!(["External_Key", "Email"]));
    assert_eq!(
        upsert("Contacts", ada.clone(), keys),
        update("External_Key")
    );
    let only = Some(json!(["External_Key"]));
    let other = json!({"Last_Name": "Bo", "Email": "a@x.test", "External_Key": "K2"});
    assert_eq!(upsert("Contacts", other, only), insert);
    assert_eq!(
        upsert("Contacts", ada, Some(json!(["Nope"]))).2,
        "INVALID_DATA"
    );
    assert_eq!(
        upsert("Accounts", json!({"Account_Name": "Acme"}), None),
        insert
    );
    assert_eq!(
        upsert("Accounts", json!({"Account_Name": "ACME"}), None),
        update("Account_Name")
    );
}
