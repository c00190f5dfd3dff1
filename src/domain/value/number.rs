//! Decimal numbers of any size, compared by value.
//!
//! A [`Number`] is its canonical text, so equality, hashing and printing cost nothing and no digit
//! is ever lost. All work is linear in the length of the text, whatever its exponent claims.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use super::ValueError;
use crate::DataType;

/// Plain notation is used up to this many digits, scientific beyond.
const PLAIN_DIGITS: i64 = 40;
/// What Postgres's `numeric` holds before and after the point.
const WHOLE_DIGITS: i64 = 131_072;
const FRACTION_DIGITS: i64 = 16_383;
/// Exponents beyond this are not told apart, so that sums of them do not overflow.
const EXPONENT_LIMIT: i64 = 1_000_000_000_000_000;

/// A decimal number within the limits of Postgres's `numeric`, as its canonical text: plain
/// notation without superfluous zeros, scientific where plain would take more than 40 digits.
/// Always valid JSON, never `-0`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Number(Box<str>);

impl Number {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number as an integer, if it is one.
    pub fn to_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// The greatest integer not above the number, if it fits.
    pub fn floor(&self) -> Option<i64> {
        let decimal = self.decimal();
        let digits = decimal.bytes().chain(std::iter::repeat(b'0'));
        let mut whole = 0_i128;
        for digit in digits.take(usize::try_from(decimal.point.clamp(0, 20)).ok()?) {
            whole = whole * 10 + i128::from(digit - b'0');
        }
        let has_fraction = decimal.digits() > decimal.point;
        let floor = if decimal.negative {
            -whole - i128::from(has_fraction)
        } else {
            whole
        };
        i64::try_from(floor).ok()
    }

    /// How many decimals it has; below zero: how many zeros it ends in.
    pub fn scale(&self) -> i64 {
        let decimal = self.decimal();
        decimal.digits() - decimal.point
    }

    /// How many digits it has before the point; below zero: how many zeros follow the point. Zero
    /// has no first digit.
    pub fn whole_digits(&self) -> Option<i64> {
        let decimal = self.decimal();
        (!decimal.is_zero()).then_some(decimal.point)
    }

    /// The number with so many decimals at most, rounded to the nearest; and whether it lay
    /// halfway, so that it went away from zero for want of a rule.
    pub fn rounded(&self, scale: u32) -> (Number, bool) {
        let mut is_half = false;
        let number = self.cut(scale, |dropped| {
            is_half = dropped == b"5";
            dropped[0] >= b'5'
        });
        (number, is_half)
    }

    /// Whether whoever keeps fewer decimals makes this number of the other, however they round.
    pub fn is_rounding_of(&self, exact: &Number) -> bool {
        let scale = self.scale().max(0);
        let Ok(kept) = u32::try_from(scale) else {
            return false;
        };
        scale < exact.scale()
            && (*self == exact.cut(kept, |_| false) || *self == exact.cut(kept, |_| true))
    }

    /// The number with so many decimals at most. `goes_away`: whether it goes away from zero, by
    /// the digits that are dropped, if there are any.
    fn cut(&self, scale: u32, goes_away: impl FnOnce(&[u8]) -> bool) -> Number {
        let decimal = self.decimal();
        let kept = decimal.point + i64::from(scale);
        if decimal.digits() <= kept {
            return self.clone();
        }
        let Ok(kept) = usize::try_from(kept) else {
            return Number::from(0);
        };
        let all: Vec<u8> = decimal.bytes().collect();
        let (kept, dropped) = all.split_at(kept);
        let mut digits = [b"0", kept].concat();
        if goes_away(dropped) {
            let nines = digits
                .iter()
                .rev()
                .take_while(|&&digit| digit == b'9')
                .count();
            let at = digits.len() - nines;
            digits[at - 1] += 1;
            digits[at..].fill(b'0');
        }
        let sign = if decimal.negative { "-" } else { "" };
        let text = format!("{sign}{}e-{scale}", String::from_utf8_lossy(&digits));
        text.parse().expect("it has no more digits than the number")
    }

    /// The number as whoever keeps a double gives it back: by the fewest digits that mean that
    /// double. `None`: no double is so large.
    pub fn as_double(&self) -> Option<Number> {
        let double: f64 = self.0.parse().ok()?;
        double
            .is_finite()
            .then(|| double.to_string().parse().ok())?
    }

    /// The same number in `serde_json`'s clothes.
    pub fn to_json(&self) -> serde_json::Number {
        to_json(&self.0)
    }

