//! Dates and moments: what each side writes, to days and to UTC milliseconds.

use std::fmt;

use jiff::SignedDuration;
use jiff::civil::{Date, DateTime, date};

use super::ValueError;
use crate::DataType;

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
const DAY_MS: i64 = 86_400_000;
/// 0001-01-01T00:00:00.000Z, the first moment that ISO dates of four digits can tell.
pub(super) const MIN_MS: i64 = -62_135_596_800_000;
/// 9999-12-31T23:59:59.999Z, the last.
pub(super) const MAX_MS: i64 = 253_402_300_799_999;

/// A moment, UTC milliseconds, that prints as `YYYY-MM-DDTHH:MM:SS.mmmZ`.
pub(crate) struct Utc(pub i64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.clamp(MIN_MS, MAX_MS);
        let t = EPOCH.saturating_add(SignedDuration::from_millis(ms));
        let (date, ms) = (t.date(), t.millisecond());
        write!(
            f,
            "{date}T{:02}:{:02}:{:02}.{ms:03}Z",
            t.hour(),
            t.minute(),
            t.second()
        )
    }
}

/// Reads a date: `YYYY-MM-DD`, or a moment (as text or epoch milliseconds) that is midnight UTC.
pub(super) fn read_date(text: &str) -> Result<Date, ValueError> {
    let mut scan = Scan(text.as_bytes());
    if let Some(date) = scan.date()
        && scan.0.is_empty()
    {
        return checked_date(date, text);
    }
    day_of(read_moment(DataType::Date, text)?, text)
}

/// Reads a moment: RFC 3339 with any zone, Postgres's ISO style, a date (midnight), or epoch
/// milliseconds. Without a zone it is UTC; what is finer than a millisecond is dropped.
pub(super) fn read_timestamp(text: &str) -> Result<i64, ValueError> {
    read_moment(DataType::Timestamp, text)
}

/// The day that begins at that moment. `text` is what the moment was written as.
fn day_of(ms: i64, text: &str) -> Result<Date, ValueError> {
    if ms.rem_euclid(DAY_MS) != 0 {
        return Err(ValueError::not_midnight(text));
    }
    Ok(EPOCH.saturating_add(SignedDuration::from_millis(ms)).date())
}

fn read_moment(expected: DataType, text: &str) -> Result<i64, ValueError> {
    let ms = match epoch_ms(text) {
        Some(ms) => ms,
        None => Scan(text.as_bytes())
            .moment()
            .ok_or_else(|| ValueError::unreadable(expected, text))?,
    };
    let in_range = (MIN_MS..=MAX_MS).contains(&ms);
    in_range
        .then_some(ms)
        .ok_or_else(|| ValueError::out_of_range(expected, text))
}

/// Years have four digits and, as in Postgres, none of them is 0.
fn checked_date(date: Date, text: &str) -> Result<Date, ValueError> {
    if date.year() < 1 {
        return Err(ValueError::out_of_range(DataType::Date, text));
    }
    Ok(date)
}

/// Epoch milliseconds as text: digits alone. More of them than fit are out of any range.
fn epoch_ms(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_integer.then(|| text.parse().unwrap_or(i64::MAX))
}

/// What is left to read of a text.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.0.first() == Some(&byte);
        if eaten {
            self.0 = &self.0[1..];
        }
        eaten
    }

    /// A number of exactly `width` digits, at most `max`.
    fn number(&mut self, width: usize, max: i64) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(width)?;
        let mut n = 0;
        for digit in digits {
            n = n * 10 + i64::from(char::from(*digit).to_digit(10)?);
        }
        self.0 = rest;
        (n <= max).then_some(n)
    }

    fn date(&mut self) -> Option<Date> {
        let year = self.number(4, 9999)?;
        let month = self.eat(b'-').then(|| self.number(2, 12))??;
        let day = self.eat(b'-').then(|| self.number(2, 31))??;
        Date::new(year as i16, month as i8, day as i8).ok()
    }

    /// A whole moment, up to the end of the text.
    fn moment(mut self) -> Option<i64> {
        let days = self.date()?.at(0, 0, 0, 0).duration_since(EPOCH).as_secs();
        if self.0.is_empty() {
            return Some(days * 1000);
        }
        if !(self.eat(b'T') || self.eat(b't') || self.eat(b' ')) {
            return None;
        }
        let (time, ms) = self.time()?;
        self.eat(b' ');
        let offset = self.offset()?;
        self.0
            .is_empty()
            .then_some((days + time - offset) * 1000 + ms)
    }

    /// `HH:MM[:SS[.fraction]]` as seconds and milliseconds. A leap second is the next minute's
    /// first.
    fn time(&mut self) -> Option<(i64, i64)> {
        let hour = self.number(2, 23)?;
        let minute = self.eat(b':').then(|| self.number(2, 59))??;
        let mut second = 0;
        let mut ms = 0;
        if self.eat(b':') {
            second = self.number(2, 60)?;
            if self.eat(b'.') || self.eat(b',') {
                ms = self.fraction()?;
            }
        }
        Some((hour * 3600 + minute * 60 + second, ms))
    }

    /// The digits after a decimal point, as whole milliseconds.
    fn fraction(&mut self) -> Option<i64> {
        let count = self.0.iter().take_while(|b| b.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let ms = [100, 10, 1]
            .iter()
            .zip(digits)
            .map(|(unit, digit)| unit * i64::from(digit - b'0'))
            .sum();
        (count > 0).then_some(ms)
    }

    /// `Z`, nothing, or `±HH[[:]MM[[:]SS]]`, as seconds east of UTC.
    fn offset(&mut self) -> Option<i64> {
        if self.0.is_empty() || self.eat(b'Z') || self.eat(b'z') {
            return Some(0);
        }
        let sign = if self.eat(b'-') {
            -1
        } else {
            self.eat(b'+').then_some(1)?
        };
        let mut seconds = self.number(2, 23)? * 3600;
        for unit in [60, 1] {
            if self.0.is_empty() {
                break;
            }
            self.eat(b':');
            seconds += self.number(2, 59)? * unit;
        }
        Some(sign * seconds)
    }
}
