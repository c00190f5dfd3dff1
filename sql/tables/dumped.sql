-- What pg_dump dumps: the mapping and the state of every record, never a credential.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['crm.connection', 'crm.object_map', 'crm.field_map', 'crm.change', 'crm.ledger', 'crm.queue',
                             'crm.pending_write', 'crm.conflict', 'crm.dead_letter', 'crm.audit_log_default',
                             'crm.ingest_state', 'crm.refetch', 'crm.overwritten_cell', 'crm.unseen_write', 'crm.scan_request', 'crm.fuse', 'crm.former_link',
                                 'crm.orphaned_create',
                             'crm.mismatched_key', 'crm.refetch_revision_seq', 'crm.scan_request_request_id_seq',
                             'crm.connection_connection_id_seq', 'crm.object_map_map_id_seq', 'crm.change_change_id_seq',
                                 'crm.queue_revision_seq',
                             'crm.conflict_conflict_id_seq', 'crm.dead_letter_dead_letter_id_seq', 'crm.audit_log_audit_id_seq']
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(t, '');
    END LOOP;
END $$;

SELECT pg_catalog.pg_extension_config_dump('crm.webhook_inbox', '');
SELECT pg_catalog.pg_extension_config_dump('crm.webhook_inbox_inbox_id_seq', '');
