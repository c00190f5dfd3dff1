//! What goes by jobs, in which files, and what goes another way.

use super::*;

#[test]
fn an_upsert_leaves_out_what_has_no_value_unless_the_record_was_there() {
    let mut batch = people(WriteKind::Upsert, &["a", "b", "c"]);
    for record in &mut batch.records {
        let title = field("Title", DataType::Text);
        record.fields.push((title, Value::Null));
    }
    let job =
        Job::new("Ext__c,STATUS,RECORD_ID,ERRORS\na,ADDED,1,\nb,UPDATED,2,\nc,UNCHANGED,3,\n");
    let (result, log) = write(batch, |_, r| job.answer(r));
    assert_eq!(
        told(&result.unwrap()),
        ["created 1", "updated by call b", "updated by call c"]
    );
    assert_eq!(
        uploaded(&log.requests[1]),
        "Ext__c,Last_Name\na,x\nb,x\nc,x\n"
    );
    let last = log.requests.last().unwrap();
    assert_eq!(
        body(last)["data"][0],
        json!({ "Ext__c": "b", "Last_Name": "x", "Title": null })
    );
    // An update is about a record that is there.
    let mut batch = people(WriteKind::Update, &["1", "2", "3"]);
    for record in &mut batch.records {
        record.fields[0].1 = Value::Null;
    }
    let (_, log) = write(batch, |_, r| job.answer(r));
    assert_eq!(log.lines(), ["PUT /crm/v8/Contacts"]);
}

#[test]
fn what_jobs_cannot_carry_goes_by_calls_afterwards() {
    let mut batch = people(
        WriteKind::Upsert,
        &["a", "b", "c", "d", "e", "f", "g", "h", "a", " i"],
    );
    batch.records[1].fields[0].1 = Value::Null;
    batch.records[3].fields[0].1 = Value::text("");
    batch.records[4]
        .fields
        .push((field("Account", DataType::Reference), Value::text("55")));
    batch.records[5]
        .fields
        .push((field("Title", DataType::Text), Value::text("x")));
    batch.records[6].unless_changed = Some("2026-01-02T03:04:05.000Z".to_owned());
    let job = Job::new(
        "Ext__c,STATUS,RECORD_ID,ERRORS\na,ADDED,1,\nc,ADDED,3,\nh,SKIPPED,,RESOURCE_NOT_FOUND\n",
    );
    let (result, log) = write(batch, |_, r| job.answer(r));
    let calls = |key: &str| format!("updated by call {key}");
    assert_eq!(
        told(&result.unwrap()),
        [
            "created 1".to_owned(),
            calls("b"),
            "created 3".to_owned(),
            calls("d"),
            calls("e"),
            calls("f"),
            calls("g"),
            // What its job did not say plainly.
            calls("h"),
            calls("a"),
            calls(" i"),
        ]
    );
    assert_eq!(
        uploaded(&log.requests[1]),
        "Ext__c,Last_Name\na,x\nc,x\nh,x\n"
    );
    // A key that comes again goes after the others.
    let last: Vec<Json> = log.requests[5..]
        .iter()
        .map(|r| body(r)["data"].clone())
        .collect();
    assert_eq!(last.len(), 2);
    assert_eq!(last[1], json!([{ "Ext__c": "a", "Last_Name": "x" }]));
}

#[test]
fn records_that_change_other_fields_have_jobs_of_their_own() {
    let mut batch = people(WriteKind::Update, &["1", "2", "3", "4", "5", "6"]);
    for record in &mut batch.records[3..] {
        record.fields = vec![(field("Title", DataType::Text), Value::text("y, \"z\""))];
    }
    let job = Job::new(
        "id,STATUS,RECORD_ID,ERRORS\n1,UPDATED,1,\n2,UPDATED,2,\n3,UPDATED,3,\n4,UPDATED,4,\n5,UPDATED,5,\n6,UPDATED,6,\n",
    );
    let (result, log) = write(batch, |_, r| job.answer(r));
    assert!(result.unwrap().iter().all(Result::is_ok));
    let uploads = log.requests.iter().filter(|r| line(r).ends_with("/upload"));
    let files: Vec<String> = uploads.map(uploaded).collect();
    assert_eq!(
        files,
        [
            "id,Last_Name\n1,x\n2,x\n3,x\n",
            "id,Title\n4,\"y, \"\"z\"\"\"\n5,\"y, \"\"z\"\"\"\n6,\"y, \"\"z\"\"\"\n"
        ]
    );
    let orgs = log
        .lines()
        .iter()
        .filter(|line| line.ends_with("/org"))
        .count();
    assert_eq!(orgs, 1, "it is asked once");
}

#[test]
fn files_keep_their_limits() {
    let keys: Vec<String> = (0..10).map(|n| format!("{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let batch = people(WriteKind::Update, &keys);
    let all: Vec<usize> = (0..10).collect();
    let part = |limits: Limits| loads::part(&batch, &all, 1, limits);
    let (loads, others) = part(Limits { rows: 4, ..LIMITS });
    assert_eq!(loads, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert!(others.is_empty());
    for bytes in 20..120 {
        let (loads, others) = part(Limits { bytes, ..LIMITS });
        assert_eq!(loads.iter().map(Vec::len).sum::<usize>() + others.len(), 10);
        for load in &loads {
            assert!(loads::csv(&batch, load).len() <= bytes, "{bytes}");
        }
    }
    let (loads, others) = part(Limits {
        columns: 1,
        ..LIMITS
    });
    assert_eq!((loads.len(), others.len()), (0, 10));
}

#[test]
fn cells_have_the_forms_of_the_documents() {
    let mut batch = people(WriteKind::Update, &["1", "2"]);
    for record in &mut batch.records {
        record.fields = vec![
            (field("A", DataType::Boolean), Value::Boolean(true)),
            (
                field("B", DataType::Number),
                Value::number("12.50").unwrap(),
            ),
            (
                field("C", DataType::Timestamp),
                Value::Timestamp(1_767_323_045_678),
            ),
            (
                field("D", DataType::MultiChoice),
                Value::multi_choice(["x", "y"]),
            ),
            (field("E", DataType::Json), Value::json(json!({ "a": 1 }))),
        ];
    }
    let file = String::from_utf8(loads::csv(&batch, &[0])).unwrap();
    assert_eq!(
        file,
        "id,A,B,C,D,E\n1,true,12.5,2026-01-02T03:04:05+00:00,x;y,\"{\"\"a\"\":1}\"\n"
    );
}