    fn decimal(&self) -> Decimal<'_> {
        Decimal::parse(&self.0).expect("a number's text is a number")
    }
}

impl FromStr for Number {
    type Err = ValueError;

    /// Reads what Postgres and JSON call a number; white space around it is allowed.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim_matches(super::blank::is_blank);
        if is_canonical(text) {
            return Ok(Number(text.into()));
        }
        let decimal =
            Decimal::parse(text).ok_or_else(|| ValueError::unreadable(DataType::Number, text))?;
        if decimal.point > WHOLE_DIGITS || decimal.digits() - decimal.point > FRACTION_DIGITS {
            return Err(ValueError::out_of_range(DataType::Number, text));
        }
        Ok(Number(decimal.to_string().into()))
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Number(n.to_string().into())
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        self.decimal().cmp(&other.decimal())
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The canonical spelling of a number of any size; `None` if the text is no number, or its exponent
/// is one that we do not tell from others.
pub(crate) fn canonical(text: &str) -> Option<Cow<'_, str>> {
    if is_canonical(text) {
        return Some(Cow::Borrowed(text));
    }
    let decimal = Decimal::parse(text)?;
    (decimal.point.abs() < EXPONENT_LIMIT).then(|| Cow::Owned(decimal.to_string()))
}

/// A `serde_json` number of that spelling, which must be JSON's.
pub(crate) fn to_json(canonical: &str) -> serde_json::Number {
    serde_json::Number::from_string_unchecked(canonical.to_owned())
}

/// Whether the text is spelt canonically in plain notation: true for most numbers there are, so
/// that they are taken as they come.
fn is_canonical(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    text.len() <= PLAIN_DIGITS as usize
        && text != "-0"
        && are_digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(|f| are_digits(f) && !f.ends_with('0'))
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A parsed number: ±0.`head``tail` × 10^`point`, where the digits neither begin nor end with a
/// zero (zero has none, and point 0). They are two slices of the text because a point may part
/// them.
struct Decimal<'a> {
    negative: bool,
    head: &'a str,
    tail: &'a str,
    point: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let is_number = (are_digits(whole) || are_digits(fraction))
            && (whole.is_empty() || are_digits(whole))
            && (fraction.is_empty() || are_digits(fraction));
        let exponent = exponent.map_or(Some(0), read_exponent)?;
        if !is_number {
            return None;
        }

        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let (head, tail, point) = if whole.is_empty() {
            let tail = fraction.trim_start_matches('0');
            ("", tail, -((fraction.len() - tail.len()) as i64))
        } else if fraction.is_empty() {
            (whole.trim_end_matches('0'), "", whole.len() as i64)
        } else {
            (whole, fraction, whole.len() as i64)
        };
        if head.is_empty() && tail.is_empty() {
            return Some(Decimal {
                negative: false,
                head,
                tail,
                point: 0,
            });
        }
        Some(Decimal {
            negative,
            head,
            tail,
            point: point + exponent,
        })
    }

    fn digits(&self) -> i64 {
        (self.head.len() + self.tail.len()) as i64
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.head.bytes().chain(self.tail.bytes())
    }

    fn is_zero(&self) -> bool {
        self.digits() == 0
    }

    fn magnitude(&self, other: &Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (false, false) => self
                .point
                .cmp(&other.point)
                .then_with(|| self.bytes().cmp(other.bytes())),
            (mine, theirs) => theirs.cmp(&mine),
        }
    }

    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude(other),
            (true, true) => other.magnitude(self),
            (mine, theirs) => theirs.cmp(&mine),
        }
    }
}

/// Reads an exponent; what is beyond the limit counts as twice the limit, whatever its digits.
fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let bound = 2 * EXPONENT_LIMIT;
    let magnitude = || digits.parse().unwrap_or(bound).min(bound);
    let sign = if text.starts_with('-') { -1 } else { 1 };
    are_digits(digits).then(|| sign * magnitude())
}

impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.negative {
            f.write_str("-")?;
        }
        let digits = [self.head, self.tail].concat();
        let (count, point) = (self.digits(), self.point);
        let plain_digits = if point > 0 {
            count.max(point)
        } else {
            1 - point + count
        };
        if plain_digits > PLAIN_DIGITS {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            write!(f, "{first}{dot}{rest}e{:+}", point - 1)
        } else if point <= 0 {
            write!(f, "0.{:0<1$}{digits}", "", -point as usize)
        } else if point >= count {
            write!(f, "{digits:0<0$}", point as usize)
        } else {
            let (whole, fraction) = digits.split_at(point as usize);
            write!(f, "{whole}.{fraction}")
        }
    }
}
