//! `@{ref.field}` and `@{ref.records[0].Id}`: values of earlier answers.
//!
//! Guarantees: a request that refers to one that failed, or to what an answer does not hold, does
//! not run; what is put in place of a reference cannot break the JSON around it.

use super::super::error::SfError;
use serde_json::{Map, Value as Json};

#[derive(Default)]
pub struct Answers(Map<String, Json>);

impl Answers {
    pub fn add(&mut self, reference: &str, good: bool, body: &Json) {
        // Nothing can be taken from a failure.
        let body = if good { body.clone() } else { Json::Null };
        self.0.insert(reference.to_owned(), body);
    }

    pub fn fill(&self, body: &Json) -> Result<Json, SfError> {
        Ok(match body {
            Json::String(text) => self.fill_text(text)?.into(),
            Json::Array(list) => {
                let list = list.iter().map(|entry| self.fill(entry));
                list.collect::<Result<Vec<_>, _>>()?.into()
            }
            Json::Object(map) => {
                let map = map.iter();
                let map = map.map(|(key, value)| Ok((key.clone(), self.fill(value)?)));
                Json::Object(map.collect::<Result<_, SfError>>()?)
            }
            other => other.clone(),
        })
    }

    pub fn fill_text(&self, text: &str) -> Result<String, SfError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("@{") {
            let Some((path, tail)) = after.split_once('}') else {
                break;
            };
            out.push_str(before);
            match self.get(path) {
                Some(Json::String(text)) => out.push_str(text),
                Some(other) if !other.is_null() => out.push_str(&other.to_string()),
                _ => {
                    let name = path.split(['.', '[']).next().unwrap_or_default();
                    let message =
                        format!("Invalid reference specified. No value for {path} found in {name}");
                    return Err(SfError::new(400, "PROCESSING_HALTED", message));
                }
            }
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn get(&self, path: &str) -> Option<&Json> {
        // `a.b[0].c` is `/b/0/c` of the answer named `a`.
        let path = path.replace('[', ".").replace(']', "");
        let mut parts = path.split('.');
        let answer = self.0.get(parts.next()?)?;
        parts.try_fold(answer, |here, part| match here {
            Json::Array(list) => list.get(part.parse::<usize>().ok()?),
            here => here.get(part),
        })
    }
}

/// The names that a text or body refers to.
pub fn named(text: &str) -> impl Iterator<Item = &str> {
    let parts = text.split("@{").skip(1);
    parts.filter_map(|part| part.split(['.', '[', '}']).next())
}
