//! Which values a PostgreSQL column stores exactly, and which it would round, truncate or reject.

use std::str::FromStr;

use crate::{Number, Value};

/// A column's type as far as it bounds values, read from what `format_type` says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// With bounds if it has any: digits in all, and decimals (which may be below zero).
    Numeric(Option<(i64, i64)>),
    /// A whole number between these.
    Integer(i64, i64),
    Float4,
    Float8,
    Date,
    /// With so many digits of a second.
    Moment(u32),
    /// With so many characters at most.
    Text(Option<usize>),
    Uuid,
    Jsonb,
    /// Rounds what it reads, in ways that PostgreSQL alone tells.
    Rounded(Rounded),
    /// Of others it is not known that they lose anything.
    Other,
}

/// How it is found out whether a column rounds a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounded {
    /// By comparison with what this type, which has no modifier, makes of it.
    By(&'static str),
    /// By comparison of the digits: `money` has as many decimals as the locale has them.
    ToCents,
    /// Only beyond microseconds.
    ToMicroseconds,
}

impl Column {
    /// Reads `format_type(atttypid, atttypmod)`: `numeric(10,2)`, `timestamp(0) with time zone`.
    pub fn of(formatted: &str) -> Column {
        let (name, rest) = formatted.split_once('(').unwrap_or((formatted, ""));
        let modifier = rest.split_once(')').map_or("", |(modifier, _)| modifier);
        let mut numbers = modifier.split(',').map(|n| n.trim().parse::<i64>().ok());
        let (first, second) = (numbers.next().flatten(), numbers.next().flatten());
        match name.trim_end() {
            _ if formatted.ends_with("[]") => Column::of_elements(formatted),
            "numeric" => Column::Numeric(first.map(|precision| (precision, second.unwrap_or(0)))),
            "smallint" => Column::Integer(i16::MIN.into(), i16::MAX.into()),
            "integer" => Column::Integer(i32::MIN.into(), i32::MAX.into()),
            "bigint" => Column::Integer(i64::MIN, i64::MAX),
            "real" => Column::Float4,
            "double precision" => Column::Float8,
            "date" => Column::Date,
            "timestamp" | "timestamp without time zone" | "timestamp with time zone" => {
                Column::Moment(first.and_then(|n| u32::try_from(n).ok()).unwrap_or(6))
            }
            "character varying" | "character" => {
                Column::Text(first.and_then(|n| usize::try_from(n).ok()))
            }
            "text" => Column::Text(None),
            "uuid" => Column::Uuid,
            "jsonb" => Column::Jsonb,
            "money" => Column::Rounded(Rounded::ToCents),
            "time" if formatted.ends_with("without time zone") => {
                Column::Rounded(Rounded::By("pg_catalog.time"))
            }
            "time" => Column::Rounded(Rounded::By("pg_catalog.timetz")),
            "interval" if first.is_none() => Column::Rounded(Rounded::ToMicroseconds),
            "time without time zone" | "time with time zone" => {
                Column::Rounded(Rounded::ToMicroseconds)
            }
            // With a precision, or `interval day to second`.
            name if name.split(' ').next() == Some("interval") => {
                Column::Rounded(Rounded::By("pg_catalog.interval"))
            }
            _ => Column::Other,
        }
    }

    /// An array is rounded as its elements are.
    fn of_elements(formatted: &str) -> Column {
        match Column::of(formatted.trim_end_matches("[]")) {
            Column::Numeric(Some(_)) => Column::Rounded(Rounded::By("pg_catalog.numeric[]")),
            Column::Moment(digits) if digits < 6 => {
                let has_zone = formatted.contains("with time zone");
                Column::Rounded(Rounded::By(match has_zone {
                    true => "pg_catalog.timestamptz[]",
                    false => "pg_catalog.timestamp[]",
                }))
            }
            Column::Rounded(Rounded::By("pg_catalog.time")) => {
                Column::Rounded(Rounded::By("pg_catalog.time[]"))
            }
            Column::Rounded(Rounded::By("pg_catalog.timetz")) => {
                Column::Rounded(Rounded::By("pg_catalog.timetz[]"))
            }
            Column::Rounded(Rounded::By("pg_catalog.interval")) => {
                Column::Rounded(Rounded::By("pg_catalog.interval[]"))
            }
            _ => Column::Other,
        }
    }

