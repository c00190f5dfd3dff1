-- Connections and mappings. These tables are small enough to be copied to every node of a sharded deployment.
--
-- No foreign key joins them to per-record tables: unmap_object() removes what belongs to a map. Nor does one join tables that pg_dump takes
-- along: see sql/configuration.sql.

CREATE TABLE crm.connection (
    connection_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL UNIQUE CHECK (name <> ''),
    provider      text NOT NULL,
    base_url      text,
    options       jsonb NOT NULL DEFAULT '{}',
    paused        bool NOT NULL DEFAULT false,
    home          text NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.connection IS 'CRM orgs, each reached with one set of credentials; created by crm.create_connection(), changed by crm.alter_connection()';
COMMENT ON COLUMN crm.connection.base_url IS 'base URL of the API; NULL: the default of the provider';
COMMENT ON COLUMN crm.connection.options IS
    'max_in_flight (requests at once, default 4), rate_limit ({"requests": 100, "seconds": 10}), realtime_reserve (part of each budget '
    'kept for real-time writes, default 0.2), api_version and other keys of the provider';
COMMENT ON COLUMN crm.connection.paused IS 'true: nothing is sent, work is queued (crm.pause(), crm.resume())';
COMMENT ON COLUMN crm.connection.home IS
    'the database that sends over it, as crm.home() identifies it; in any other one it waits for crm.adopt_connections()';

CREATE TABLE crm.credential (
    connection_id int PRIMARY KEY REFERENCES crm.connection ON DELETE CASCADE,
    secret        jsonb NOT NULL DEFAULT '{}',
    version       int NOT NULL DEFAULT 1,
    updated_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.credential IS 'secrets of connections, or references to them ({"file": …}, {"env": …}); superusers only, never dumped';

CREATE TABLE crm.object_map (
    map_id            int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    connection_id     int NOT NULL,
    relation          regclass NOT NULL,
    crm_object        text NOT NULL CHECK (crm_object <> ''),
    key_column        name NOT NULL,
    shard_column      name,
    external_id_field text,
    on_insert         text NOT NULL DEFAULT 'ignore' CHECK (on_insert IN ('ignore', 'create')),
    on_delete         text NOT NULL DEFAULT 'ignore' CHECK (on_delete IN ('ignore', 'unlink', 'delete')),
    on_crm_insert     text NOT NULL DEFAULT 'ignore' CHECK (on_crm_insert IN ('ignore', 'insert')),
    on_crm_delete     text NOT NULL DEFAULT 'unlink' CHECK (on_crm_delete IN ('ignore', 'unlink', 'delete')),
    conflict_scope    text NOT NULL DEFAULT 'record' CHECK (conflict_scope IN ('record', 'fields')),
    write_interval    interval NOT NULL DEFAULT '15 minutes'
                      CHECK (write_interval BETWEEN interval '1 minute' AND interval '24 hours'),
    ingest_interval   interval NOT NULL DEFAULT '1 minute'
                      CHECK (ingest_interval BETWEEN interval '1 minute' AND interval '24 hours'),
    next_field_id     smallint NOT NULL DEFAULT 0,
    key_is_case_sensitive    bool,
    key_max_length    int,
    capture           text NOT NULL DEFAULT 'origin' CHECK (capture IN ('origin', 'always')),
    ingest            text CHECK (ingest IN ('on', 'off')),
    enabled           bool NOT NULL DEFAULT true,
    disabled_as_of    jsonb,
    keys_changed      text,
    paused            bool NOT NULL DEFAULT false,
    filter            text,
    on_filter_out     text NOT NULL DEFAULT 'ignore' CHECK (on_filter_out IN ('ignore', 'unlink', 'delete')),
    filter_columns    name[],
    UNIQUE (connection_id, relation, crm_object)
);
COMMENT ON TABLE crm.object_map IS 'tables mapped to CRM objects; created by crm.map_object(), changed by crm.alter_map()';
COMMENT ON COLUMN crm.object_map.key_column IS 'column that identifies a row; its text is the record_key';
COMMENT ON COLUMN crm.object_map.external_id_field IS 'CRM field that holds the record_key; created records are upserted by it';
COMMENT ON COLUMN crm.object_map.key_is_case_sensitive IS
    'whether the CRM compares its external_id_field case-sensitively, as it reported when a field was mapped; NULL: not reported';
COMMENT ON COLUMN crm.object_map.key_max_length IS
    'maximum length of the external_id_field in characters, as the CRM reported; NULL: not reported';
COMMENT ON COLUMN crm.object_map.capture IS
    'origin: edits of ordinary sessions are captured; always: also those of subscriptions and of session_replication_role = replica '
    '(crm.alter_map())';
COMMENT ON COLUMN crm.object_map.ingest IS
    'whether the CRM''s changes are read: on | off; NULL: on if something is to be done with them (see crm.map_object())';
COMMENT ON COLUMN crm.object_map.enabled IS
    'false: edits of the table are not captured, and nothing is sent or read (crm.enable(), crm.disable())';
COMMENT ON COLUMN crm.object_map.disabled_as_of IS
    'what crm.enable() needs to find the edits made since crm.disable(): {"home", "files", "snapshot"}, as crm_internal.table_as_of() '
    'made it; NULL: the map is enabled, or never was';
COMMENT ON COLUMN crm.object_map.keys_changed IS
    'which DDL may have changed the keys of its rows, and the remedy: the map is stopped; NULL: none, or crm.alter_map() confirmed '
    'that no key changed';
COMMENT ON COLUMN crm.object_map.paused IS 'true: nothing is sent or read, edits are queued (crm.pause(), crm.resume())';
COMMENT ON COLUMN crm.object_map.filter IS
    'an SQL condition over columns of the table: only rows that satisfy it are mapped; NULL: all rows';
COMMENT ON COLUMN crm.object_map.on_filter_out IS
    'what happens when a row leaves the filter: ignore (it stays linked, its edits are not sent) | unlink | delete (the CRM record)';
COMMENT ON COLUMN crm.object_map.filter_columns IS 'the columns that the filter reads';
COMMENT ON COLUMN crm.object_map.write_interval IS 'how often changed outbound cells are written back, 1 minute .. 24 hours';

CREATE TABLE crm.field_map (
    map_id        int NOT NULL,
    field_id      smallint NOT NULL,
    column_name   name NOT NULL,
    crm_field     text NOT NULL CHECK (crm_field <> ''),
    direction     text NOT NULL DEFAULT 'bidirectional'
                  CHECK (direction IN ('outbound', 'bidirectional', 'inbound')),
    data_type     text NOT NULL,
    validation    jsonb NOT NULL DEFAULT '{}',
    on_conflict   text NOT NULL DEFAULT 'crm_wins'
                  CHECK (on_conflict IN ('crm_wins', 'local_wins', 'merge_with_audit', 'manual_review',
                                         'immutable_after_bind', 'last_writer_wins')),
    transform_out regprocedure,
    transform_in  regprocedure,
    materialize   bool NOT NULL DEFAULT true,
    send_null     bool NOT NULL DEFAULT true,
    create_only   bool NOT NULL DEFAULT false,
    create_default jsonb,
    described     jsonb,
    PRIMARY KEY (map_id, field_id),
    UNIQUE (map_id, column_name),
    UNIQUE (map_id, crm_field)
);
COMMENT ON TABLE crm.field_map IS 'columns mapped to CRM fields; created by crm.map_field(), changed by crm.alter_field()';
COMMENT ON COLUMN crm.field_map.field_id IS 'position of the cell in the arrays of crm.ledger; never reused for another column';
COMMENT ON COLUMN crm.field_map.materialize IS 'false: mapped and validated, but not written back';
COMMENT ON COLUMN crm.field_map.send_null IS 'false: an empty cell is never sent, so that the CRM field is not cleared';
COMMENT ON COLUMN crm.field_map.create_only IS 'true: sent when the CRM record is created, and never again';
COMMENT ON COLUMN crm.field_map.create_default IS
    'what a record is created with where the row''s cell is empty, as the CRM is sent it; NULL: the field is left empty';
COMMENT ON COLUMN crm.field_map.described IS
    'limits of the CRM field''s values, as the CRM reported when the field was mapped or crm.check_mapping() last ran; NULL: not known';

CREATE TABLE crm.bound_column (
    map_id      int NOT NULL REFERENCES crm.object_map ON DELETE CASCADE,
    column_name name NOT NULL,
    attnum      smallint NOT NULL,
    type_id     oid NOT NULL,
    PRIMARY KEY (map_id, column_name)
);
COMMENT ON TABLE crm.bound_column IS
    'attribute numbers and types of mapped columns, to distinguish a rename from a drop; not dumped, rebuilt by crm_internal.bind_map()';
