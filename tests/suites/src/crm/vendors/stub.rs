//! The embedded CRM: its faults are those of `crm_stub.inject()`, which knows the classes by their
//! names.

use crate::crm::facts::{Facts, Firms, Guarded, Limit, Situation, Volume};

pub const FACTS: Facts = Facts {
    name: "stub",
    people: "contact",
    firms: Firms {
        object: "account",
        name: "name",
        held: "account_id",
    },
    fields: &[
        ("id", "external_key"),
        ("first_name", "first_name"),
        ("last_name", "last_name"),
        ("email", "email"),
        ("phone", "phone"),
        ("title", "x_title"),
        ("score", "x_score"),
        ("born", "x_born"),
        ("seen", "x_seen"),
        ("opted_out", "x_opted_out"),
        ("interests", "x_interests"),
        ("source", "x_source"),
        ("extra", "x_extra"),
        ("employer", "account_id"),
    ],
    held: &[
        ("title", r#""Boss""#),
        ("score", "12.5"),
        ("born", r#""2001-02-03""#),
        ("seen", r#""2026-03-04T03:06:07.089Z""#),
        ("opted_out", "true"),
        ("interests", r#"["Cloud", "Data"]"#),
        ("source", r#""Web""#),
        ("extra", r#"{"a": 1, "b": [1, null]}"#),
    ],
    beyond: &["1/3.0", "1234567890123456.78"],
    rounds: false,
    interests: ["Cloud", "Data"],
    sources: ["Web", "Other"],
    boolean_is_never_empty: false,
    credentials: "{}",
    grant: None,
    requests: &[],
    batch: 200,
    errors: &[],
    besides: &[],
    refusals: &[
        ("validation", "validation"),
        ("mapping", "mapping"),
        ("conflict", "conflict"),
        ("transient", "transient"),
    ],
    rejection: None,
    no_content: &[],
    limits: &[Limit {
        form: "a request to slow down",
        answer: "{}",
        wait: 1,
    }],
    guards: [Guarded::Refused, Guarded::Refused],
    page: 200,
    changes: "/changes",
    names_editors: true,
    told: None,
    volume: Volume {
        records: 10_000,
        requests: [6, 6],
        options: "{}",
    },
    absent: &[
        (
            Situation::Tokens,
            "it is part of the database and takes no credentials",
        ),
        (
            Situation::WholeBatches,
            "it answers for each record by itself",
        ),
    ],
};
