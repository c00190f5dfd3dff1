//! How large a value is that nobody has loaded: a toasted one is not fetched, nor a compressed one
//! unpacked.

use pgrx::prelude::*;

/// The bytes of a value of variable length, taken from a result in place of the value itself.
pub struct RawSize(pub usize);

impl FromDatum for RawSize {
    unsafe fn from_polymorphic_datum(
        datum: pg_sys::Datum,
        is_null: bool,
        _: pg_sys::Oid,
    ) -> Option<Self> {
        (!is_null).then(|| {
            // SAFETY: callers ask for columns of variable length only; the header has the size,
            // wherever the rest is.
            let with_header = unsafe { pg_sys::toast_raw_datum_size(datum) };
            RawSize(with_header.saturating_sub(pg_sys::VARHDRSZ))
        })
    }
}

impl IntoDatum for RawSize {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        None
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::InvalidOid
    }

    fn is_compatible_with(_: pg_sys::Oid) -> bool {
        true
    }
}
