-- The provider `stub`: a CRM made of tables, for trying pg_crm out and for its tests, without any account.
--
-- What it guarantees:
--   * It answers as strictly as a vendor does: unknown fields, wrong types, missing required fields, texts that
--     are too long, references to nothing and keys that are taken are refused, with the classes that pg_crm has
--     for errors. A record that is refused does not touch its neighbours in the request.
--   * Everything repeats. Ids count up per connection and object (account-000001). The clock of a connection is
--     the time of its last modification, 2026-01-01 00:00:00 UTC while there is none: each write request that
--     changes anything, and each row that a CRM user changes, is one second later than what came before. Reading
--     moves no clock, so a poll in the background shifts no time.
--   * Its state is crm_stub.records and nothing else; TRUNCATE of that table is a new CRM.
--   * It never waits long for a lock: a record that another transaction is changing is refused as `transient`, and a
--     request that has to wait (for a key or for the next id, used by a transaction that is still open) is refused
--     as a whole after 250 ms. So an open transaction of a CRM user cannot block pg_crm.
--
-- CRM users run INSERT, UPDATE or DELETE on crm_stub.records. pg_crm uses crm_stub.handle. The contents of these
-- tables are never dumped.

-- The schema of the CRM.

CREATE TABLE crm_stub.fields (
    crm_object text COLLATE "C" NOT NULL,
    name       text COLLATE "C" NOT NULL,
    data_type  text NOT NULL CHECK (data_type IN ('text', 'number', 'date', 'choice', 'reference')),
    max_length int,
    required   bool NOT NULL DEFAULT false,
    choices    text[] CHECK (choices IS NOT NULL OR data_type <> 'choice'),
    pattern    text,
    refers_to  text COLLATE "C" CHECK (refers_to IS NOT NULL OR data_type <> 'reference'),
    PRIMARY KEY (crm_object, name)
);

COMMENT ON TABLE crm_stub.fields IS
    'The objects of the stub CRM and their fields. A field whose name begins with x_ is custom: it needs no row here and takes any JSON.';
COMMENT ON COLUMN crm_stub.fields.data_type IS 'text, number, date (YYYY-MM-DD), choice or reference';
COMMENT ON COLUMN crm_stub.fields.max_length IS 'Longest text accepted, in characters';
COMMENT ON COLUMN crm_stub.fields.required IS 'Whether a record must have a value';
COMMENT ON COLUMN crm_stub.fields.choices IS 'The values that a choice takes';
COMMENT ON COLUMN crm_stub.fields.pattern IS 'Regular expression that a text must match';
COMMENT ON COLUMN crm_stub.fields.refers_to IS 'Object whose ids a reference takes';

INSERT INTO crm_stub.fields (crm_object, name, data_type, max_length, required, choices, pattern, refers_to) VALUES
    ('account', 'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('account', 'name',         'text',      255,  true,  NULL, NULL, NULL),
    ('account', 'domain',       'text',      255,  false, NULL, NULL, NULL),
    ('account', 'segment',      'text',      255,  false, NULL, NULL, NULL),
    ('account', 'phone',        'text',      255,  false, NULL, NULL, NULL),
    ('account', 'employees',    'number',    NULL, false, NULL, NULL, NULL),
    ('contact', 'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'first_name',   'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'last_name',    'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'email',        'text',      255,  false, NULL, '^[^@[:space:]]+@[^@[:space:].]+([.][^@[:space:].]+)+$', NULL),
    ('contact', 'phone',        'text',      255,  false, NULL, NULL, NULL),
    ('contact', 'account_id',   'reference', 255,  false, NULL, NULL, 'account'),
    ('deal',    'external_key', 'text',      255,  false, NULL, NULL, NULL),
    ('deal',    'name',         'text',      255,  true,  NULL, NULL, NULL),
    ('deal',    'account_id',   'reference', 255,  false, NULL, NULL, 'account'),
    ('deal',    'stage',        'choice',    255,  false, '{open,qualified,proposal,negotiation,won,lost}', NULL, NULL),
    ('deal',    'amount',       'number',    NULL, false, NULL, NULL, NULL),
    ('deal',    'currency',     'text',      3,    false, NULL, NULL, NULL),
    ('deal',    'close_date',   'date',      NULL, false, NULL, NULL, NULL);

CREATE TABLE crm_stub.classes (
    class   text PRIMARY KEY,
    status  int NOT NULL,
    message text NOT NULL
);

COMMENT ON TABLE crm_stub.classes IS
    'Classes of errors and their HTTP status; status 0: no response at all. crm_stub.inject takes these classes.';

INSERT INTO crm_stub.classes (class, status, message) VALUES
    ('transient',        503, 'the stub is unavailable, as injected'),
    ('rate_limited',     429, 'too many requests, as injected'),
    ('auth',             401, 'the session is not valid, as injected'),
    ('validation',       422, 'a rule of the CRM refuses this, as injected'),
    ('mapping',          400, 'the CRM does not know this field, as injected'),
    ('conflict',         412, 'the record was changed by another client, as injected'),
    ('not_found',        404, 'there is no such record, as injected'),
    ('internal',         500, 'something is broken, as injected'),
    ('timeout',            0, 'no answer, nothing applied'),
    ('drop_after_apply',   0, 'applied, but the answer is lost');
