//! What is blank, and text as CRMs store it.

use std::borrow::Cow;

/// What is blank, in the rules, in values and at vendors alike: Unicode's white space, and the
/// control characters that Java's `trim` takes for it.
pub fn is_blank(c: char) -> bool {
    c <= ' ' || c.is_whitespace()
}

/// The text that a CRM is sent for this one, which the rules are about; `None`: it is blank, and so
/// no value at all.
pub fn filled(text: &str) -> Option<Cow<'_, str>> {
    Some(canonical_text(text)).filter(|text| !text.is_empty())
}

/// Text as CRMs store it: CRLF and CR are LF, nothing blank around it. NUL, which Postgres cannot
/// hold, is dropped.
pub(super) fn canonical_text(text: &str) -> Cow<'_, str> {
    let text = text.trim_matches(is_blank);
    if !text.bytes().any(|b| b == b'\r' || b == 0) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(
        text.replace('\0', "")
            .replace("\r\n", "\n")
            .replace('\r', "\n"),
    )
}
