-- The tables of pg_crm: configuration, then the state of each record, then the worker's own.
--
-- Per-record tables begin their primary key with shard_key, so that a sharded deployment can co-locate
-- them with the mapped table; configuration tables are small enough to be copied to every node.
-- No foreign key joins the two kinds: unmap_object() removes what belongs to a map. Nor does one join tables that pg_dump takes
-- along: see adoption.sql.

-- CREATE EXTENSION resolves names in whichever schema is current, where others may have put operators that fit better than
-- PostgreSQL's own, and a view would keep those. It ends with the script.
SET LOCAL search_path = pg_catalog, pg_temp;

-- What CRMs say is UTF-8, and so is what the worker hands to PostgreSQL: elsewhere it would be stored as other letters.
DO $$
BEGIN
    IF getdatabaseencoding() <> 'UTF8' THEN
        RAISE feature_not_supported USING
            MESSAGE = format('pg_crm needs a database whose encoding is UTF8, and that of "%s" is %s', current_database(), getdatabaseencoding()),
            DETAIL = 'CRMs hold text of every script, which only UTF8 keeps as it is.',
            HINT = 'CREATE DATABASE … ENCODING ''UTF8'' TEMPLATE template0, and move the tables there by pg_dump.';
    END IF;
END $$;

CREATE SCHEMA crm;
CREATE SCHEMA crm_stub;

COMMENT ON SCHEMA crm IS 'pg_crm: keeps tables and CRMs in step';
COMMENT ON SCHEMA crm_stub IS 'pg_crm: the embedded CRM behind provider ''stub''';

-- Configuration ---------------------------------------------------------------------------------------

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
COMMENT ON TABLE crm.connection IS 'CRM orgs, each reached with one set of credentials; made by crm.create_connection()';
COMMENT ON COLUMN crm.connection.base_url IS 'where the API lives; NULL: the provider''s own default';
COMMENT ON COLUMN crm.connection.options IS 'max_in_flight (requests at once, default 4), rate_limit ({"requests": 100, "seconds": 10}), realtime_reserve (part of each budget kept for real-time writes, default 0.2), api_version and other keys of the provider';
COMMENT ON COLUMN crm.connection.paused IS 'true: nothing is sent, work waits (crm.pause(), crm.resume())';
COMMENT ON COLUMN crm.connection.home IS
    'which database of which cluster sends over it, as crm.home() tells there; in another one it waits for crm.adopt_connections()';

