-- Webhook events: which records to fetch. crm.receive_webhook() and the worker's listener insert them, ingestion processes
-- them and sets done_at; the worker deletes old ones.

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
-- For pruning, which would otherwise scan the table every time.
CREATE INDEX webhook_inbox_done ON crm.webhook_inbox (done_at) WHERE done_at IS NOT NULL;
COMMENT ON TABLE crm.webhook_inbox IS
    'webhook events: which records to fetch, never their values. Processed events are kept for a week, so that duplicates are recognised';
COMMENT ON COLUMN crm.webhook_inbox.event_id IS 'id given by the vendor; the same when the event is delivered again';
COMMENT ON COLUMN crm.webhook_inbox.inbox_id IS 'order of arrival, except within one request';
COMMENT ON COLUMN crm.webhook_inbox.crm_object IS 'the object as the vendor names it; HubSpot: the name in paths (contacts)';
COMMENT ON COLUMN crm.webhook_inbox.kind IS 'changed: created or updated; deleted; merged: into another record; restored';
COMMENT ON COLUMN crm.webhook_inbox.occurred_at IS 'when the event occurred, by the CRM''s clock';
COMMENT ON COLUMN crm.webhook_inbox.done_at IS 'when it was processed; NULL: not yet';
