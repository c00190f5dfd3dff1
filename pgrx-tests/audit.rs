//! The audit log: appended to, never rewritten, by month.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    #[pg_test]
    fn the_audit_is_append_only() {
        run(
            "INSERT INTO crm.audit_log (connection, provider, record_key, path, operation, result)
             VALUES ('c', 'stub', 'append-only', 'batch', 'update', 'applied')",
        );
        for statement in [
            "UPDATE crm.audit_log SET result = 'dead' WHERE record_key = 'append-only'",
            "DELETE FROM crm.audit_log WHERE record_key = 'append-only'",
        ] {
            refuses(
                statement,
                &[
                    "42501",
                    "crm.audit_log is append-only",
                    "pg_crm.audit_retention",
                ],
            );
        }
    }

    #[pg_test]
    fn an_attempt_of_any_time_has_a_partition() {
        run(
            "INSERT INTO crm.audit_log (at, connection, provider, path, operation, result)
             SELECT at, 'c', 'stub', 'batch', 'update', 'applied'
             FROM unnest('{1999-01-01, now, 2999-01-01}'::timestamptz[]) at",
        );
        assert_eq!(
            value(
                "SELECT count(*) FROM crm.audit_log WHERE connection = 'c' AND at < '2000-01-01'"
            ),
            "1"
        );
    }
}