CREATE TABLE crm.credential (
    connection_id int PRIMARY KEY REFERENCES crm.connection ON DELETE CASCADE,
    secret        jsonb NOT NULL DEFAULT '{}',
    version       int NOT NULL DEFAULT 1,
    updated_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.credential IS 'secrets of connections, or references to them ({"file": …}, {"env": …}); superusers only, never dumped';

CREATE TABLE crm.connection_state (
    connection_id int PRIMARY KEY REFERENCES crm.connection ON DELETE CASCADE,
    state         text NOT NULL DEFAULT 'ok' CHECK (state IN ('ok', 'error')),
    failures      int NOT NULL DEFAULT 0,
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    error_class   text,
    last_error    text,
    usage         jsonb NOT NULL DEFAULT '{}',
    told_at       timestamptz,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.connection_state IS 'health of connections, kept by the worker';
COMMENT ON COLUMN crm.connection_state.state IS 'error: the credentials are refused; work waits for crm.set_credentials(). See crm.connection.home too';
COMMENT ON COLUMN crm.connection_state.failures IS 'times in a row that the CRM could not be reached or asked to wait';
COMMENT ON COLUMN crm.connection_state.blocked_until IS 'nothing is sent before this time (outage, rate limit)';
COMMENT ON COLUMN crm.connection_state.usage IS 'the request budget as the CRM last told it; see crm.rate_budget';
COMMENT ON COLUMN crm.connection_state.told_at IS 'when it did';

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
    key_minds_case    bool,
    key_max_length    int,
    capture           text NOT NULL DEFAULT 'origin' CHECK (capture IN ('origin', 'always')),
    keys_changed      text,
    UNIQUE (connection_id, relation, crm_object)
);
COMMENT ON TABLE crm.object_map IS 'which table goes with which CRM object; made by crm.map_object()';
COMMENT ON COLUMN crm.object_map.key_column IS 'identifies a row; its text is the record_key';
COMMENT ON COLUMN crm.object_map.external_id_field IS 'CRM field that holds our record_key; created records are upserted by it';
COMMENT ON COLUMN crm.object_map.key_minds_case IS
    'whether the CRM tells records apart by the case of their external_id_field, as it said when a field was mapped; NULL: it did not';
COMMENT ON COLUMN crm.object_map.key_max_length IS 'how many characters the external_id_field has room for, as the CRM said; NULL: it did not';
COMMENT ON COLUMN crm.object_map.capture IS
    'origin: edits of ordinary sessions are captured; always: also those of subscriptions and of session_replication_role = replica '
    '(crm.set_capture())';
COMMENT ON COLUMN crm.object_map.keys_changed IS
    'what DDL may have given its rows other keys, and the remedy: the map is stopped; NULL: none did, or crm.map_field() said that none has';
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
    described     jsonb,
    PRIMARY KEY (map_id, field_id),
    UNIQUE (map_id, column_name),
    UNIQUE (map_id, crm_field)
);
COMMENT ON TABLE crm.field_map IS 'which column goes with which CRM field, and how; made by crm.map_field()';
COMMENT ON COLUMN crm.field_map.field_id IS 'the cell''s place in the ledger''s arrays; never used again for another column';
COMMENT ON COLUMN crm.field_map.materialize IS 'false: mapped and validated, but not written back';
COMMENT ON COLUMN crm.field_map.described IS
    'what bounds the CRM field''s values, as the CRM told when the field was mapped or crm.check_mapping() last asked; NULL: not known';

