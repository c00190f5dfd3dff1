-- The audit log: append-only, partitioned by month.

CREATE FUNCTION crm_internal.refuse_audit_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = 'crm.audit_log is append-only',
        HINT = 'Old months are dropped according to pg_crm.audit_retention.';
END $$;
COMMENT ON FUNCTION crm_internal.refuse_audit_change() IS 'trigger: raises insufficient_privilege (42501), the audit log is append-only';
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON crm.audit_log FOR EACH ROW EXECUTE FUNCTION crm_internal.refuse_audit_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON crm.audit_log FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_audit_change();
CREATE TRIGGER never_emptied BEFORE TRUNCATE ON crm.audit_log_default
    FOR EACH STATEMENT EXECUTE FUNCTION crm_internal.refuse_audit_change();

CREATE FUNCTION crm_internal.maintain_audit(retention interval) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    month timestamptz;
    p record;
BEGIN
    -- Months in UTC, so that the bounds do not depend on the session.
    FOR month IN SELECT date_trunc('month', now() AT TIME ZONE 'UTC') + i * interval '1 month' FROM generate_series(0, 2) i LOOP
        CONTINUE WHEN to_regclass(format('crm.audit_log_%s', to_char(month, 'YYYY_MM'))) IS NOT NULL
            OR EXISTS (SELECT FROM ONLY crm.audit_log_default d WHERE d.at >= month AND d.at < month + interval '1 month');
        -- As ATTACH PARTITION does, but before it is looked again: another session may have added a row that is committed by now.
        LOCK TABLE ONLY crm.audit_log_default IN ACCESS EXCLUSIVE MODE;
        IF NOT EXISTS (SELECT FROM ONLY crm.audit_log_default d WHERE d.at >= month AND d.at < month + interval '1 month') THEN
            EXECUTE format('CREATE TABLE crm.%I (LIKE crm.audit_log_default INCLUDING ALL EXCLUDING IDENTITY)', 'audit_log_' || to_char(month, 'YYYY_MM'));
            EXECUTE format('CREATE TRIGGER never_emptied BEFORE TRUNCATE ON crm.%I FOR EACH STATEMENT '
                           'EXECUTE FUNCTION crm_internal.refuse_audit_change()', 'audit_log_' || to_char(month, 'YYYY_MM'));
            PERFORM crm_internal.revoke_grants('pg_class'::regclass, c.oid) FROM pg_class c
            WHERE c.relnamespace = 'crm'::regnamespace AND c.relname = 'audit_log_' || to_char(month, 'YYYY_MM');
            EXECUTE format('ALTER TABLE crm.audit_log ATTACH PARTITION crm.%I FOR VALUES FROM (%L) TO (%L)',
                           'audit_log_' || to_char(month, 'YYYY_MM'), month, month + interval '1 month');
        END IF;
    END LOOP;
    IF retention > interval '0' THEN
        FOR p IN
            SELECT c.relname, to_timestamp(substr(c.relname, 11), 'YYYY_MM') + interval '1 month' AS until
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
            WHERE i.inhparent = 'crm.audit_log'::regclass AND c.relname ~ '^audit_log_[0-9]{4}_[0-9]{2}$'
        LOOP
            IF p.until < now() - retention THEN
                EXECUTE format('DROP TABLE crm.%I CASCADE', p.relname);
                INSERT INTO crm.audit_log_retired (until) VALUES (p.until) ON CONFLICT DO NOTHING;
            END IF;
        END LOOP;
    END IF;
END $$;
COMMENT ON FUNCTION crm_internal.maintain_audit(interval) IS
    'creates the partitions of this and the next two months, drops those older than the retention (0: none)';
