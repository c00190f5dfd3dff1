//! Definitions: what is asked, what columns are said to be, and what is none.

use crm_domain::{DataType, Description, ErrorClass, Failure};

use super::super::Dynamics365;
use super::*;
use crate::Provider;
use crate::scripted_server::{Log, drive, settings};

fn describe(
    set: &str,
    answer: impl FnMut(usize, &Request) -> Response,
) -> (Result<Description, Failure>, Log) {
    drive(Dynamics365.describe(&settings(1), set).unwrap(), answer)
}

fn list(rows: Json) -> Response {
    answer(200, &json!({ "@odata.context": "x", "value": rows }))
}

fn tables() -> Response {
    let table = |name: &str, set: Json, id: &str| json!({ "LogicalName": name, "EntitySetName": set, "PrimaryIdAttribute": id, "MetadataId": A });
    list(json!([
        table("account", "accounts".into(), "accountid"),
        table("contact", "contacts".into(), "contactid"),
        table("owner", "owners".into(), "ownerid"),
        table("hidden", Json::Null, "hiddenid"),
    ]))
}

/// A column that may be written, unless it says otherwise.
fn column(name: &str, kind: &str, more: Json) -> Json {
    let label = json!({ "Label": format!("The {name}") });
    let mut column = json!({
        "MetadataId": A, "LogicalName": name, "AttributeTypeName": { "Value": kind }, "AttributeOf": null,
        "DisplayName": { "LocalizedLabels": [label], "UserLocalizedLabel": null },
        "RequiredLevel": { "Value": "None", "CanBeChanged": true },
        "IsValidForCreate": true, "IsValidForUpdate": true, "IsValidForRead": true,
    });
    for (name, value) in more.as_object().unwrap() {
        column[name] = value.clone();
    }
    column
}

/// Answers to a batch of questions, in the order of its parts.
fn definition(columns: Json, keys: Json, led: Json, details: [Json; 9]) -> Response {
    let parts = [columns, keys, led].into_iter().chain(details);
    batched(200, &parts.map(list).collect::<Vec<_>>())
}

fn nothing() -> [Json; 9] {
    std::array::from_fn(|_| json!([]))
}

fn of(columns: Json, keys: Json, led: Json, details: [Json; 9]) -> Description {
    let (result, _) = describe("contacts", |n, _| match n {
        0 => tables(),
        _ => definition(columns.clone(), keys.clone(), led.clone(), details.clone()),
    });
    result.unwrap()
}

fn led(column: &str, navigation: &str, to: &str) -> Json {
    json!({ "ReferencingAttribute": column, "ReferencingEntityNavigationPropertyName": navigation, "ReferencedEntity": to })
}

#[test]
fn the_table_is_found_and_asked_for_in_one_batch() {
    let (result, log) = describe("contacts", |n, _| match n {
        0 => tables(),
        _ => definition(json!([]), json!([]), json!([]), nothing()),
    });
    assert_eq!(result.unwrap().fields, []);
    assert_eq!(
        log.lines(),
        [
            "GET /api/data/v9.2/EntityDefinitions?$select=LogicalName,EntitySetName,PrimaryIdAttribute",
            "POST /api/data/v9.2/$batch",
        ]
    );
    assert!(log.requests[1].repeatable, "it changes nothing");
    let asked: Vec<String> = parts(&log.requests[1]).into_iter().map(|p| p.0).collect();
    assert_eq!(asked.len(), 12);
    let root = "GET /api/data/v9.2/EntityDefinitions(LogicalName=%27contact%27)";
    for line in &asked {
        assert!(line.starts_with(root), "{line}");
    }
    let texts =
        "Attributes/Microsoft.Dynamics.CRM.StringAttributeMetadata?$select=LogicalName,MaxLength";
    assert_eq!(asked[3], format!("{root}/{texts} HTTP/1.1"));
}

