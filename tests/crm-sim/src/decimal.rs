//! Decimal numbers as a CRM's database keeps them: exact, of so many digits behind the point.
//!
//! Guarantees: a half is rounded away from zero, as SQL Server and MySQL do; no number, however
//! long its exponent, costs more than its text.

use bigdecimal::{BigDecimal, RoundingMode};
use std::cmp::Ordering;
use std::str::FromStr;

/// Beyond these no CRM has a decimal column.
const MOST: f64 = 1e30;
const LEAST: f64 = 1e-30;

fn exact(text: &str) -> Option<BigDecimal> {
    let rough: f64 = text.trim().parse().ok()?;
    match rough.abs() {
        size if size >= MOST || size.is_nan() => None,
        size if size < LEAST => Some(BigDecimal::default()),
        _ => BigDecimal::from_str(text.trim()).ok(),
    }
}

/// The number with `digits` behind the point, at most `most` away from zero; `None`: it is none, or
/// too big.
pub fn rounded(text: &str, digits: u32, most: i64) -> Option<BigDecimal> {
    let number = exact(text)?.with_scale_round(i64::from(digits), RoundingMode::HalfUp);
    (number.abs() <= most).then_some(number)
}

/// The same number, written with at least `digits` behind the point.
pub fn padded(number: &str, digits: u32) -> Option<String> {
    let number = exact(number)?;
    let (_, scale) = number.as_bigint_and_exponent();
    let scale = scale.max(i64::from(digits));
    Some(number.with_scale(scale).to_plain_string())
}

/// As numbers, whatever they are written like.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    match (exact(a), exact(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.parse::<f64>().ok()?.partial_cmp(&b.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_goes_away_from_zero() {
        let round = |text: &str| rounded(text, 2, 100).map(|number| number.to_plain_string());
        for (text, held) in [
            ("12.345", "12.35"),
            ("-12.345", "-12.35"),
            ("12.344999999999999999999", "12.34"),
            ("1e-400", "0.00"),
            ("5", "5.00"),
            ("1.5e1", "15.00"),
        ] {
            assert_eq!(round(text).as_deref(), Some(held), "{text}");
        }
        for text in ["100.01", "1e400", "1e200000", "x", ""] {
            assert_eq!(round(text), None, "{text}");
        }
        assert_eq!(padded("12.5", 4).as_deref(), Some("12.5000"));
        assert_eq!(padded("12.34567", 4).as_deref(), Some("12.34567"));
        assert_eq!(compare("1.50", "1.5"), Some(Ordering::Equal));
        assert_eq!(
            compare("922337203685477.11", "922337203685477.12"),
            Some(Ordering::Less)
        );
    }
}
