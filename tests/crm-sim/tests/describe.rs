//! What each provider makes of what its CRM says of an object's fields, over real sockets.

mod common;

use common::{Line, World};
use crm_domain::{DataType, Description, ErrorClass, Failure, FieldDescription};
use crm_provider::Settings;
use serde_json::json;

fn described(world: &World, vendor: &str, object: &str) -> Result<Description, Failure> {
    let line = Line::new(world, vendor);
    let settings = Settings::default();
    let operation = line.provider.describe(&settings, object);
    line.run(operation.expect("every provider here describes"))
}

/// Type, room, `required`, `create`, `update`, `key`: what is true of a field.
fn told(field: &FieldDescription) -> String {
    let mut words = vec![match field.data_types.first() {
        Some(data_type) => data_type.name().to_owned(),
        None => "unknown".to_owned(),
    }];
    words.extend(field.max_length.map(|length| length.to_string()));
    for (word, is_so) in [
        ("required", field.required),
        ("create", field.createable),
        ("update", field.updateable),
        ("key", field.is_key),
        ("closed", field.is_closed),
    ] {
        words.extend(is_so.then(|| word.to_owned()));
    }
    words.join(" ")
}

#[track_caller]
fn tells(description: &Description, expected: &[(&str, &str)]) {
    for (name, words) in expected {
        let field = description.field(name);
        let field = field.unwrap_or_else(|| panic!("no field {name}"));
        assert_eq!(told(field), *words, "{name}");
    }
}

#[test]
fn salesforce_tells_rights_room_and_what_is_required() {
    let world = World::new();
    let contact = described(&world, "salesforce", "Contact").unwrap();
    tells(
        &contact,
        &[
            ("LastName", "text 80 required create update"),
            ("Email", "text 80 create update"),
            ("Score__c", "number create update"),
            ("Birthdate", "date create update"),
            ("Last_Seen__c", "timestamp create update"),
            ("HasOptedOutOfEmail", "boolean create update"),
            ("Interests__c", "multi_choice create update closed"),
            ("LeadSource", "choice create update"),
            ("AccountId", "reference create update"),
            ("External_Key__c", "text 255 create update key"),
            ("Id", "reference key"),
            ("CreatedDate", "timestamp"),
        ],
    );
    let source = contact.field("LeadSource").unwrap();
    let choices: Vec<&str> = source.choices.iter().map(|c| c.value.as_str()).collect();
    assert!(choices.contains(&"Partner Referral"), "{choices:?}");
    assert_eq!(
        contact.field("Phone").unwrap().label,
        "Business Phone",
        "people know it by its label"
    );
}

#[test]
fn hubspot_tells_rights_and_choices() {
    let world = World::new();
    let contacts = described(&world, "hubspot", "contacts").unwrap();
    tells(
        &contacts,
        &[
            ("email", "text create update key"),
            ("score", "number create update"),
            ("newsletter", "boolean create update"),
            ("birth_date", "date create update"),
            ("last_seen", "timestamp create update"),
            ("lifecyclestage", "choice create update closed"),
            ("interests", "multi_choice create update closed"),
            ("hs_object_id", "number key"),
        ],
    );
}

#[test]
fn pipedrive_tells_types_and_the_rest_is_known() {
    let world = World::new();
    let persons = described(&world, "pipedrive", "persons").unwrap();
    let key = |n: u32| format!("a{n:039}");
    tells(
        &persons,
        &[
            ("name", "text 255 required create update key"),
            ("emails", "text create update"),
            ("first_name", "text 255"),
            ("id", "reference"),
            ("is_deleted", "boolean create update"),
            (&key(1), "text 255 create update key"),
            (&key(3), "number create update"),
            (&key(4), "date create update"),
            (&key(7), "multi_choice create update closed"),
            (&key(8), "choice create update closed"),
        ],
    );
    let emails = persons.field("emails").unwrap();
    assert_eq!(emails.data_types, [DataType::Text, DataType::Json]);
    let source = &persons.field(&key(8)).unwrap().choices;
    assert_eq!(
        (source[1].value.as_str(), source[1].label.as_str()),
        ("2", "Phone Inquiry"),
        "options are written by their ids"
    );
    let deals = described(&world, "pipedrive", "deal").unwrap();
    let budget = format!("d{:039}", 2);
    tells(
        &deals,
        &[
            ("title", "text 255 required create update key"),
            (&budget, "number create update"),
            (&format!("{budget}.currency"), "text create update"),
        ],
    );
    let leads = described(&world, "pipedrive", "leads").unwrap();
    tells(&leads, &[("title", "text 255 required create update key")]);
}

