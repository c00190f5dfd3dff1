-- State of the worker: health of connections, state of maps, claims, recapture requests.

CREATE TABLE crm.connection_state (
    connection_id int PRIMARY KEY REFERENCES crm.connection ON DELETE CASCADE,
    state         text NOT NULL DEFAULT 'ok' CHECK (state IN ('ok', 'error')),
    failures      int NOT NULL DEFAULT 0,
    blocked_until timestamptz NOT NULL DEFAULT '-infinity',
    error_class   text,
    last_error    text,
    usage         jsonb NOT NULL DEFAULT '{}',
    usage_reported_at timestamptz,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE crm.connection_state IS 'health of connections, maintained by the worker';
COMMENT ON COLUMN crm.connection_state.state IS
    'error: the CRM rejected the credentials; nothing is sent until crm.set_credentials(). See also crm.connection.home';
COMMENT ON COLUMN crm.connection_state.failures IS 'consecutive failures: the CRM could not be reached or asked to wait';
COMMENT ON COLUMN crm.connection_state.blocked_until IS 'nothing is sent before this time (outage, rate limit)';
COMMENT ON COLUMN crm.connection_state.usage IS 'request budget as the CRM last reported it; see crm.rate_budget';
COMMENT ON COLUMN crm.connection_state.usage_reported_at IS 'when the CRM last reported its request budget; NULL: never';

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
    round_id      uuid,
    round_total   bigint NOT NULL DEFAULT 0,
    round_done    bigint NOT NULL DEFAULT 0,
    round_written bigint NOT NULL DEFAULT 0,
    round_failed  bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE crm.map_state IS 'what each map is doing; maintained by the worker, not dumped';
COMMENT ON COLUMN crm.map_state.reason IS 'why the map is stopped (state error)';
COMMENT ON COLUMN crm.map_state.round_id IS 'of the running or the last round: operation_id of the audit';
COMMENT ON COLUMN crm.map_state.round_written IS 'records of the running or the last round that the CRM accepted';
COMMENT ON COLUMN crm.map_state.round_failed IS 'attempts of that round that failed';
COMMENT ON COLUMN crm.map_state.stale IS 'true: its table was altered, and the worker has not rebuilt the map yet';

CREATE TABLE crm.fuse (
    map_id            int NOT NULL,
    direction         text NOT NULL CHECK (direction IN ('outbound', 'inbound')),
    held_at           timestamptz,
    held              jsonb,
    held_revision     bigint,
    approved_revision bigint NOT NULL DEFAULT 0,
    exempt            text CHECK (exempt IN ('load', 'all')),
    deletes           bigint NOT NULL DEFAULT 0,
    clears            bigint NOT NULL DEFAULT 0,
    creates           bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (map_id, direction)
);
COMMENT ON TABLE crm.fuse IS
    'records that the running round of a map deletes, clears or creates (outbound), or its pass through the CRM''s changes deletes, unlinks '
    'or clears (inbound); and what is held until crm.approve()';
COMMENT ON COLUMN crm.fuse.held_at IS 'when it was held; NULL: it is not';
COMMENT ON COLUMN crm.fuse.held IS 'what would be done: {"deletes", "clears", "creates", "records": linked records of the map}';
COMMENT ON COLUMN crm.fuse.held_revision IS 'edits queued up to this revision are those that crm.approve() covers';
COMMENT ON COLUMN crm.fuse.approved_revision IS 'edits queued up to this revision are not counted';
COMMENT ON COLUMN crm.fuse.exempt IS
    'until the round or pass ends, load: what is created and cleared is not counted; all: nothing is (crm.approve()); NULL: all is';
COMMENT ON COLUMN crm.fuse.deletes IS 'records that were let through since the round or pass began';
COMMENT ON COLUMN crm.fuse.clears IS 'the same of records of which a field is emptied';
COMMENT ON COLUMN crm.fuse.creates IS 'the same of records that are created';

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
    'batches of records in flight to a CRM; a claim that outlives its worker is released, and counts as an attempt';
COMMENT ON COLUMN crm.claim.sent IS 'per record, what is being sent: field_id -> hash; NULL: not recorded';

-- Requests never wait for each other: each is a row of its own.
CREATE TABLE crm.scan_request (
    request_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    map_id       int NOT NULL,
    task         text NOT NULL DEFAULT 'recapture' CHECK (task IN ('recapture', 'push')),
    new_rows     bool NOT NULL DEFAULT false,
    new_since    pg_snapshot,
    lost_rows    bool NOT NULL DEFAULT false,
    cells        bytea,
    condition    text,
    owner        name,
    reason       text NOT NULL,
    actor        text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    phase        text NOT NULL DEFAULT 'rows' CHECK (phase IN ('rows', 'ledger')),
    after_shard  text COLLATE "C",
    after_key    text COLLATE "C",
    compared     bigint NOT NULL DEFAULT 0,
    marked       bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE crm.scan_request IS
    'scans of mapped tables, in parts: rows compared with the ledger, because cells may have changed without firing a trigger '
    '(recapture), and rows that are to be written to the CRM (push); deleted when done';
COMMENT ON COLUMN crm.scan_request.task IS 'recapture: the newest request of a map represents all; push: each is a scan of its own';
COMMENT ON COLUMN crm.scan_request.cells IS 'push: the cells to be written, as in crm.change; NULL: all, those mapped later too';
COMMENT ON COLUMN crm.scan_request.condition IS 'push: an SQL condition over the columns of the table; NULL: every row';
COMMENT ON COLUMN crm.scan_request.owner IS 'push: the owner of the table when it was asked for; it ends if the table has another one';
COMMENT ON COLUMN crm.scan_request.new_rows IS 'true: rows without a ledger entry are captured as inserts (crm.recapture())';
COMMENT ON COLUMN crm.scan_request.new_since IS
    'rows that were there in this snapshot are no new ones; NULL: all rows without a ledger entry are';
COMMENT ON COLUMN crm.scan_request.lost_rows IS 'true: records whose rows are gone are captured as deleted (crm.enable())';
COMMENT ON COLUMN crm.scan_request.phase IS 'rows: rows are being compared; ledger: records whose rows are gone are being looked for';
COMMENT ON COLUMN crm.scan_request.reason IS 'the DDL or the function that requested it';
COMMENT ON COLUMN crm.scan_request.actor IS 'who requested it or ran the DDL, as in crm.change';
COMMENT ON COLUMN crm.scan_request.after_shard IS 'with after_key: the last row or record of the phase that was compared, in key order; NULL: none yet';
COMMENT ON COLUMN crm.scan_request.after_key IS 'see after_shard';
COMMENT ON COLUMN crm.scan_request.compared IS 'rows compared so far';
COMMENT ON COLUMN crm.scan_request.marked IS 'records found changed so far';
