//! The order in which CREATE EXTENSION runs the files of `sql/`: schemas and tables, then the
//! functions written in Rust, then what is made of both, and the rights last.

use pgrx::prelude::*;

extension_sql_file!("../sql/schemas.sql", name = "schemas", bootstrap);
extension_sql_file!(
    "../sql/tables/configuration.sql",
    name = "tables_configuration",
    requires = ["schemas"]
);
extension_sql_file!(
    "../sql/tables/records.sql",
    name = "tables_records",
    requires = ["tables_configuration"]
);
extension_sql_file!(
    "../sql/tables/outcomes.sql",
    name = "tables_outcomes",
    requires = ["tables_records"]
);
extension_sql_file!(
    "../sql/tables/ingestion.sql",
    name = "tables_ingestion",
    requires = ["tables_outcomes"]
);
extension_sql_file!(
    "../sql/tables/webhook_inbox.sql",
    name = "tables_webhook_inbox",
    requires = ["tables_ingestion"]
);
extension_sql_file!(
    "../sql/tables/worker.sql",
    name = "tables_worker",
    requires = ["tables_webhook_inbox"]
);
extension_sql_file!(
    "../sql/tables/dumped.sql",
    name = "tables_dumped",
    requires = ["tables_worker"]
);
extension_sql_file!(
    "../sql/arguments.sql",
    name = "arguments",
    requires = [
        "tables_dumped",
        "ask_comments",
        "bound_comments",
        "caller_comments",
        "cells_union",
        "check_comments",
        "compare_comments",
        "condition_comments",
        "counters_comments",
        "ddl_comments",
        "fit_comments",
        "home_comments",
        "keys_comments",
        "natural_key_comments",
        "records_comments",
        "trigger_comments",
        "rows_comments",
        "types_comments",
        "plan_comments",
        "values_comments",
        "wake_comments",
        "webhook_comments",
        "write_comments"
    ]
);
extension_sql_file!("../sql/cells.sql", name = "cells", requires = ["arguments"]);
extension_sql_file!("../sql/keys.sql", name = "keys", requires = ["cells"]);
extension_sql_file!(
    "../sql/expressions.sql",
    name = "expressions",
    requires = ["keys"]
);
extension_sql_file!(
    "../sql/rules.sql",
    name = "rules",
    requires = ["expressions"]
);
extension_sql_file!("../sql/capture.sql", name = "capture", requires = ["rules"]);
extension_sql_file!("../sql/guards.sql", name = "guards", requires = ["capture"]);
extension_sql_file!("../sql/types.sql", name = "types", requires = ["guards"]);
extension_sql_file!("../sql/binding.sql", name = "binding", requires = ["types"]);
extension_sql_file!(
    "../sql/recapture.sql",
    name = "recapture",
    requires = ["binding"]
);
extension_sql_file!("../sql/ddl.sql", name = "ddl", requires = ["recapture"]);
extension_sql_file!(
    "../sql/connections.sql",
    name = "connections",
    requires = ["ddl"]
);
extension_sql_file!("../sql/maps.sql", name = "maps", requires = ["connections"]);
extension_sql_file!("../sql/fields.sql", name = "fields", requires = ["maps"]);
extension_sql_file!(
    "../sql/descriptions.sql",
    name = "descriptions",
    requires = ["fields"]
);
extension_sql_file!(
    "../sql/links.sql",
    name = "links",
    requires = ["descriptions"]
);
extension_sql_file!("../sql/records.sql", name = "records", requires = ["links"]);
extension_sql_file!("../sql/match.sql", name = "match", requires = ["records"]);
extension_sql_file!("../sql/push.sql", name = "push", requires = ["match"]);
extension_sql_file!(
    "../sql/alterations.sql",
    name = "alterations",
    requires = ["links"]
);
extension_sql_file!(
    "../sql/exchange.sql",
    name = "exchange",
    requires = ["alterations"]
);
extension_sql_file!(
    "../sql/heroku_connect.sql",
    name = "heroku_connect",
    requires = ["exchange", "match"]
);
extension_sql_file!(
    "../sql/configuration.sql",
    name = "configuration",
    requires = ["push", "heroku_connect"]
);
extension_sql_file!(
    "../sql/restore.sql",
    name = "restore",
    requires = ["configuration"]
);
extension_sql_file!("../sql/audit.sql", name = "audit", requires = ["restore"]);
extension_sql_file!("../sql/counts.sql", name = "counts", requires = ["audit"]);
extension_sql_file!("../sql/status.sql", name = "status", requires = ["counts"]);
extension_sql_file!(
    "../sql/plan.sql",
    name = "plan",
    requires = ["map_status", "plan_comments"]
);
extension_sql_file!("../sql/fuse.sql", name = "fuse", requires = ["status"]);
extension_sql_file!(
    "../sql/map_status.sql",
    name = "map_status",
    requires = ["fuse"]
);
extension_sql_file!("../sql/pausing.sql", name = "pausing", requires = ["plan"]);
extension_sql_file!(
    "../sql/write_back.sql",
    name = "write_back",
    requires = ["pausing"]
);
extension_sql_file!(
    "../sql/real_time.sql",
    name = "real_time",
    requires = ["write_back"]
);
extension_sql_file!(
    "../sql/ingest.sql",
    name = "ingest",
    requires = ["real_time"]
);
extension_sql_file!(
    "../sql/snapshots.sql",
    name = "snapshots",
    requires = ["ingest"]
);
extension_sql_file!(
    "../sql/stub/schema.sql",
    name = "stub_schema",
    requires = ["snapshots"]
);
extension_sql_file!(
    "../sql/stub/records.sql",
    name = "stub_records",
    requires = ["stub_schema"]
);
extension_sql_file!(
    "../sql/stub/rules.sql",
    name = "stub_rules",
    requires = ["stub_records"]
);
extension_sql_file!(
    "../sql/stub/users.sql",
    name = "stub_users",
    requires = ["stub_rules"]
);
extension_sql_file!(
    "../sql/stub/faults.sql",
    name = "stub_faults",
    requires = ["stub_users"]
);
extension_sql_file!(
    "../sql/stub/requests.sql",
    name = "stub_requests",
    requires = ["stub_faults"]
);
extension_sql_file!(
    "../sql/stub/http.sql",
    name = "stub_http",
    requires = ["stub_requests"]
);
extension_sql_file!(
    "../sql/stub/fixtures.sql",
    name = "stub_fixtures",
    requires = ["stub_http"]
);
extension_sql_file!(
    "../sql/access.sql",
    name = "access",
    requires = ["stub_fixtures"]
);
extension_sql_file!("../sql/check.sql", name = "check", requires = ["access"]);
extension_sql_file!(
    "../sql/diagnosis.sql",
    name = "diagnosis",
    requires = ["check"]
);
extension_sql_file!(
    "../sql/metrics.sql",
    name = "metrics",
    requires = ["diagnosis"]
);
extension_sql_file!("../sql/final.sql", name = "final", finalize);