#[test]
fn columns_are_told_in_our_words() {
    let options = json!({ "Options": [
        { "Value": 7, "Label": { "LocalizedLabels": [{ "Label": "Siebte" }], "UserLocalizedLabel": { "Label": "Seventh" } } },
        { "Value": -1, "Label": null },
    ] });
    let mut details = nothing();
    details[0] = json!([{ "LogicalName": "firstname", "MaxLength": 50 }]);
    details[2] = json!([
        { "LogicalName": "born", "DateTimeBehavior": { "Value": "DateOnly" } },
        { "LogicalName": "seen", "DateTimeBehavior": { "Value": "TimeZoneIndependent" } },
    ]);
    details[3] =
        json!([{ "LogicalName": "source", "OptionSet": options, "GlobalOptionSet": options }]);
    details[4] = json!([{ "LogicalName": "tags", "OptionSet": null, "GlobalOptionSet": options }]);
    details[7] = json!([{ "LogicalName": "points", "Precision": 4 }]);
    details[8] = json!([
        { "LogicalName": "price", "Precision": 3, "PrecisionSource": 0 },
        { "LogicalName": "revenue", "Precision": 3, "PrecisionSource": 2 },
    ]);
    let required = json!({ "RequiredLevel": { "Value": "SystemRequired" } });
    let recommended = json!({ "RequiredLevel": { "Value": "ApplicationRequired" } });
    let read_only = json!({ "IsValidForCreate": false, "IsValidForUpdate": false });
    let contact = of(
        json!([
            column("firstname", "StringType", required.clone()),
            column("lastname", "StringType", recommended),
            column("contactid", "UniqueidentifierType", required.clone()),
            column("statecode", "StateType", required),
            column("versionnumber", "BigIntType", read_only),
            column("born", "DateTimeType", json!({})),
            column("seen", "DateTimeType", json!({})),
            column("untold", "DateTimeType", json!({})),
            column("points", "DecimalType", json!({})),
            column("price", "MoneyType", json!({})),
            column("revenue", "MoneyType", json!({})),
            column("source", "PicklistType", json!({})),
            column(
                "sourcename",
                "VirtualType",
                json!({ "AttributeOf": "source" })
            ),
            column("tags", "MultiSelectPicklistType", json!({})),
            column("entityimage", "ImageType", json!({})),
            column(
                "entityimage_url",
                "StringType",
                json!({ "AttributeOf": "entityimage" })
            ),
            column("calendar", "", json!({ "AttributeTypeName": null })),
        ]),
        json!([
            { "KeyAttributes": ["firstname"], "EntityKeyIndexStatus": "Active" },
            { "KeyAttributes": ["lastname"], "EntityKeyIndexStatus": "Pending" },
            { "KeyAttributes": ["lastname", "source"], "EntityKeyIndexStatus": "Active" },
        ]),
        json!([]),
        details,
    );
    let field = |name: &str| contact.field(name).unwrap_or_else(|| panic!("no {name}"));
    let first = field("firstname");
    assert_eq!(
        (
            first.label.as_str(),
            first.crm_type.as_str(),
            first.max_length
        ),
        ("The firstname", "String", Some(50))
    );
    let required = contact.fields.iter().filter(|field| field.required);
    let required: Vec<&str> = required.map(|field| field.name.as_str()).collect();
    assert_eq!(required, ["firstname"], "others have a value by themselves");
    let keys = contact.fields.iter().filter(|field| field.is_key);
    let keys: Vec<&str> = keys.map(|field| field.name.as_str()).collect();
    assert_eq!(keys, ["firstname", "contactid"]);
    assert!(field("versionnumber").is_read_only());
    assert_eq!(field("points").scale, Some(4));
    assert_eq!(field("price").scale, Some(3));
    assert_eq!(field("revenue").scale, None, "its currency's");
    let refused = &field("firstname").refused_types;
    assert_eq!(refused, &[DataType::Number, DataType::Boolean]);
    assert_eq!(field("points").refused_types, []);
    assert_eq!(field("versionnumber").scale, None);
    for (name, types) in [
        ("versionnumber", &[DataType::Number][..]),
        ("born", &[DataType::Date]),
        ("seen", &[DataType::Timestamp]),
        ("untold", &[DataType::Timestamp, DataType::Date]),
        ("statecode", &[DataType::Choice]),
        ("contactid", &[DataType::Text]),
        ("entityimage_url", &[DataType::Text]),
        ("calendar", &[]),
    ] {
        assert_eq!(field(name).data_types, types, "{name}");
    }
    for name in ["source", "tags"] {
        let field = field(name);
        let choices = field.choices.iter();
        let choices: Vec<_> = choices
            .map(|c| (c.value.as_str(), c.label.as_str()))
            .collect();
        assert_eq!(choices, [("7", "Seventh"), ("-1", "")], "{name}");
        assert!(field.is_closed);
    }
    assert_eq!(contact.field("sourcename"), None, "no row shows it");
}