    /// Whether the column, given the value, will hold that very value.
    pub fn holds_exactly(&self, value: &Value) -> bool {
        match value {
            Value::Null | Value::Boolean(_) => true,
            Value::Number(n) => self.holds_number(n),
            Value::Timestamp(ms) => match self {
                Column::Date => ms.rem_euclid(DAY_MS) == 0,
                Column::Moment(digits) => ms.rem_euclid(10_i64.pow(3 - (*digits).min(3))) == 0,
                _ => self.holds_text(value),
            },
            Value::Date(_) => match self {
                Column::Date | Column::Moment(_) => true,
                _ => self.holds_text(value),
            },
            Value::Text(text) => match self {
                Column::Numeric(_) | Column::Integer(..) | Column::Float4 | Column::Float8 => {
                    self.spells(text)
                }
                Column::Uuid => is_uuid(text),
                _ => self.holds_text(value),
            },
            Value::MultiChoice(_) => self.holds_text(value),
            Value::Json(_) => value.fits_jsonb() && self.holds_text(value),
        }
    }

    fn holds_number(&self, n: &Number) -> bool {
        match *self {
            Column::Numeric(Some((precision, scale))) => n
                .whole_digits()
                .is_none_or(|whole| n.scale() <= scale && whole <= precision - scale),
            Column::Numeric(None) => true,
            Column::Integer(least, most) => n.to_i64().is_some_and(|n| (least..=most).contains(&n)),
            Column::Float8 => n.as_double().as_ref() == Some(n),
            Column::Float4 => {
                let float = f32::from_str(n.as_str()).ok().filter(|f| f.is_finite());
                float.is_some_and(|float| float.to_string().parse().as_ref() == Ok(n))
            }
            Column::Date | Column::Moment(_) | Column::Uuid => false,
            _ => self.holds_text(&Value::Number(n.clone())),
        }
    }

    /// Whether a column of numbers shows the number as the text does.
    fn spells(&self, text: &str) -> bool {
        let Ok(n) = text.parse::<Number>() else {
            return false;
        };
        let decimals = text
            .split_once('.')
            .map_or(0, |(_, decimals)| decimals.len());
        let shown = match self {
            Column::Numeric(Some((_, scale))) if *scale > 0 => {
                let whole = text.split_once('.').map_or(text, |(whole, _)| whole);
                decimals as i64 == *scale
                    && whole.parse::<Number>().is_ok_and(|n| n.as_str() == whole)
            }
            _ => n.as_str() == text,
        };
        shown && self.holds_number(&n)
    }

