//! Answers of any shape: JSON that is not an object, or has unexpected members, is an unreadable
//! answer, and never a panic.

use std::sync::Arc;

use crm_domain::{DataType, ErrorClass, Failure};
use crm_provider::record::Field;
use crm_provider::{
    BoxOperation, ChangesQuery, Provider, ReadBatch, Response, Settings, Step, providers,
};

const SHAPES: [&str; 9] = [
    "[]",
    "[1]",
    "\"text\"",
    "1",
    "true",
    "null",
    r#"{"data": 1, "results": {}, "records": "x", "value": 1, "fields": [1]}"#,
    r#"{"data": [[]], "results": [[]], "records": [[]], "value": [[]], "fields": [[]]}"#,
    r#"{"results": [{"id": "1", "properties": []}], "data": [{"id": 1}], "value": [{"x": []}]}"#,
];

/// Runs an operation to its end, with the same answer to every request and then none.
fn run<T>(mut operation: BoxOperation<T>, body: &str) {
    let mut step = operation.step(None);
    for n in 0..500 {
        step = match step {
            Step::Done(_) => return,
            Step::Wait(_) => operation.step(None),
            Step::Send(_) if n > 20 => {
                let lost = Failure::connection(ErrorClass::Transient, "timeout", "no answer");
                operation.interrupted(lost)
            }
            Step::Send(request) => {
                let answer = Response {
                    status: request.success[0],
                    body: body.as_bytes().to_vec(),
                    ..Response::default()
                };
                operation.step(Some(answer.answering(request.success)))
            }
        };
    }
    panic!("the operation never ends");
}

fn object(provider: &dyn Provider) -> String {
    let name = match provider.name() {
        "pipedrive" => "persons",
        "hubspot" | "dynamics365" => "contacts",
        _ => "Contact",
    };
    name.to_owned()
}

#[test]
fn an_answer_of_any_shape_is_read_or_refused() {
    let settings = Settings::default();
    let field = Arc::new(Field {
        name: "name".to_owned(),
        data_type: DataType::Text,
    });
    for provider in providers() {
        for shape in SHAPES {
            let object = object(*provider);
            for ids in [vec!["1".to_owned()], vec!["1".to_owned(), "2".to_owned()]] {
                let batch = ReadBatch {
                    object: object.clone(),
                    ids,
                    fields: vec![field.clone()],
                    for_write: true,
                };
                run(provider.read(&settings, Arc::new(batch)), shape);
            }
            let query = ChangesQuery {
                object: object.clone(),
                fields: vec![field.clone()],
                limit: 10,
                ..ChangesQuery::default()
            };
            run(provider.changes(&settings, Arc::new(query)), shape);
            let describe = provider.describe(&settings, &object);
            describe.into_iter().for_each(|asked| run(asked, shape));
            let count = provider.count(&settings, &object);
            count.into_iter().for_each(|asked| run(asked, shape));
            run(provider.ping(&settings), shape);
        }
    }
}