#[test]
fn lookups_have_the_names_by_which_they_are_written() {
    let required = json!({ "RequiredLevel": { "Value": "SystemRequired" } });
    let read_only = json!({ "IsValidForCreate": false, "IsValidForUpdate": false });
    let contact = of(
        json!([
            column("parentcustomerid", "CustomerType", required.clone()),
            column("new_accountid", "LookupType", required.clone()),
            column("accountid", "LookupType", json!({})),
            column("ownerid", "OwnerType", required),
            column("createdby", "LookupType", read_only),
        ]),
        json!([]),
        json!([
            led("parentcustomerid", "parentcustomerid_account", "account"),
            led("parentcustomerid", "parentcustomerid_contact", "contact"),
            led("new_accountid", "new_AccountId", "account"),
            led("accountid", "accountid", "account"),
            led("accountid", "accountid_hidden", "hidden"),
            led("ownerid", "ownerid", "owner"),
            led("createdby", "createdby", "contact"),
        ]),
        nothing(),
    );
    let told = contact.fields.iter().map(|field| {
        assert_eq!(field.data_types, [DataType::Reference]);
        assert!(field.is_typed, "a text would be read by another name");
        let required = if field.required { " required" } else { "" };
        let read_only = if field.is_read_only() { " read" } else { "" };
        format!("{}{read_only}{required}", field.name)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            "parentcustomerid read",
            "parentcustomerid/parentcustomerid_account/accounts",
            "parentcustomerid/parentcustomerid_contact/contacts",
            "new_accountid read",
            "new_accountid/new_AccountId/accounts required",
            "accountid read",
            "accountid/accounts",
            "ownerid read",
            "ownerid/systemusers",
            "ownerid/teams",
            "createdby read",
        ]
    );
    assert!(contact.is_free("_createdby_value"), "so it can be read too");
}

#[test]
fn only_a_set_that_is_none_is_unknown() {
    let (result, log) = describe("contact", |_, _| tables());
    let failure = result.unwrap_err();
    assert_eq!(
        (failure.class, failure.code.as_str(), log.requests.len()),
        (ErrorClass::Mapping, "unknown_entity_set", 1)
    );
    let lacks = || answer(403, &error("0x80040220", "lacks prvReadEntity"));
    let strange = || {
        answer(
            404,
            &error("0x8006088a", "Resource not found for the segment"),
        )
    };
    for (refusal, class) in [
        (lacks(), ErrorClass::Auth),
        (strange(), ErrorClass::Internal),
        (list("none".into()), ErrorClass::Internal),
        (
            answer(429, &error("0x80072322", "slow")),
            ErrorClass::RateLimited,
        ),
    ] {
        let (first, _) = describe("contacts", |_, _| refusal.clone());
        assert_eq!(first.unwrap_err().class, class);
        let (second, _) = describe("contacts", |n, _| match n {
            0 => tables(),
            _ => refusal.clone(),
        });
        assert_eq!(second.unwrap_err().class, class);
        let (within, _) = describe("contacts", |n, _| match n {
            0 => tables(),
            _ => {
                let mut parts: Vec<Response> = (0..12).map(|_| list(json!([]))).collect();
                parts[1] = refusal.clone();
                batched(200, &parts)
            }
        });
        assert_eq!(within.unwrap_err().class, class);
    }
    let (short, _) = describe("contacts", |n, _| match n {
        0 => tables(),
        _ => batched(200, &[list(json!([])), list(json!([])), list(json!([]))]),
    });
    assert_eq!(short.unwrap_err().class, ErrorClass::Internal);
}