CREATE TABLE crm.map_state (
    map_id        int PRIMARY KEY REFERENCES crm.object_map ON DELETE CASCADE,
    state         text NOT NULL DEFAULT 'idle' CHECK (state IN ('idle', 'syncing', 'error')),
    reason        text,
    stale         bool NOT NULL DEFAULT false,
    last_error    text,
    last_error_at timestamptz,
    last_success  timestamptz,
    next_write_at timestamptz NOT NULL DEFAULT now(),
    round_start   timestamptz,
    round_total   bigint NOT NULL DEFAULT 0,
    round_done    bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE crm.map_state IS 'what each map is doing; kept by the worker, not dumped';
COMMENT ON COLUMN crm.map_state.reason IS 'why the map stands still (state error)';
COMMENT ON COLUMN crm.map_state.stale IS 'its table was altered, and the worker is still to follow';

CREATE TABLE crm.bound_column (
    map_id      int NOT NULL REFERENCES crm.object_map ON DELETE CASCADE,
    column_name name NOT NULL,
    attnum      smallint NOT NULL,
    type_id     oid NOT NULL,
    PRIMARY KEY (map_id, column_name)
);
COMMENT ON TABLE crm.bound_column IS
    'the mapped columns as the catalog numbers them, to tell a rename from a drop; not dumped, made anew by crm.bind_map()';

-- Per-record state ------------------------------------------------------------------------------------

-- Keys are compared as bytes in these tables: an index of them costs half of what a language's order costs.

CREATE TABLE crm.change (
    shard_key   text COLLATE "C" NOT NULL DEFAULT '',
    change_id   bigint GENERATED ALWAYS AS IDENTITY,
    map_id      int NOT NULL,
    op          "char" NOT NULL,
    cells       bytea NOT NULL,
    record_keys text[] COLLATE "C" NOT NULL,
    base        jsonb,
    write_id    uuid,
    changed_at  timestamptz NOT NULL DEFAULT now(),
    actor       text NOT NULL,
    correlation_id text,
    PRIMARY KEY (shard_key, change_id)
);
-- Only of edits that go to the CRM at once, so that the others cost nothing. Such a row speaks of one record.
CREATE INDEX change_edit ON crm.change (shard_key, map_id, (record_keys[1])) WHERE base IS NOT NULL OR write_id IS NOT NULL;
-- Keys stay in the row, and as they are, while they fit into a page.
ALTER TABLE crm.change ALTER record_keys SET STORAGE EXTERNAL;
ALTER TABLE crm.change SET (toast_tuple_target = 8160,
                            autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 5000,
                            autovacuum_vacuum_insert_threshold = -1);
COMMENT ON TABLE crm.change IS
    'append-only: which cells of which records a committed statement changed; the worker folds it into crm.queue';
COMMENT ON COLUMN crm.change.op IS 'i: inserted, u: updated, d: deleted';
COMMENT ON COLUMN crm.change.cells IS 'bit mask of field_id, the same for all of the records: 64-bit words, big-endian';
COMMENT ON COLUMN crm.change.record_keys IS 'records of which the statement changed these cells, a few hundred at most; each once';
COMMENT ON COLUMN crm.change.base IS
    'of a row with one record: what an edit of bidirectional cells was based on, field_id -> {"v": what the column held} ({}: it was long) or '
    '{"h": hash of what the CRM held} or {"l": true} (what the ledger says when the edit is claimed) or {"force": true}';
COMMENT ON COLUMN crm.change.write_id IS 'crm.write(): the id that it returned';
COMMENT ON COLUMN crm.change.actor IS 'session_user, and pg_crm.actor after a slash if set';

CREATE TABLE crm.ledger (
    shard_key  text COLLATE "C" NOT NULL DEFAULT '',
    map_id     int NOT NULL,
    record_key text COLLATE "C" NOT NULL,
    crm_id     text COLLATE "C",
    detached   bool NOT NULL DEFAULT false,
    changed_at timestamptz[],
    synced_at  timestamptz[],
    hashes     bytea,
    PRIMARY KEY (shard_key, map_id, record_key)
-- No index speaks of what a write-back changes, and each page has room for its rows once more: UPDATEs stay on their page.
) WITH (fillfactor = 45);
ALTER TABLE crm.ledger SET (autovacuum_vacuum_scale_factor = 0.05);
-- By the CRM's id first: what comes in from a CRM does not tell the shard.
CREATE UNIQUE INDEX ledger_crm_id ON crm.ledger (map_id, crm_id, shard_key) WHERE crm_id IS NOT NULL;
COMMENT ON TABLE crm.ledger IS
    'one row per record that is linked or queued: its CRM id and, per cell, when it changed, when it was last synced, what the CRM last held. '
    'Its row lock is the lock of the record';
COMMENT ON COLUMN crm.ledger.changed_at IS 'by field_id; later changes that still wait are in crm.queue';
COMMENT ON COLUMN crm.ledger.hashes IS '16 bytes per field_id: BLAKE3 of the value that the CRM last held; zeros: not known';
COMMENT ON COLUMN crm.ledger.detached IS 'the CRM deleted the record: it is not created again, only crm.link() joins it anew';

CREATE TABLE crm.queue (
    shard_key       text COLLATE "C" NOT NULL DEFAULT '',
    map_id          int NOT NULL,
    record_key      text COLLATE "C" NOT NULL,
    op              "char" NOT NULL,
    state           text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'unlinked', 'dead')),
    revision        bigint GENERATED BY DEFAULT AS IDENTITY,
    next_attempt_at timestamptz NOT NULL DEFAULT '-infinity',
    attempts        smallint NOT NULL DEFAULT 0,
    cells           bytea,
    changed_at      timestamptz[],
    place           tid,
    actor           text,
    error_class     text,
    last_error      text,
    PRIMARY KEY (shard_key, map_id, record_key)
);
ALTER TABLE crm.queue SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 50000,
                           autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX queue_due ON crm.queue (map_id, next_attempt_at) WHERE state = 'queued';
