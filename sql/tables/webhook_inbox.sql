-- What CRMs told of their own accord: which records to look at. crm.receive_webhook() and the worker's listener put
-- rows in, ingestion takes them out and sets done_at; the worker prunes what is done.

CREATE TABLE crm.webhook_inbox (
    connection_id int NOT NULL,
    event_id      text COLLATE "C" NOT NULL,
    inbox_id      bigint GENERATED ALWAYS AS IDENTITY,
    crm_object    text NOT NULL,
    crm_id        text COLLATE "C" NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('changed', 'deleted', 'merged', 'restored')),
    occurred_at   timestamptz NOT NULL,
    received_at   timestamptz NOT NULL DEFAULT now(),
    done_at       timestamptz,
    PRIMARY KEY (connection_id, event_id)
);
CREATE INDEX webhook_inbox_waiting ON crm.webhook_inbox (connection_id, inbox_id) WHERE done_at IS NULL;
-- For the prune, which would read the whole table every time.
CREATE INDEX webhook_inbox_done ON crm.webhook_inbox (done_at) WHERE done_at IS NOT NULL;
COMMENT ON TABLE crm.webhook_inbox IS
    'events that CRMs posted: records to look at again, never what they hold. Those that are done stay for a week, so that one that is '
    'posted again is known';
COMMENT ON COLUMN crm.webhook_inbox.event_id IS 'the vendor''s: the same when the event is posted again';
COMMENT ON COLUMN crm.webhook_inbox.inbox_id IS 'the order of arrival, but within one request';
COMMENT ON COLUMN crm.webhook_inbox.crm_object IS 'as the vendor names it; HubSpot: the name in paths (contacts)';
COMMENT ON COLUMN crm.webhook_inbox.kind IS 'changed: created or updated; deleted; merged: taken in by another record; restored';
COMMENT ON COLUMN crm.webhook_inbox.occurred_at IS 'by the CRM';
COMMENT ON COLUMN crm.webhook_inbox.done_at IS 'NULL: waits to be looked at';