    fn holds_text(&self, value: &Value) -> bool {
        let text = value.to_text().unwrap_or_default();
        match self {
            Column::Text(Some(length)) => text.chars().count() <= *length,
            Column::Rounded(Rounded::By(_) | Rounded::ToMicroseconds) => decimals(&text) <= 6,
            Column::Rounded(Rounded::ToCents)
            | Column::Text(None)
            | Column::Jsonb
            | Column::Other => true,
            _ => false,
        }
    }
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How many decimals the last fraction in a text has that are not trailing zeros.
fn decimals(text: &str) -> usize {
    let fraction = text.rsplit_once('.').map_or("", |(_, fraction)| fraction);
    let end = fraction.find(|c: char| !c.is_ascii_digit());
    fraction[..end.unwrap_or(fraction.len())]
        .trim_end_matches('0')
        .len()
}

fn is_uuid(text: &str) -> bool {
    let fits = |(at, b): (usize, u8)| match at {
        8 | 13 | 18 | 23 => b == b'-',
        _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DataType;

    #[test]
    fn what_rounds_is_known_by_its_type() {
        use Rounded::{By, ToCents, ToMicroseconds};
        for (formatted, rounded) in [
            ("money", Some(ToCents)),
            ("interval", Some(ToMicroseconds)),
            ("interval(0)", Some(By("pg_catalog.interval"))),
            ("interval day to second(3)", Some(By("pg_catalog.interval"))),
            ("interval year to month", Some(By("pg_catalog.interval"))),
            ("time without time zone", Some(ToMicroseconds)),
            ("time(0) without time zone", Some(By("pg_catalog.time"))),
            ("time(3) with time zone", Some(By("pg_catalog.timetz"))),
            ("time(0) with time zone[]", Some(By("pg_catalog.timetz[]"))),
            ("numeric(10,2)[]", Some(By("pg_catalog.numeric[]"))),
            (
                "timestamp(0) with time zone[]",
                Some(By("pg_catalog.timestamptz[]")),
            ),
            ("numeric[]", None),
            ("integer[]", None),
            ("timestamp with time zone[]", None),
            ("bit(3)", None),
            ("int4range", None),
        ] {
            let expected = rounded.map_or(Column::Other, Column::Rounded);
            assert_eq!(Column::of(formatted), expected, "{formatted}");
        }
    }

    #[test]
    fn a_column_holds_what_it_does_not_change() {
        use DataType::{Date, Json, Number, Text, Timestamp};
        for (column, data_type, exact, changed) in [
            (
                "numeric(10,2)",
                Number,
                &["12.34", "12.3", "-99999999.99", "0"][..],
                &["12.345", "100000000", "0.001", "1e40"][..],
            ),
            (
                "numeric(3,-2)",
                Number,
                &["1200", "99900", "0"],
                &["1234", "100000"],
            ),
            (
                "numeric(2,4)",
                Number,
                &["0.0099", "0"],
                &["0.01", "0.00999"],
            ),
            ("numeric", Number, &["12.345678901234567890", "1e40"], &[]),
            ("smallint", Number, &["32767", "-32768"], &["32768", "12.5"]),
            (
                "integer",
                Number,
                &["2147483647", "12"],
                &["12.5", "2147483648"],
            ),
            (
                "bigint",
                Number,
                &["9223372036854775807"],
                &["9223372036854775808", "0.5"],
            ),
            (
                "double precision",
                Number,
                &["0.1", "1234567890123456.8", "1e300"],
                &["1234567890123456.78", "9007199254740993", "1e400"],
            ),
            (
                "real",
                Number,
                &["0.1", "16777216"],
                &["0.123456789", "16777217", "1e39"],
            ),
            ("text", Number, &["0.1"], &[]),
            ("character varying(3)", Number, &["0.1"], &["0.12"]),
            (
                "timestamp(0) with time zone",
                Timestamp,
                &["2026-01-02 03:04:05+00"],
                &["2026-01-02 03:04:05.5+00"],
            ),
            (
                "timestamp(1) without time zone",
                Timestamp,
                &["2026-01-02 03:04:05.5+00"],
                &["2026-01-02 03:04:05.55+00"],
            ),
            (
                "timestamp with time zone",
                Timestamp,
                &["2026-01-02 03:04:05.678+00"],
                &[],
            ),
            (
                "date",
                Timestamp,
                &["2026-01-02 00:00:00+00"],
                &["2026-01-02 03:04:05+00"],
            ),
            ("date", Date, &["2026-01-02"], &[]),
            ("timestamp with time zone", Date, &["2026-01-02"], &[]),
            ("integer", Date, &[], &["2026-01-02"]),
            ("character varying(3)", Text, &["abc", "é😀x"], &["abcd"]),
            ("character(3)", Text, &["a"], &["abcd"]),
            ("character varying", Text, &["abcd"], &[]),
            (
                "integer",
                Text,
                &["7", "-7"],
                &["007", "+7", "7.0", "x", "12.5"],
            ),
            (
                "numeric(10,2)",
                Text,
                &["12.30", "0.05"],
                &["12.3", "12.345", "012.30"],
            ),
            (
                "uuid",
                Text,
                &["0a000000-0000-4000-8000-00000000000b"],
                &["0A000000-0000-4000-8000-00000000000B", "x"],
            ),
            (
                "jsonb",
                Json,
                &[r#"{"a":1}"#],
                &[r#""\u0000""#, "[1e200000]"],
            ),
            (
                "interval",
                Text,
                &["1 week", "1.123456", "1.5000000 s"],
                &["1.1234567", "0.0000001 s"],
            ),
            ("text[]", Text, &["abcd"], &[]),
            ("citext", Text, &["abcd"], &[]),
        ] {
            let holds = |text: &&str| {
                let value = Value::from_postgres(data_type, Some(text)).unwrap();
                Column::of(column).holds_exactly(&value)
            };
            for text in exact {
                assert!(holds(text), "{column} <- {text}");
            }
            for text in changed {
                assert!(!holds(text), "{column} <- {text}");
            }
            assert!(Column::of(column).holds_exactly(&Value::Null));
        }
    }
}