CREATE INDEX queue_waiting ON crm.queue (map_id, state) WHERE state <> 'queued';
COMMENT ON TABLE crm.queue IS
    'what waits to be written, a row per record, each with a row in crm.ledger that is locked before this one is touched; gone once the CRM took it';
COMMENT ON COLUMN crm.queue.op IS 'u update, k update that brings the record_key to external_id_field too, c create (upsert), d delete';
COMMENT ON COLUMN crm.queue.state IS 'queued: to be written; unlinked: waits for a CRM id; dead: see crm.dead_letters';
COMMENT ON COLUMN crm.queue.revision IS 'another with each fold, so that an edit during a write is seen';
COMMENT ON COLUMN crm.queue.next_attempt_at IS '-infinity: with the map''s next round; else the time of the retry';
COMMENT ON COLUMN crm.queue.cells IS 'the cells that wait, as in crm.change; NULL: none, a delete';
COMMENT ON COLUMN crm.queue.place IS 'where in crm.ledger its row was when this one was made: looked at first, before the index is asked';
COMMENT ON COLUMN crm.queue.changed_at IS 'when the cells that wait were changed, by field_id';

CREATE TABLE crm.pending_write (
    shard_key       text COLLATE "C" NOT NULL DEFAULT '',
    write_id        uuid NOT NULL DEFAULT gen_random_uuid(),
    map_id          int NOT NULL,
    record_key      text COLLATE "C" NOT NULL,
    state           text NOT NULL CHECK (state IN ('sending', 'landed', 'failed', 'queued', 'dead')),
    cells           bytea NOT NULL,
    take            bytea,
    base            jsonb NOT NULL DEFAULT '{}',
    intended        jsonb,
    snapshot        jsonb,
    snapshot_hash   bytea,
    folded          uuid[],
    undone          uuid[],
    revision        bigint NOT NULL DEFAULT 0,
    attempts        smallint NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL DEFAULT '-infinity',
    error_class     text,
    last_error      text,
    changed_at      timestamptz NOT NULL DEFAULT now(),
    created_at      timestamptz NOT NULL DEFAULT now(),
    actor           text,
    correlation_id  text,
    backend_pid     int,
    PRIMARY KEY (shard_key, write_id)
);
CREATE UNIQUE INDEX pending_write_record ON crm.pending_write (shard_key, map_id, record_key) WHERE state IN ('queued', 'dead');
CREATE INDEX pending_write_due ON crm.pending_write (map_id, next_attempt_at) WHERE state = 'queued';
CREATE INDEX pending_write_intent ON crm.pending_write (map_id) WHERE state IN ('sending', 'landed', 'failed');
CREATE INDEX pending_write_calls ON crm.pending_write USING gin (folded, undone) WHERE folded IS NOT NULL OR undone IS NOT NULL;
COMMENT ON TABLE crm.pending_write IS 'edits of bidirectional cells whose outcome is not final: at most one queued row per record, into which later edits fold';
COMMENT ON COLUMN crm.pending_write.state IS
    'sending, landed, failed: an intent of crm.write(), which its caller''s transaction removes (sent; the CRM took it; it did not); '
    'queued: for the reconciler; dead: see crm.dead_letters';
COMMENT ON COLUMN crm.pending_write.cells IS 'the cells to write, as in crm.change';
COMMENT ON COLUMN crm.pending_write.take IS 'the cells in which the row takes what the CRM holds (compensation, crm.resolve_conflict())';
COMMENT ON COLUMN crm.pending_write.base IS
    'what the oldest of the edits was based on, as in crm.change; {"l": true}: what the ledger says when the edit is claimed; '
    '"s": hashes of what was sent and may have arrived unheard';
