//! Bytes as two lower-case hexadecimal digits each, for JSON.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub fn append(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        text.push(DIGITS[usize::from(byte >> 4)]);
        text.push(DIGITS[usize::from(byte & 15)]);
    }
}

pub fn encode(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(2 * bytes.len());
    append(&mut text, bytes);
    String::from_utf8(text).expect("digits are ASCII")
}

/// `None` if these are not the digits of so many bytes.
pub fn decode<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(encode(&[0, 255, 16]), "00ff10");
        assert_eq!(decode::<3>(&encode(&[0, 255, 16])), Some([0, 255, 16]));
        for wrong in ["00", "0000zz", "00000000", "0000é"] {
            assert_eq!(decode::<3>(wrong), None, "{wrong}");
        }
    }
}
