//! What is easy to get wrong about Salesforce, over real sockets.

mod common;

use common::World;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

fn contact(key: &str) -> Value {
    json!({"attributes": {"type": "Contact"}, "LastName": key, "External_Key__c": key})
}

#[test]
fn values_come_back_as_the_vendor_keeps_them() {
    let world = World::new();
    let made = world.sf(
        "POST",
        "/sobjects/Contact",
        json!({
            "LastName": "  Ünï 💡 ",
            "FirstName": " ",
            "Score__c": "100.00",
            "Last_Seen__c": "2026-01-02T04:04:05.678+01:00",
            "Birthdate": "2026-01-02",
            "Interests__c": "Data;Cloud",
            "DoNotCall": null,
        }),
    );
    assert_eq!(made.status, 201, "{}", made.text);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let held = world.sf(
        "GET",
        &format!("/sobjects/Contact/{}", &id[..15]),
        Value::Null,
    );
    assert!(held.text.contains("\"Score__c\":100.0,"), "{}", held.text);
    let held = held.json();
    assert_eq!(held["Id"], id.as_str());
    assert_eq!(held["LastName"], "Ünï 💡");
    assert_eq!(held["Name"], "Ünï 💡");
    assert_eq!(held["FirstName"], Value::Null);
    assert_eq!(held["Last_Seen__c"], "2026-01-02T03:04:05.000+0000");
    assert_eq!(held["Interests__c"], "Data;Cloud");
    assert_eq!(held["DoNotCall"], false);
}

#[test]
fn lengths_are_utf16_units() {
    let world = World::new();
    // LastName takes 80: forty emoji fill it, one letter more does not fit.
    let full = "💡".repeat(40);
    let create = |name: &str| world.sf("POST", "/sobjects/Contact", json!({"LastName": name}));
    assert_eq!(create(&full).status, 201);
    let error = create(&format!("{full}x"));
    assert_eq!(error.json()[0]["errorCode"], "STRING_TOO_LONG");
    assert_eq!(error.json()[0]["fields"], json!(["LastName"]));
}

#[test]
fn upsert_creates_once_and_respects_update_only() {
    let world = World::new();
    let path = "/sobjects/Contact/External_Key__c/a%2Fb";
    let body = || json!({"LastName": "x"});
    assert_eq!(
        world
            .sf("PATCH", &format!("{path}?updateOnly=true"), body())
            .status,
        404
    );
    assert_eq!(world.sf("PATCH", path, body()).status, 201);
    assert_eq!(world.sf("PATCH", path, body()).status, 200);
    let doubled = json!({"LastName": "x", "External_Key__c": "a/b"});
    assert_eq!(
        world.sf("PATCH", path, doubled).json()[0]["errorCode"],
        "INVALID_FIELD"
    );
    assert_eq!(world.count("salesforce", "Contact"), 1);
    // Unique values are one whatever their case.
    let other = json!({"LastName": "y", "External_Key__c": "A/B"});
    let error = world.sf("POST", "/sobjects/Contact", other);
    assert_eq!(error.json()[0]["errorCode"], "DUPLICATE_VALUE");
}

#[test]
fn several_matches_of_an_external_id_are_a_300() {
    let world = World::new();
    let field = json!({"fields": [{"name": "Loose__c", "type": "string", "length": 20, "external_id": true}]});
    world.admin("POST", "/schema/salesforce/Lead", field);
    let lead = || json!({"LastName": "x", "Company": "y", "Loose__c": "same"});
    assert_eq!(world.sf("POST", "/sobjects/Lead", lead()).status, 201);
    assert_eq!(world.sf("POST", "/sobjects/Lead", lead()).status, 201);
    let answer = world.sf(
        "PATCH",
        "/sobjects/Lead/Loose__c/same",
        json!({"Title": "z"}),
    );
    assert_eq!(answer.status, 300);
    assert_eq!(answer.json().as_array().unwrap().len(), 2);
}