COMMENT ON COLUMN crm.pending_write.intended IS 'CRM field -> value, as crm.write() was given it; for people: what is sent is what the row holds';
COMMENT ON COLUMN crm.pending_write.snapshot IS 'the mapped fields of the CRM object as they were last read, canonical';
COMMENT ON COLUMN crm.pending_write.snapshot_hash IS 'BLAKE3 of the snapshot';
COMMENT ON COLUMN crm.pending_write.folded IS 'ids of calls of crm.write() whose edits were folded into this row';
COMMENT ON COLUMN crm.pending_write.undone IS 'ids of calls of crm.write() whose transactions came to nothing, which is why the row takes what the CRM holds';
COMMENT ON COLUMN crm.pending_write.revision IS 'counts the folds, so that an edit during a write is seen';

CREATE TABLE crm.conflict (
    shard_key      text COLLATE "C" NOT NULL DEFAULT '',
    conflict_id    bigint GENERATED ALWAYS AS IDENTITY,
    map_id         int NOT NULL,
    record_key     text COLLATE "C" NOT NULL,
    field_id       smallint NOT NULL,
    crm_id         text COLLATE "C",
    conflict_type  text NOT NULL,
    local_value    jsonb,
    crm_value      jsonb,
    base           jsonb,
    policy         text NOT NULL,
    first_seen     timestamptz NOT NULL DEFAULT now(),
    last_attempt   timestamptz NOT NULL DEFAULT now(),
    write_id       uuid,
    folded         uuid[],
    actor          text,
    correlation_id text,
    PRIMARY KEY (shard_key, conflict_id)
);
CREATE UNIQUE INDEX conflict_cell ON crm.conflict (shard_key, map_id, record_key, field_id);
COMMENT ON TABLE crm.conflict IS 'cells that both sides changed and no policy decides: they wait for crm.resolve_conflict()';
COMMENT ON COLUMN crm.conflict.field_id IS '-1: the conflict is about the record as a whole (duplicate_identity)';
COMMENT ON COLUMN crm.conflict.conflict_type IS 'see the view crm.conflicts';
COMMENT ON COLUMN crm.conflict.local_value IS 'what the row held, canonical';
COMMENT ON COLUMN crm.conflict.crm_value IS 'what the CRM held, canonical';
COMMENT ON COLUMN crm.conflict.folded IS 'ids of calls of crm.write() beside write_id that wait for the same decision';
COMMENT ON COLUMN crm.conflict.base IS 'what the column held before the edit, where it is known';

CREATE TABLE crm.dead_letter (
    shard_key      text COLLATE "C" NOT NULL DEFAULT '',
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY,
    map_id         int NOT NULL,
    record_key     text COLLATE "C" NOT NULL,
    path           text NOT NULL DEFAULT 'batch' CHECK (path IN ('batch', 'reconcile', 'ingest')),
    crm_id         text COLLATE "C",
    operation      text NOT NULL,
    fields         jsonb NOT NULL DEFAULT '{}',
    error_class    text NOT NULL,
    vendor_code    text,
    error          text,
    attempts       int NOT NULL,
    died_at        timestamptz NOT NULL DEFAULT now(),
    actor          text,
    PRIMARY KEY (shard_key, dead_letter_id)
);
CREATE UNIQUE INDEX dead_letter_record ON crm.dead_letter (shard_key, map_id, record_key, path);
CREATE INDEX dead_letter_crm_id ON crm.dead_letter (map_id, crm_id) WHERE path = 'ingest';
COMMENT ON TABLE crm.dead_letter IS
    'records whose write-back stopped, their cells stay in crm.queue until crm.replay() or the next edit of the record; '
    'and CRM records that cannot be taken in (path ingest), until crm.replay() or their next change';
COMMENT ON COLUMN crm.dead_letter.record_key IS 'of a CRM record that has no row: its CRM id';

