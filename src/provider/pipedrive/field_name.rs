//! Names of fields: whether one names a field, a part of one, a custom field, a list or a place.

/// Lists of addresses of a person, of which one is the primary one.
pub(super) const LISTS: [&str; 3] = ["emails", "phones", "ims"];
/// Fields that hold a place; its text is what can be written.
pub(super) const PLACES: [&str; 3] = ["address", "postal_address", "location"];
/// Parts that one cannot be written without the others. The rest of a place is derived from its
/// text.
pub(super) const PARTS: [&str; 5] = ["value", "amount", "currency", "until", "timezone_name"];

/// Whether a name is the key of a custom field.
pub(super) fn is_custom(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether an own field is a list of addresses or a place, which JSON alone holds as a whole.
pub(super) fn is_composite(name: &str) -> bool {
    LISTS.contains(&name) || PLACES.contains(&name)
}

/// The field that a name means, and the part of it.
pub(super) fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once('.') {
        Some((field, part)) => (field, Some(part)),
        None => (name, None),
    }
}
