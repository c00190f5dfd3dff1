//! Named points at which a test build kills itself, or the postmaster, as `kill -9` would, once per data directory.
//!
//! `pg_crm.failpoints` names points, separated by commas. `point` kills the process that gets there;
//! `point:postmaster` kills the postmaster, and with it everything.

/// Dies here if `pg_crm.failpoints` names this point. Compiles to nothing in a released build.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_point: &str) {}

#[cfg(feature = "failpoints")]
pub fn reach(point: &str) {
    let wanted = crate::settings::FAILPOINTS.get();
    let Some(wanted) = wanted.as_deref().and_then(|w| w.to_str().ok()) else {
        return;
    };
    let Some(victim) = wanted.split(',').map(str::trim).find_map(|w| {
        let rest = w.strip_prefix(point)?;
        (rest.is_empty() || rest.starts_with(':')).then_some(rest)
    }) else {
        return;
    };
    // A point is passed once it has killed, or the process would never get beyond it.
    let marker = format!("pg_crm.failpoint.{}", point.replace("::", "."));
    if std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(marker)
        .is_ok()
    {
        pgrx::log!("pg_crm dies at fail point {point}{victim}");
        // SAFETY: ends this process, or the one that started it.
        unsafe {
            if victim == ":postmaster" {
                libc::kill(pgrx::pg_sys::PostmasterPid, libc::SIGKILL);
            }
            libc::kill(libc::getpid(), libc::SIGKILL)
        };
    }
}
