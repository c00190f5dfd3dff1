//! Settings that end with a piece of work, whatever it sets and whichever way it ends.

use std::ffi::CStr;

use pgrx::prelude::*;

/// What is set while it lives is undone when it is dropped, also by `SET` and by `set_config(…,
/// false)`; what was set before stays, also by `SET LOCAL`.
pub struct SettingsScope {
    level: i32,
}

const PINNED: &CStr = c"pg_catalog, pg_temp";

impl SettingsScope {
    pub fn begin() -> SettingsScope {
        // SAFETY: a counter; ended below, or by the end of the (sub)transaction.
        let level = unsafe { pg_sys::NewGUCNestLevel() };
        SettingsScope { level }
    }

    /// Names are resolved in pg_catalog alone.
    pub fn pin_search_path(&self) {
        // SAFETY: reads and sets a setting that always exists.
        unsafe {
            // In the worker it is so already, and setting it would have the path looked up anew.
            let now = pg_sys::GetConfigOption(c"search_path".as_ptr(), false, false);
            if !now.is_null() && CStr::from_ptr(now) == PINNED {
                return;
            }
            pg_sys::set_config_option(
                c"search_path".as_ptr(),
                PINNED.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_SAVE,
                true,
                0,
                false,
            );
        }
    }
}

impl Drop for SettingsScope {
    fn drop(&mut self) {
        // SAFETY: ends this level and those within that an error left open; a (sub)transaction that
        // is aborted afterwards finds nothing left to do.
        unsafe { pg_sys::AtEOXact_GUC(false, self.level) }
    }
}
