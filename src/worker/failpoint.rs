//! Named points at which a test build kills its own worker, as `kill -9` would, once per data directory.

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
    if !wanted.split(',').any(|w| w.trim() == point) {
        return;
    }
    // A point is passed once it has killed, or the worker would never get beyond it.
    let marker = format!("pg_crm.failpoint.{}", point.replace("::", "."));
    if std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(marker)
        .is_ok()
    {
        pgrx::log!("pg_crm dies at fail point {point}");
        // SAFETY: ends this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}
