//! Salesforce ids: 15 characters that differ by case, and three more that say which are upper case.
//!
//! Guarantees: what `spell` makes, `parse` takes back, in 15 or 18 characters and, in the latter
//! form, in any case.

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const SUFFIX: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";
/// Between the key prefix and the number: which instance made the record.
const INSTANCE: &str = "Hs";

pub fn spell(prefix: &str, slot: u32) -> String {
    number(prefix, u64::from(slot) + 1)
}

fn number(prefix: &str, mut number: u64) -> String {
    let mut digits = [b'0'; 10];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 62) as usize];
        number /= 62;
    }
    let mut id = String::with_capacity(18);
    id.push_str(prefix);
    id.push_str(INSTANCE);
    id.push_str(std::str::from_utf8(&digits).expect("digits are ASCII"));
    let suffix = suffix(id.as_bytes());
    id.push_str(&suffix);
    id
}

/// Prefix and slot of a well-formed id.
pub fn parse(id: &str) -> Option<(String, u32)> {
    let id = canonical(id)?;
    let prefix = id.get(..3)?.to_owned();
    let digits = id.get(3..15)?.strip_prefix(INSTANCE)?;
    let mut number = 0u64;
    for byte in digits.bytes() {
        number = number
            .checked_mul(62)?
            .checked_add(u64::from(digit(byte)?))?;
    }
    let slot = u32::try_from(number.checked_sub(1)?).ok()?;
    Some((prefix, slot))
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'Z' => Some(byte - b'A' + 10),
        b'a'..=b'z' => Some(byte - b'a' + 36),
        _ => None,
    }
}

/// Whether it could be an id of anything.
pub fn well_formed(id: &str) -> bool {
    canonical(id).is_some()
}

/// The 18 character form in its right case.
pub fn canonical(id: &str) -> Option<String> {
    if !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    match id.len() {
        15 => Some(format!("{id}{}", suffix(id.as_bytes()))),
        18 => {
            let mut chars: Vec<u8> = id[..15].bytes().collect();
            for (chunk, code) in chars
                .chunks_mut(5)
                .zip(id[15..].to_ascii_uppercase().bytes())
            {
                let bits = SUFFIX.iter().position(|suffix| *suffix == code)?;
                for (at, byte) in chunk.iter_mut().enumerate() {
                    let upper = bits >> at & 1 == 1;
                    match upper {
                        true if byte.is_ascii_alphabetic() => byte.make_ascii_uppercase(),
                        true => return None,
                        false => byte.make_ascii_lowercase(),
                    }
                }
            }
            let base = String::from_utf8(chars).ok()?;
            Some(format!("{base}{}", id[15..].to_ascii_uppercase()))
        }
        _ => None,
    }
}

fn suffix(id: &[u8]) -> String {
    let code = |chunk: &[u8]| {
        let upper = chunk.iter().enumerate();
        let bits = upper.map(|(at, byte)| usize::from(byte.is_ascii_uppercase()) << at);
        char::from(SUFFIX[bits.sum::<usize>()])
    };
    id.chunks(5).map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_is_the_vendors() {
        // From Salesforce's own examples of the 15 and 18 character forms.
        assert_eq!(canonical("001D000000IqhSL").unwrap(), "001D000000IqhSLIAZ");
        assert_eq!(
            canonical("001d000000iqhsliaz").unwrap(),
            "001D000000IqhSLIAZ"
        );
    }

    #[test]
    fn spelled_ids_parse_back() {
        for slot in [0, 1, 61, 62, 5_000_000] {
            let id = spell("003", slot);
            assert_eq!(id.len(), 18);
            for form in [id.clone(), id[..15].to_owned(), id.to_lowercase()] {
                assert_eq!(parse(&form), Some(("003".to_owned(), slot)), "{form}");
            }
        }
        assert_eq!(parse("003zzz"), None);
        assert!(!well_formed("not-an-id-at-all"));
    }
}