#[test]
fn collections_answer_in_order_and_keep_their_limits() {
    let world = World::new();
    let post = |records: Vec<Value>, all: bool| {
        let body = json!({"allOrNone": all, "records": records});
        world.sf("POST", "/composite/sobjects", body)
    };
    let bad = json!({"attributes": {"type": "Contact"}, "FirstName": "no last name"});
    let mixed = || vec![contact("a"), bad.clone(), contact("c")];
    let rolled_back = post(mixed(), true).json();
    assert_eq!(
        rolled_back[0]["errors"][0]["statusCode"],
        "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    );
    assert_eq!(
        rolled_back[1]["errors"][0]["statusCode"],
        "REQUIRED_FIELD_MISSING"
    );
    assert_eq!(world.count("salesforce", "Contact"), 0);
    let partial = post(mixed(), false).json();
    let success: Vec<_> = partial
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["success"].clone())
        .collect();
    assert_eq!(success, [true, false, true]);
    // A value that cannot even be read spoils the request.
    let unreadable =
        json!({"attributes": {"type": "Contact"}, "LastName": "d", "Score__c": "many"});
    let spoiled = post(vec![contact("d"), unreadable], false);
    assert_eq!(
        (spoiled.status, world.count("salesforce", "Contact")),
        (400, 2)
    );
    let many = (0..201).map(|n| contact(&n.to_string())).collect();
    assert_eq!(post(many, false).status, 400);
    let account = json!({"attributes": {"type": "Account"}, "Name": "x"});
    let chunks = (0..12).map(|n| {
        if n % 2 == 0 {
            contact(&format!("t{n}"))
        } else {
            account.clone()
        }
    });
    assert_eq!(
        post(chunks.collect(), false).json()[0]["errorCode"],
        "LIMIT_EXCEEDED"
    );
}

#[test]
fn retrieve_gives_null_for_what_is_not_there() {
    let world = World::new();
    let made = world
        .sf("POST", "/sobjects/Contact", json!({"LastName": "x"}))
        .json();
    let gone = "003Hs0000000zzzAAA";
    let body = json!({"ids": [gone, made["id"]], "fields": ["LastName"]});
    let found = world.sf("POST", "/composite/sobjects/Contact", body).json();
    assert_eq!(found[0], Value::Null);
    assert_eq!(found[1]["LastName"], "x");
}

#[test]
fn conditional_writes_lose_against_a_users_edit() {
    let world = World::new();
    let made = world
        .sf("POST", "/sobjects/Account", json!({"Name": "x"}))
        .json();
    let path = format!("/sobjects/Account/{}", made["id"].as_str().unwrap());
    let read = world.sf("GET", &path, Value::Null);
    let (tag, modified) = (
        read.header("etag").to_owned(),
        read.header("last-modified").to_owned(),
    );
    let later = json!({"fields": {"Name": "theirs"}, "modified_at": "2100-01-01T00:00:00Z"});
    world.admin(
        "PATCH",
        &format!(
            "/objects/salesforce/Account/{}",
            made["id"].as_str().unwrap()
        ),
        later,
    );
    for condition in [
        ("If-Match", tag.as_str()),
        ("If-Unmodified-Since", modified.as_str()),
    ] {
        let answer = world.sf_with("PATCH", &path, &[condition], json!({"Name": "ours"}));
        assert_eq!(answer.status, 412, "{condition:?}");
    }
    let held = world.sf("GET", &path, Value::Null).json();
    assert_eq!(held["Name"], "theirs");
    assert_ne!(held["LastModifiedById"], held["CreatedById"]);
    // Only Account knows tags: elsewhere the header is no protection, as in the real thing.
    let made = world
        .sf("POST", "/sobjects/Contact", json!({"LastName": "x"}))
        .json();
    let path = format!("/sobjects/Contact/{}", made["id"].as_str().unwrap());
    let ignored = world.sf_with(
        "PATCH",
        &path,
        &[("If-Match", "\"no\"")],
        json!({"Title": "z"}),
    );
    assert_eq!(ignored.status, 204);
}

#[test]
fn what_is_too_long_or_of_another_kind_is_refused() {
    let world = World::new();
    let long = format!(
        "/query?q=SELECT+Id+FROM+Contact+WHERE+LastName='{}'",
        "x".repeat(17_000)
    );
    assert_eq!(world.sf("GET", &long, Value::Null).status, 414);
    let path = format!("{}/sobjects/Account", common::VERSION);
    let headers = [
        ("Authorization", "Bearer sf-token"),
        ("Content-Type", "text/plain"),
    ];
    let plain = world
        .call(world.salesforce, "POST", &path, &headers, "{}")
        .unwrap();
    assert_eq!(plain.status, 415);
}

