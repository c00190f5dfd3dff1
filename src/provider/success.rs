//! The HTTP statuses that mean success, as the vendor documents them for each operation.
//!
//! Guarantees: nothing else is success. What comes with another status below 400 (the 200 of a
//! portal in the way, a redirection, a part of an answer, a promise to do it later) is a failure of
//! whatever was asked, to be tried again: it is neither taken for written nor for read.

pub(crate) type Success = &'static [u16];

/// Reads, token grants and whatever else is not named here.
pub(crate) const OK: Success = &[200];

/// CRM objects v3, OpenAPI files.
pub(crate) mod hubspot {
    use super::Success;

    pub const UPDATE: Success = &[200];
    pub const ARCHIVE: Success = &[204];
    /// 207: some of the records failed.
    pub const BATCH_READ: Success = &[200, 207];
    pub const BATCH_UPDATE: Success = &[200, 207];
    pub const BATCH_UPSERT: Success = &[200, 201, 207];
    pub const BATCH_ARCHIVE: Success = &[204, 207];
}

/// REST API Developer Guide; Bulk API 2.0 and Bulk API Developer Guide.
pub(crate) mod salesforce {
    use super::Success;

    pub const ROW_UPDATE: Success = &[204];
    pub const ROW_UPSERT: Success = &[200, 201];
    pub const ROW_DELETE: Success = &[204];
    pub const JOB_UPLOAD: Success = &[201];
    pub const JOB_DELETE: Success = &[204];
}

/// API v8, OpenAPI files.
pub(crate) mod zoho {
    use super::Success;

    /// 204: there is nothing to show.
    pub const LIST: Success = &[200, 204];
    /// 207: some of the records failed. That all of them did is told with 202 or 400.
    pub const WRITE: Success = &[200, 201, 207];
    pub const JOB_CREATE: Success = &[200, 201];
}

/// Dataverse Web API, "Compose HTTP requests and handle errors".
pub(crate) mod dynamics365 {
    use super::Success;

    pub const UPDATE: Success = &[204];
    /// 204: the record is not shown, though it was asked for; a header names it.
    pub const UPSERT: Success = &[200, 201, 204];
    pub const DELETE: Success = &[204];
}

/// API reference, versions 1 and 2.
pub(crate) mod pipedrive {
    use super::Success;

    pub const CREATE: Success = &[200, 201];
}