#[test]
fn zoho_tells_rights_room_and_what_is_mandatory() {
    let world = World::new();
    let contacts = described(&world, "zoho", "Contacts").unwrap();
    tells(
        &contacts,
        &[
            ("Last_Name", "text 80 required create update"),
            ("Description", "text 32000 create update"),
            ("Score", "number create update"),
            ("Date_of_Birth", "date create update"),
            ("Last_Seen", "timestamp create update"),
            ("Email_Opt_Out", "boolean create update"),
            ("Interests", "multi_choice create update"),
            ("Account_Name", "reference create update"),
            ("External_Key", "text 255 create update key"),
            ("id", "reference key"),
        ],
    );
}

#[test]
fn dynamics_tells_rights_room_and_where_lookups_lead() {
    let world = World::new();
    let contacts = described(&world, "dynamics365", "contacts").unwrap();
    tells(
        &contacts,
        &[
            ("lastname", "text 50 create update"),
            ("description", "text 2000 create update"),
            ("crm_score", "number create update"),
            ("creditlimit", "number create update"),
            ("birthdate", "date create update"),
            ("crm_lastseen", "timestamp create update"),
            ("donotbulkemail", "boolean create update"),
            ("crm_interests", "multi_choice create update closed"),
            ("leadsourcecode", "choice create update closed"),
            ("parentcustomerid", "reference"),
            (
                "parentcustomerid/parentcustomerid_account/accounts",
                "reference create update",
            ),
            ("createdby", "reference"),
            ("createdon", "timestamp"),
            ("contactid", "text key"),
            ("crm_externalkey", "text 100 create update key"),
        ],
    );
    let source = &contacts.field("leadsourcecode").unwrap().choices;
    assert_eq!(
        (source[1].value.as_str(), source[1].label.as_str()),
        ("2", "Option 2")
    );
    for none in ["parentcustomeridname", "_parentcustomerid_value"] {
        assert_eq!(contacts.field(none), None, "{none}");
    }
    let accounts = described(&world, "dynamics365", "accounts").unwrap();
    let led = ("primarycontactid/contacts", "reference create update");
    tells(&accounts, &[led]);
    let spec =
        json!({"fields": [{"name": "crm_rank", "type": "String", "length": 7, "required": true}]});
    world.admin("POST", "/schema/dynamics365/contacts", spec);
    let contacts = described(&world, "dynamics365", "contacts").unwrap();
    tells(&contacts, &[("crm_rank", "text 7 required create update")]);
}

#[test]
fn an_object_that_is_none_is_a_mapping_error() {
    let world = World::new();
    for vendor in ["salesforce", "hubspot", "pipedrive", "zoho", "dynamics365"] {
        let failure = described(&world, vendor, "Nonsense").unwrap_err();
        assert_eq!(failure.class, ErrorClass::Mapping, "{vendor}: {failure}");
        assert!(!failure.code.starts_with("http_"), "{vendor}: {failure}");
    }
}

#[test]
fn what_an_administrator_changes_is_told_at_once() {
    let world = World::new();
    let spec = json!({"fields": [{"name": "Rank__c", "type": "double", "required": true}], "remove": ["Title"]});
    world.admin("POST", "/schema/salesforce/Contact", spec);
    let contact = described(&world, "salesforce", "Contact").unwrap();
    tells(&contact, &[("Rank__c", "number required create update")]);
    assert_eq!(contact.field("Title"), None);
}