#[test]
fn soql_orders_filters_and_pages() {
    let world = World::new();
    let records: Vec<Value> = (0..450)
        .map(|n| json!({"fields": {"LastName": format!("L{n:03}"), "Score__c": n, "External_Key__c": format!("k'{n}")}}))
        .collect();
    world.admin("POST", "/objects/salesforce/Contact", Value::from(records));
    let query = |soql: &str| {
        let soql = utf8_percent_encode(soql, NON_ALPHANUMERIC);
        let options = [("Sforce-Query-Options", "batchSize=200")];
        world.sf_with("GET", &format!("/query?q={soql}"), &options, Value::Null)
    };
    let mut page = query("SELECT Id,LastName FROM Contact WHERE SystemModstamp>=2020-01-01T00:00:00Z ORDER BY SystemModstamp,Id").json();
    let mut names = Vec::new();
    loop {
        names.extend(
            page["records"]
                .as_array()
                .unwrap()
                .iter()
                .map(|r| r["LastName"].clone()),
        );
        let Some(next) = page["nextRecordsUrl"].as_str() else {
            break;
        };
        page = world
            .sf(
                "GET",
                next.strip_prefix(common::VERSION).unwrap(),
                Value::Null,
            )
            .json();
    }
    assert_eq!(
        names,
        (0..450)
            .map(|n| json!(format!("L{n:03}")))
            .collect::<Vec<_>>()
    );
    let count = |filter: &str| {
        query(&format!("SELECT COUNT() FROM Contact WHERE {filter}")).json()["totalSize"].clone()
    };
    assert_eq!(
        count("Score__c < 10 AND (LastName LIKE 'l00_' OR Score__c = 400)"),
        10
    );
    assert_eq!(count("External_Key__c = 'k\\'7'"), 1);
    assert_eq!(count("LastName IN ('L001','L002') AND Title = null"), 2);
    assert_eq!(count("LastModifiedDate = TODAY"), 450);
    for (soql, code) in [
        ("SELECT Nope FROM Contact", "INVALID_FIELD"),
        ("SELECT Id FROM Nope", "INVALID_TYPE"),
        ("SELECT Id FROM Contact WHERE", "MALFORMED_QUERY"),
        (
            "SELECT Id FROM Contact WHERE Score__c = 1 AND Title = 'x' OR Phone = 'y'",
            "MALFORMED_QUERY",
        ),
        (
            "SELECT Id FROM Contact WHERE Score__c = '1'",
            "INVALID_FIELD",
        ),
    ] {
        assert_eq!(query(soql).json()[0]["errorCode"], code, "{soql}");
    }
}

#[test]
fn deleted_records_are_seen_by_query_all_only() {
    let world = World::new();
    let made = world
        .sf(
            "POST",
            "/sobjects/Contact",
            json!({"LastName": "x", "External_Key__c": "K"}),
        )
        .json();
    let path = format!("/sobjects/Contact/{}", made["id"].as_str().unwrap());
    assert_eq!(world.sf("DELETE", &path, Value::Null).status, 204);
    assert_eq!(
        world.sf("DELETE", &path, Value::Null).json()[0]["errorCode"],
        "ENTITY_IS_DELETED"
    );
    let total = |verb: &str| {
        let path = format!(
            "/{verb}?q=SELECT+Id,IsDeleted+FROM+Contact+WHERE+SystemModstamp>2020-01-01T00:00:00Z"
        );
        world
            .sf("GET", &path.replace('>', "%3E"), Value::Null)
            .json()["totalSize"]
            .clone()
    };
    assert_eq!((total("query"), total("queryAll")), (json!(0), json!(1)));
    // Its external id is free again.
    assert_eq!(
        world
            .sf(
                "PATCH",
                "/sobjects/Contact/External_Key__c/K",
                json!({"LastName": "y"})
            )
            .status,
        201
    );
}

#[test]
fn composite_links_subrequests_and_rolls_back() {
    let world = World::new();
    let run = |name: &str, all: bool| {
        let base = common::VERSION;
        world.sf("POST", "/composite", json!({"allOrNone": all, "compositeRequest": [
            {"method": "POST", "url": format!("{base}/sobjects/Account"), "referenceId": "a", "body": {"Name": "x"}},
            {"method": "POST", "url": format!("{base}/sobjects/Contact"), "referenceId": "c",
             "body": {"LastName": name, "AccountId": "@{a.id}"}},
        ]})).json()["compositeResponse"].clone()
    };
    assert_eq!(
        run("", true)[0]["body"][0]["errorCode"],
        "PROCESSING_HALTED"
    );
    assert_eq!(world.count("salesforce", "Account"), 0);
    assert_eq!(run("x", true)[1]["httpStatusCode"], 201);
    let held = world.admin("GET", "/objects/salesforce/Contact", Value::Null);
    assert!(held["records"][0]["fields"]["AccountId"].is_string());
}