CREATE TABLE crm.audit_log (
    shard_key      text COLLATE "C" NOT NULL DEFAULT '',
    audit_id       bigint GENERATED BY DEFAULT AS IDENTITY,
    at             timestamptz NOT NULL DEFAULT now(),
    map_id         int,
    connection     text NOT NULL,
    provider       text NOT NULL,
    relation       text,
    record_key     text COLLATE "C",
    crm_id         text COLLATE "C",
    path           text NOT NULL,
    operation      text NOT NULL,
    fields         jsonb NOT NULL DEFAULT '{}',
    result         text NOT NULL,
    attempt        int NOT NULL DEFAULT 1,
    error_class    text,
    vendor_code    text,
    error          text,
    request_id     text,
    correlation_id text,
    actor          text,
    write_id       uuid,
    folded         uuid[]
) PARTITION BY RANGE (at);
-- Keys and indexes belong to the partitions: pg_dump takes those along that the worker makes, and a key that came from
-- this table, a member of the extension, would be made twice by a restore.
CREATE TABLE crm.audit_log_default PARTITION OF crm.audit_log DEFAULT;
ALTER TABLE crm.audit_log_default ADD PRIMARY KEY (shard_key, audit_id);
CREATE INDEX audit_log_default_record ON crm.audit_log_default (map_id, record_key);
CREATE INDEX audit_log_default_write ON crm.audit_log_default (write_id) WHERE write_id IS NOT NULL;
CREATE INDEX audit_log_default_folded ON crm.audit_log_default USING gin (folded) WHERE folded IS NOT NULL;
COMMENT ON TABLE crm.audit_log IS 'every attempt to change something, committed with its effect; UPDATE and DELETE are refused';
COMMENT ON TABLE crm.audit_log_default IS 'audit rows of months for which no partition was made ahead';
COMMENT ON COLUMN crm.audit_log.path IS 'batch, realtime, reconcile, ingest, compensate or setup';
COMMENT ON COLUMN crm.audit_log.actor IS 'who made the edit; of path ingest: who made the change, in the vendor''s words';
COMMENT ON COLUMN crm.audit_log.operation IS 'create, update, delete; of path ingest also insert, link, unlink, relink, ingest (none of them yet), webhook (a '
    'request that a CRM sent, or somebody in its name); of path setup: adopt';
COMMENT ON COLUMN crm.audit_log.fields IS
    'CRM field -> {"new": value sent, "old": value before where it is known, "old_hash": BLAKE3 of it where only that is}';
COMMENT ON COLUMN crm.audit_log.result IS
    'applied; retry (will be tried again); dead (see crm.dead_letters); superseded (the CRM''s value stands); conflict (nothing was written); '
    'raced (applied, but over a CRM edit that came between our read and our write); overwritten (a CRM edit of an outbound field, which the '
    'map''s next round replaces); stored_form (the CRM holds an outbound value in a form of its own, which is left alone); refused (a webhook that is not to be believed)';
COMMENT ON COLUMN crm.audit_log.folded IS 'ids of calls of crm.write() beside write_id of which the same is true';
COMMENT ON COLUMN crm.audit_log.request_id IS 'ties together the records of one request to the CRM';

-- The worker's own ------------------------------------------------------------------------------------

CREATE TABLE crm.claim (
    claim_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map_id       int NOT NULL,
    path         text NOT NULL DEFAULT 'batch' CHECK (path IN ('batch', 'reconcile')),
    worker_pid   int NOT NULL DEFAULT pg_backend_pid(),
    claimed_at   timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz NOT NULL,
    shard_keys   text[] COLLATE "C" NOT NULL,
    record_keys  text[] COLLATE "C" NOT NULL,
    sent         text[]
);
ALTER TABLE crm.claim ALTER shard_keys SET STORAGE EXTERNAL, ALTER record_keys SET STORAGE EXTERNAL;
COMMENT ON TABLE crm.claim IS
    'slices of records that are on their way to a CRM; one that outlives its worker is released, with an attempt charged';
COMMENT ON COLUMN crm.claim.sent IS 'per record, what is being sent: field_id -> hash; NULL: not to be remembered';

