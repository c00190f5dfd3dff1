-- What the CRM says of its fields, and mappings that do not fit it.
SET client_min_messages = notice;
\set SHOW_CONTEXT never
SELECT crm.create_connection('fields', 'stub') > 0 AS created;
CREATE SCHEMA describe;
SET search_path = describe;
CREATE TABLE deals (id int PRIMARY KEY, name text, owner varchar(300), currency char(3), stage text, amount numeric, closes date,
                    note text, money varchar(2));

SELECT name, data_type, crm_type, label, max_length, required, read_only, createable, updateable, is_key, choices
FROM crm.describe('fields', 'deal');
SELECT name, choice_labels FROM crm.describe('fields', 'deal') WHERE choices IS NOT NULL;
SELECT * FROM crm.describe('nowhere', 'deal');
SELECT * FROM crm.describe('fields', 'quote');
SELECT * FROM crm.describe('fields', '');
SELECT * FROM crm.describe('fields', NULL);

-- Refused when it is stated.
SELECT crm.map_object('fields', 'deals', 'deal', on_insert => 'create', external_id_field => 'external_key') AS map \gset
SELECT crm.map_field(:map, 'owner', 'owner');
SELECT crm.map_field(:map, 'note', 'Close date');
SELECT crm.map_field(:map, 'closes', 'amount');
SELECT count(*) FROM crm.field_map WHERE map_id = :map;
-- Said, and done.
SELECT crm.map_field(:map, 'owner', 'currency') AS id;
SELECT crm.alter_field(:map, 'owner', 'currency', direction => 'inbound') AS id;
SELECT crm.map_field(:map, 'stage', 'stage', data_type => 'choice', validation => '{"choices": ["open", "closed"]}') AS id;
SELECT crm.map_field(:map, 'amount', 'amount', data_type => 'text') AS id;
SELECT crm.map_field(:map, 'name', 'name', validation => '{"max_length": 255}') AS id;
SELECT crm.map_field(:map, 'closes', 'close_date', data_type => 'timestamp') AS id;
-- Custom fields need no definition.
SELECT crm.map_field(:map, 'note', 'x_note') AS id;

INSERT INTO deals (id, owner) VALUES (1, repeat('x', 5));
SELECT field, severity, code, message, hint FROM crm.check_mapping(:map);
SELECT crm.alter_field(:map, 'owner', 'currency', direction => 'outbound') AS id;
SELECT field, severity, code, message, hint FROM crm.check_mapping(:map) WHERE field = 'currency';
SELECT crm.unmap_field(:map, 'name');
SELECT crm.map_field(:map, 'money', 'name') AS id;
SELECT code FROM crm.check_mapping(:map) WHERE field = 'name';
\set VERBOSITY terse
SELECT crm.check_mapping(0);
\set VERBOSITY default

-- A field that goes, and an object that never was.
BEGIN;
SET LOCAL client_min_messages = error;
SELECT crm.map_object('fields', 'deals', 'quote') AS quotes \gset
COMMIT;
SELECT crm.map_field(:quotes, 'note', 'x_note');
SELECT * FROM crm.check_mapping(:quotes);

-- Less strict, or not asked at all.
SET pg_crm.check_fields = 'warning';
SELECT crm.alter_field(:map, 'owner', 'owner') AS id;
SELECT field, severity, code FROM crm.check_mapping(:map) WHERE severity = 'error';
SET pg_crm.check_fields = 'off';
SELECT crm.alter_field(:map, 'owner', 'nothing') AS id;
SET pg_crm.check_fields = 'maybe';
RESET pg_crm.check_fields;

-- A CRM that does not answer keeps nobody from mapping.
\set VERBOSITY terse
SELECT crm.pause('fields');
SELECT crm.alter_field(:map, 'owner', 'owner', direction => 'inbound') AS id;
SELECT crm.resume('fields');
SELECT crm_stub.inject('fields', 'transient', 1, operation => 'describe');
SELECT * FROM crm.describe('fields', 'deal');
SELECT crm_stub.inject('fields', 'transient', 1, operation => 'describe');
SELECT * FROM crm.check_mapping(:map);
SELECT crm.alter_field(:map, 'owner', 'owner', direction => 'inbound') AS id;
\set VERBOSITY default

-- Rights.
CREATE ROLE describe_operator;
SELECT crm.grant_access('describe_operator', 'operator');
CREATE ROLE describe_writer;
SELECT crm.grant_access('describe_writer', 'writer');
SET ROLE describe_operator;
SELECT count(*) > 0 AS described FROM crm.describe('fields', 'account');
SELECT count(*) > 0 AS checked FROM crm.check_mapping(:map);
SET ROLE describe_writer;
SELECT * FROM crm.describe('fields', 'account');
SELECT * FROM crm.check_mapping(:map);
RESET ROLE;

SET client_min_messages = warning;
SELECT crm.unmap_object(:map), crm.unmap_object(:quotes), crm.drop_connection('fields');
DROP OWNED BY describe_operator, describe_writer;
DROP ROLE describe_operator, describe_writer;
DROP SCHEMA describe CASCADE;