#[test]
fn tokens_expire_and_are_given_out_anew() {
    let world = World::new();
    let token = |form: &str| {
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        world
            .call(
                world.salesforce,
                "POST",
                "/services/oauth2/token",
                &headers,
                form,
            )
            .unwrap()
    };
    let refused = token("grant_type=refresh_token&refresh_token=no&client_id=sf-client");
    assert_eq!(
        (refused.status, refused.json()["error"].as_str()),
        (400, Some("invalid_grant"))
    );
    let secret = "grant_type=client_credentials&client_id=sf-client&client_secret=";
    assert_eq!(token(&format!("{secret}wrong")).status, 400);
    world.admin(
        "POST",
        "/tokens",
        json!({"vendor": "salesforce", "lifetime_s": 0}),
    );
    let issued = token(&format!("{secret}sf-secret")).json();
    let bearer = format!("Bearer {}", issued["access_token"].as_str().unwrap());
    let path = format!("{}/limits", common::VERSION);
    let expired = world
        .call(
            world.salesforce,
            "GET",
            &path,
            &[("Authorization", &bearer)],
            "",
        )
        .unwrap();
    assert_eq!(
        (expired.status, expired.json()[0]["errorCode"].as_str()),
        (401, Some("INVALID_SESSION_ID"))
    );
    assert_eq!(
        world
            .sf("GET", "/limits", Value::Null)
            .header("sforce-limit-info"),
        "api-usage=1/10000000"
    );
    world.admin(
        "POST",
        "/config",
        json!({"vendor": "salesforce", "daily_limit": 1}),
    );
    let spent = world.sf("GET", "/limits", Value::Null);
    assert_eq!(
        (spent.status, spent.json()[0]["errorCode"].as_str()),
        (403, Some("REQUEST_LIMIT_EXCEEDED"))
    );
}

#[test]
fn dates_compare_to_the_second_and_the_answer_tells_the_crms_time() {
    let world = World::new();
    world.admin("POST", "/clock", json!({"skew_s": 86400 * 365}));
    let made = world
        .sf("POST", "/sobjects/Contact", json!({"LastName": "x"}))
        .json();
    let id = made["id"].as_str().unwrap();
    let path = format!("/sobjects/Contact/{id}");
    let edit = |at: &str| {
        let body = json!({"fields": {"Title": at}, "modified_at": at});
        world.admin("PATCH", &format!("/objects/salesforce/Contact/{id}"), body);
    };
    edit("2026-01-02T03:04:05.100Z");
    let read = world.sf("GET", &path, Value::Null);
    assert_eq!(
        read.header("last-modified"),
        "Fri, 02 Jan 2026 03:04:05 GMT"
    );
    assert_eq!(
        read.json()["LastModifiedDate"],
        "2026-01-02T03:04:05.000+0000"
    );
    assert_eq!(read.header("etag"), "");
    // The skew of the clock shows in the Date header, a year ahead of ours.
    let here = world
        .call(world.admin, "GET", "/clock", &[], "")
        .unwrap()
        .json();
    let year = here["now"].as_str().unwrap()[..4].to_owned();
    assert!(
        read.header("date").contains(&year),
        "{}",
        read.header("date")
    );
    let write = |headers: &[(&str, &str)]| {
        world
            .sf_with("PATCH", &path, headers, json!({"Department": "d"}))
            .status
    };
    let since = ("If-Unmodified-Since", "Fri, 02 Jan 2026 03:04:05 GMT");
    // Within the second nothing is noticed, in the next one it is.
    edit("2026-01-02T03:04:05.900Z");
    assert_eq!(write(&[since]), 204);
    edit("2026-01-02T03:04:06.000Z");
    let refused = world.sf_with("PATCH", &path, &[since], json!({"Department": "d"}));
    assert_eq!(refused.status, 412);
    assert_eq!(refused.json()[0]["errorCode"], "PRECONDITION_FAILED");
    // An invalid condition is refused, but not on a delete, which has none.
    assert_eq!(write(&[("If-Unmodified-Since", "yesterday")]), 400);
    assert_eq!(
        world.sf_with("DELETE", &path, &[since], Value::Null).status,
        204
    );
}

#[test]
fn tags_are_accounts_alone() {
    let world = World::new();
    let made = world
        .sf("POST", "/sobjects/Account", json!({"Name": "x"}))
        .json();
    let path = format!("/sobjects/Account/{}", made["id"].as_str().unwrap());
    let tag = world
        .sf("GET", &path, Value::Null)
        .header("etag")
        .to_owned();
    for (headers, status) in [
        ([("If-Match", "unquoted")], 400),
        ([("If-Match", "\"other\"")], 412),
        ([("If-None-Match", tag.as_str())], 412),
        ([("If-Match", tag.as_str())], 204),
        ([("If-Match", tag.as_str())], 412),
        ([("If-Match", "*")], 204),
    ] {
        let answer = world.sf_with("PATCH", &path, &headers, json!({"Name": "y"}));
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text);
    }
}