CREATE TABLE crm.ingest_state (
    map_id      int PRIMARY KEY,
    cursor      jsonb,
    next_at     timestamptz NOT NULL DEFAULT now(),
    last_at     timestamptz,
    backfill    timestamptz,
    backfilled  bigint NOT NULL DEFAULT 0,
    total       bigint,
    read        bigint NOT NULL DEFAULT 0,
    applied     bigint NOT NULL DEFAULT 0,
    echoes      bigint NOT NULL DEFAULT 0,
    ignored     bigint NOT NULL DEFAULT 0,
    overwritten bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE crm.ingest_state IS 'how far each map has read its CRM''s changes, and what came of them; kept by the worker';
COMMENT ON COLUMN crm.ingest_state.cursor IS 'where to read on, in the provider''s words; NULL: from the first record there is';
COMMENT ON COLUMN crm.ingest_state.next_at IS 'when to look for changes again';
COMMENT ON COLUMN crm.ingest_state.last_at IS 'when the CRM was last read to the end of its changes';
COMMENT ON COLUMN crm.ingest_state.backfill IS 'since when every record is being read; NULL: only what changed is';
COMMENT ON COLUMN crm.ingest_state.backfilled IS 'records read so far by the backfill that is on, or by the last one';
COMMENT ON COLUMN crm.ingest_state.total IS 'records that the CRM had when the backfill began, where it tells';
COMMENT ON COLUMN crm.ingest_state.read IS 'records that came in, ever';
COMMENT ON COLUMN crm.ingest_state.applied IS 'of these, those that changed a row, a link or a conflict';
COMMENT ON COLUMN crm.ingest_state.echoes IS 'of these, those that brought nothing new: our own writes coming back, or changes of other fields';
COMMENT ON COLUMN crm.ingest_state.ignored IS 'of these, those that belong to no row (on_crm_insert, on_crm_delete)';
COMMENT ON COLUMN crm.ingest_state.overwritten IS 'fields that people of the CRM changed and that are written over, their columns being the source of truth';

CREATE TABLE crm.reread (
    map_id   int NOT NULL,
    crm_id   text COLLATE "C" NOT NULL,
    revision bigint GENERATED BY DEFAULT AS IDENTITY,
    due_at   timestamptz NOT NULL DEFAULT now(),
    attempts smallint NOT NULL DEFAULT 0,
    merged_into text,
    since    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (map_id, crm_id)
);
CREATE INDEX reread_due ON crm.reread (map_id, due_at);
COMMENT ON TABLE crm.reread IS
    'CRM records to be read by themselves: a webhook spoke of them, they came in while something of ours was on its way to them, or the CRM does not tell whether they are gone';
COMMENT ON COLUMN crm.reread.revision IS 'another each time somebody asks for the record, so that a request during a read is seen';
COMMENT ON COLUMN crm.reread.due_at IS 'infinity: to be read only if the pass through all records that is running does not show it';
COMMENT ON COLUMN crm.reread.merged_into IS 'the record that took this one in, should it turn out to be gone';

CREATE TABLE crm.written_over (
    map_id   int NOT NULL,
    crm_id   text COLLATE "C" NOT NULL,
    field_id smallint NOT NULL,
    sent     bytea NOT NULL,
    held     bytea NOT NULL,
    is_form  bool NOT NULL DEFAULT false,
    PRIMARY KEY (map_id, crm_id, field_id)
);
COMMENT ON TABLE crm.written_over IS
    'outbound cells in which the CRM held something else than it had been sent. If the next attempt ends the same way, that is the CRM''s own '
    'form of the value (is_form); if the CRM then shows what it was sent, the row is deleted';
COMMENT ON COLUMN crm.written_over.is_form IS 'it is the CRM''s own form of the value: the row and the record agree, each in its own form';
COMMENT ON COLUMN crm.written_over.sent IS '16 bytes: BLAKE3 of what the row held and the CRM had been sent';
COMMENT ON COLUMN crm.written_over.held IS '16 bytes: BLAKE3 of what the CRM held in its place';

-- Requests never wait for each other: each is a row of its own, and the newest of a map stands for the others.
CREATE TABLE crm.recapture_request (
    request_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map_id       int NOT NULL,
    new_rows     bool NOT NULL DEFAULT false,
    reason       text NOT NULL,
    actor        text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    after_shard  text COLLATE "C",
    after_key    text COLLATE "C",
    compared     bigint NOT NULL DEFAULT 0,
    marked       bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE crm.recapture_request IS
    'maps whose rows are to be compared with the ledger, because cells may have changed without firing a trigger; deleted once that is done';
COMMENT ON COLUMN crm.recapture_request.new_rows IS 'rows without a ledger entry are captured as inserts (crm.recapture())';
COMMENT ON COLUMN crm.recapture_request.reason IS 'the DDL or the function that asked for it';
COMMENT ON COLUMN crm.recapture_request.actor IS 'who asked for it or ran the DDL, as in crm.change';
COMMENT ON COLUMN crm.recapture_request.after_shard IS 'with after_key: the row that was compared last, in the order of the key; NULL: none yet';
COMMENT ON COLUMN crm.recapture_request.after_key IS 'see after_shard';
COMMENT ON COLUMN crm.recapture_request.compared IS 'rows compared so far';
COMMENT ON COLUMN crm.recapture_request.marked IS 'records found changed so far';

CREATE TABLE crm.former_link (
    shard_key  text COLLATE "C" NOT NULL DEFAULT '',
    map_id     int NOT NULL,
    crm_id     text COLLATE "C" NOT NULL,
    record_key text COLLATE "C" NOT NULL,
    ended_by   text NOT NULL CHECK (ended_by IN ('row_deleted', 'crm_deleted', 'rejected', 'both_deleted')),
    ended_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard_key, map_id, crm_id)
);
CREATE INDEX former_link_crm_id ON crm.former_link (map_id, crm_id);
COMMENT ON TABLE crm.former_link IS
    'CRM records that had a row once: one whose row was deleted is not inserted again, one that the CRM restores finds its row again';
COMMENT ON COLUMN crm.former_link.ended_by IS
    'row_deleted; crm_deleted; rejected: an operator decided that it is not the row''s record (crm.resolve_conflict()); '
    'both_deleted: kept for a day, so that what was read of the record before does not bring the row back';

CREATE TABLE crm.unborn (
    shard_key  text COLLATE "C" NOT NULL DEFAULT '',
    map_id     int NOT NULL,
    record_key text COLLATE "C" NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shard_key, map_id, record_key)
);
CREATE INDEX unborn_record_key ON crm.unborn (map_id, record_key);
COMMENT ON TABLE crm.unborn IS
    'rows that were deleted before it was heard whether the CRM made their records: a record that turns up with such a key is not inserted, '
    'and deleted where on_delete says so';

