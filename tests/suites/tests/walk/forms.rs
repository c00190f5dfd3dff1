//! The values that a walk sets, in plain forms and in odd ones, and the one form in which both
//! sides are compared.

use crm_suites::{Json, json};

use crate::plan::Word;

/// The value that an action gives a column of a record. `at` and `who` tell it from all others.
pub fn value(who: char, at: usize, column: &str, word: Word, key: &str, is_bounded: bool) -> Json {
    let is_theirs = who == 'c';
    let sign = if is_theirs { -1.0 } else { 1.0 };
    // The same in every CRM: what becomes of a value is not what odd keys are for.
    let mut key = key.to_lowercase();
    key.retain(|c| c.is_ascii_alphanumeric() || c == '-');
    let own = format!("{who}{at}.{key}");
    match (word, column) {
        (Word::Empty, _) => Json::Null,
        (Word::Indigestible, _) => indigestible(&own, at),
        (Word::Common, "score") => json!(at % 3),
        (Word::Common, "born") => date(at % 3),
        (Word::Common, _) => format!("common {}", at % 3).into(),
        // Such as the column holds; the CRM's people write what they like.
        (Word::Odd, "score") => number(at, sign, is_bounded && !is_theirs),
        (Word::Own, "score") => json!(sign * at as f64 + (key.len() % 10) as f64 / 10.0),
        (Word::Own | Word::Odd, "born") => date(if is_theirs { 20_000 } else { 5_000 } + at),
        (Word::Own, "email") => format!("{who}{at}.{key}@walk.example").into(),
        (Word::Odd, "email") => format!("{who}{at}.{key}@Walk.EXAMPLE").into(),
        (Word::Odd, _) => text(&own, at, column == "last_name").into(),
        (Word::Own, _) => own.into(),
    }
}

/// So many days after 1960.
fn date(days: usize) -> Json {
    let (year, rest) = (1960 + days / 336, days % 336);
    format!("{year}-{:02}-{:02}", rest / 28 + 1, rest % 28 + 1).into()
}

/// None of these lies half way between two hundredths.
fn number(at: usize, sign: f64, is_bounded: bool) -> Json {
    let text = match at % 4 {
        _ if is_bounded => format!("{}.12", 1_234_567_000 + at),
        0 => format!("{at}.33333333333333333333"),
        1 => format!("{}", 9_007_199_254_740_993 + 2 * at as u64),
        2 => format!("{}.78", 1_234_567_890_000 + at),
        _ => format!("{at}.1200000000000000000000"),
    };
    let text = if sign < 0.0 { format!("-{text}") } else { text };
    serde_json::from_str(&text).expect("a number")
}

fn text(own: &str, at: usize, is_required: bool) -> String {
    match at % 8 {
        0 if !is_required => "\u{a0}\u{3000}\t".to_owned(),
        0 | 1 => format!("\u{a0}{own}\u{3000}"),
        2 => format!("{own}\r\nunder it\r\n"),
        3 => format!("\n{own}\rand\u{2028}on "),
        4 => format!("e\u{301} {own} \u{1f469}\u{200d}\u{1f4bb}"),
        5 => format!("\u{202e}{own}\u{202c}"),
        6 => format!("'; \\\"{own}\" -- \\n"),
        _ => format!("{own} null NaN 1e5"),
    }
}

/// What no text of PostgreSQL holds, what no text at all is, and what a trigger of the table lets
/// nobody write.
fn indigestible(own: &str, at: usize) -> Json {
    match at % 3 {
        0 => format!("{own}\0"),
        1 => format!("{own}{HALF_PAIR}"),
        _ => format!("{own} {SWALLOWED}"),
    }
    .into()
}

/// Leaves the simulated CRMs as half of a surrogate pair.
const HALF_PAIR: char = '\u{fdd0}';

/// Rows with this word are not written, and nobody is told.
pub const SWALLOWED: &str = "swallow me";

/// Whether people of the CRM have to set something else before a row can take it.
pub fn is_indigestible(value: &Json) -> bool {
    let text = value.as_str();
    text.is_some_and(|text| text.contains(['\0', HALF_PAIR]) || text.contains(SWALLOWED))
}

/// A value in one form for both sides: what is missing, null or blank is one, blanks around a text
/// are none, an end of a line is one, the case of addresses is none, and a number has hundredths,
/// as a CRM may have no room for more.
pub fn plain(value: &Json) -> String {
    let text = match value {
        Json::Null => return String::new(),
        Json::String(text) => text.clone(),
        other => other.to_string(),
    };
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    match text.parse::<f64>() {
        Ok(number) if is_number => format!("{number:.2}"),
        _ => {
            let text = text.replace("\r\n", "\n").replace('\r', "\n");
            let blank = |c: char| c.is_whitespace() || c.is_ascii_control();
            let text = text.trim_matches(blank);
            match text.contains('@') {
                true => text.to_lowercase(),
                false => text.to_owned(),
            }
        }
    }
}
