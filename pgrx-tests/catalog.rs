//! Laws over everything that pg_crm puts into the catalog.

#[pgrx::pg_schema]
mod tests {
    use pgrx::prelude::*;

    use super::super::fixture::*;

    const NOTHING: [&str; 0] = [];
    /// What belongs to the extension in its schemas.
    const FUNCTIONS: &str = "pg_proc p WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace)";
    const RELATIONS: &str = "pg_class c WHERE c.relnamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace, 'crm_stub'::regnamespace)";

    #[pg_test]
    fn whatever_runs_as_its_owner_pins_search_path() {
        let map = mapped("t", &["a text"]);
        assert_eq!(
            rows(&format!(
                "SELECT p.oid::regprocedure FROM {FUNCTIONS} AND p.prosecdef
                 AND NOT EXISTS (SELECT FROM unnest(p.proconfig) s WHERE s IN ('search_path=pg_catalog, pg_temp', 'search_path=pg_catalog, crm_stub, pg_temp'))"
            )),
            NOTHING
        );
        assert_eq!(
            value(&format!(
                "SELECT prosecdef FROM pg_proc WHERE oid = 'crm_internal.capture_{map}()'::regprocedure"
            )),
            "true"
        );
    }

    #[pg_test]
    fn everything_has_a_comment() {
        mapped("t", &["a text"]);
        assert_eq!(
            rows(&format!(
                "SELECT p.oid::regprocedure::text FROM {FUNCTIONS} AND obj_description(p.oid, 'pg_proc') IS NULL
                 UNION ALL
                 SELECT c.oid::regclass::text FROM {RELATIONS} AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
                 AND obj_description(c.oid, 'pg_class') IS NULL
                 UNION ALL
                 SELECT n.nspname FROM pg_namespace n WHERE n.nspname IN ('crm', 'crm_internal', 'crm_stub') AND obj_description(n.oid, 'pg_namespace') IS NULL"
            )),
            NOTHING
        );
    }

    #[pg_test]
    fn functions_promise_no_more_than_they_keep() {
        // These are computed from their arguments alone.
        assert_eq!(
            rows("SELECT p.proname FROM pg_proc p WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND p.provolatile = 'i'
                  AND p.proname <> ALL ('{hash,natural_key,base_sent,snapshot_hashes,canonical_id,record_id_trouble,default_trouble,members,require_names,cell_mask,text_length,filled,words,canonical_object,cell_is_set,cells_and,cells_minus,cells_or,cells_union,cells_has,cells_count,cells_stamp,cells_synced,
                                         cells_merge,cells_hash,change_target,change_part,check_choice,check_interval,check_rules,mask_expression,
                                         check_credentials,check_connection,judge_mapping,is_unknown_object,described_field,folded_key,merged,flow,destination,differences,held_reason,without_hashes,at_least,duration_bounds,metric_families}')"),
            NOTHING
        );
        // Whatever changes something is volatile.
        assert_eq!(
            rows("SELECT p.proname FROM pg_proc p WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND p.provolatile <> 'v'
                  AND p.proname = ANY ('{create_connection,set_credentials,test_connection,describe,records,match,check_mapping,map_object,map_field,unmap_field,import_heroku_connect,
                       unmap_object,drop_connection,link,flush,write,read_live,resolve_conflict,cancel_write,pause,resume,replay,replay_all,grant_access,adopt_connections,recapture,push,cancel_push,enable,disable,plan,alter_connection,alter_map,alter_field,discard,resolve_conflicts,install_capture,bind_map}')"),
            NOTHING
        );
        // Whatever depends on nothing but its arguments may run in parallel, and what talks to the
        // worker may not.
        assert_eq!(
            rows("SELECT format('%s %s%s', proname, provolatile, proparallel) FROM pg_proc
                  WHERE pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND proname = ANY ('{hash,snapshot,check,ask_worker}') ORDER BY 1"),
            ["ask_worker vu", "check vu", "hash is", "snapshot su"]
        );
    }

    #[pg_test]
    fn a_dump_takes_the_mapping_and_the_state_but_no_secret() {
        assert_eq!(
            rows(
                "SELECT c.oid::regclass FROM pg_extension e, unnest(e.extconfig) t, pg_class c
                  WHERE e.extname = 'pg_crm' AND c.oid = t ORDER BY c.relkind DESC, c.relname"
            ),
            [
                "crm.audit_log_default",
                "crm.change",
                "crm.conflict",
                "crm.connection",
                "crm.dead_letter",
                "crm.field_map",
                "crm.former_link",
                "crm.fuse",
                "crm.ingest_state",
                "crm.ledger",
                "crm.mismatched_key",
                "crm.object_map",
                "crm.orphaned_create",
                "crm.overwritten_cell",
                "crm.pending_write",
                "crm.queue",
                "crm.refetch",
                "crm.scan_request",
                "crm.unseen_write",
                "crm.webhook_inbox",
                "crm.audit_log_audit_id_seq",
                "crm.change_change_id_seq",
                "crm.conflict_conflict_id_seq",
                "crm.connection_connection_id_seq",
                "crm.dead_letter_dead_letter_id_seq",
                "crm.object_map_map_id_seq",
                "crm.queue_revision_seq",
                "crm.refetch_revision_seq",
                "crm.scan_request_request_id_seq",
                "crm.webhook_inbox_inbox_id_seq",
            ]
        );
    }

    #[pg_test]
    fn the_primary_keys_of_records_begin_with_the_shard() {
        assert_eq!(
            rows("SELECT c.relname FROM pg_attribute k JOIN pg_class c ON c.oid = k.attrelid JOIN pg_index i ON i.indrelid = c.oid
                  WHERE c.relnamespace = 'crm'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
                    AND k.attname = 'shard_key' AND i.indisprimary AND i.indkey[0] <> k.attnum"),
            NOTHING
        );
    }
}