CREATE TABLE crm.carried_key (
    map_id      int NOT NULL,
    crm_id      text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (map_id, crm_id)
);
COMMENT ON TABLE crm.carried_key IS
    'CRM records that were read to carry another key than that of their row: a row with that key must not be taken for theirs';
COMMENT ON COLUMN crm.carried_key.external_id IS 'what the external_id_field held';

-- What pg_dump takes along: the mapping and every record's state, never a credential.
DO $$
DECLARE
    t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['crm.connection', 'crm.object_map', 'crm.field_map', 'crm.change', 'crm.ledger', 'crm.queue',
                             'crm.pending_write', 'crm.conflict', 'crm.dead_letter', 'crm.audit_log_default',
                             'crm.ingest_state', 'crm.reread', 'crm.written_over', 'crm.recapture_request', 'crm.former_link', 'crm.unborn',
                             'crm.carried_key', 'crm.reread_revision_seq', 'crm.recapture_request_request_id_seq',
                             'crm.connection_connection_id_seq', 'crm.object_map_map_id_seq', 'crm.change_change_id_seq', 'crm.queue_revision_seq',
                             'crm.conflict_conflict_id_seq', 'crm.dead_letter_dead_letter_id_seq', 'crm.audit_log_audit_id_seq']
    LOOP
        PERFORM pg_catalog.pg_extension_config_dump(t, '');
    END LOOP;
END $$;
