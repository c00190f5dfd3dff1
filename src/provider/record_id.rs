//! What the ids of a CRM's records look like, so that a text which cannot be one is not taken for
//! one.

use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordIdForm {
    /// Any text that is not blank.
    Text,
    Digits,
    /// 15 or 18 ASCII letters and digits.
    Salesforce,
    Uuid,
    DigitsOrUuid,
}

impl RecordIdForm {
    pub fn fits(self, id: &str) -> bool {
        match self {
            RecordIdForm::Text => !id.trim().is_empty() && !id.chars().any(char::is_control),
            // With zeros before it, it would be another spelling of the same id.
            RecordIdForm::Digits => {
                let are_digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
                are_digits && (id == "0" || !id.starts_with('0'))
            }
            RecordIdForm::Salesforce => {
                matches!(id.len(), 15 | 18) && id.bytes().all(|b| b.is_ascii_alphanumeric())
            }
            RecordIdForm::Uuid => is_uuid(id),
            RecordIdForm::DigitsOrUuid => RecordIdForm::Digits.fits(id) || is_uuid(id),
        }
    }
}

fn is_uuid(id: &str) -> bool {
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    lengths == [8, 4, 4, 4, 12] && id.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// As after "an id is".
impl fmt::Display for RecordIdForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordIdForm::Text => "a text",
            RecordIdForm::Digits => "a number without leading zeros",
            RecordIdForm::Salesforce => "15 or 18 letters and digits",
            RecordIdForm::Uuid => "a GUID",
            RecordIdForm::DigitsOrUuid => "a number without leading zeros, or a UUID",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::RecordIdForm::*;

    #[test]
    fn ids_have_the_form_of_their_crm() {
        let uuid = "0f0f0f0f-1234-abcd-ABCD-0123456789ab";
        for (form, fits, does_not) in [
            (Text, &["contact-1", "é"][..], &["", " ", "a\nb"][..]),
            (
                Digits,
                &["0", "101", "10000000001"],
                &[
                    "", "-1", "1.0", "x", "١", "0101", "00", " 101", "+101", "1e2",
                ],
            ),
            (
                Salesforce,
                &["003Hs0000000001", "003Hs0000000001IAA"],
                &[
                    "003Hs000000000",
                    "003Hs0000000001IA",
                    "003Hs000000000-",
                    uuid,
                ],
            ),
            (
                Uuid,
                &[uuid],
                &[
                    "1",
                    "0f0f0f0f1234abcdABCD0123456789ab",
                    "0f0f0f0f-1234-abcd-ABCD-0123456789aG",
                ],
            ),
            (DigitsOrUuid, &["7", uuid], &["", "7-", "seven", "07"]),
        ] {
            for id in fits {
                assert!(form.fits(id), "{form:?} {id}");
            }
            for id in does_not {
                assert!(!form.fits(id), "{form:?} {id}");
            }
        }
    }
}
