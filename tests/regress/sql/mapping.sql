-- Mapping a table: what is refused, and how the errors help.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_crm;
\set SHOW_CONTEXT never
SELECT crm.create_connection('mapping', 'stub') > 0 AS created;
CREATE SCHEMA mapping;
SET search_path = mapping;
-- How a statement is refused, without the numbers that differ from run to run.
CREATE FUNCTION pg_temp.refusal(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    EXECUTE statement;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    RETURN QUERY SELECT regexp_replace(replace(said, pg_my_temp_schema()::regnamespace::text, 'pg_temp'), '(map |: |, )\d+', '\1N', 'g')
                 FROM unnest(ARRAY[message, detail, hint]) said WHERE said <> '';
END $$;

CREATE TABLE contacts (id int PRIMARY KEY, email text UNIQUE NOT NULL, nick text, born date, tags text[], doc jsonb, at point, "select" text);
CREATE TABLE lines (order_id int, line int, PRIMARY KEY (order_id, line));
CREATE TABLE keyless (id int NOT NULL, email text NOT NULL);
CREATE UNIQUE INDEX ON keyless (id) WHERE id > 0;
CREATE UNIQUE INDEX ON keyless (lower(email));
CREATE VIEW people AS SELECT * FROM contacts;
CREATE MATERIALIZED VIEW snapshot AS SELECT * FROM contacts;
CREATE SEQUENCE numbers;
CREATE TEMP TABLE scratch (id int PRIMARY KEY);
CREATE TABLE events (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE events_1 PARTITION OF events DEFAULT;

-- Relations.
SELECT crm.map_object('nowhere', 'contacts', 'contact');
SELECT crm.map_object('mapping', 'people', 'contact');
SELECT crm.map_object('mapping', 'snapshot', 'contact');
SELECT crm.map_object('mapping', 'numbers', 'contact');
SELECT crm.map_object('mapping', 'events_1', 'contact');
SELECT crm.map_object('mapping', 'nothing', 'contact');
SELECT crm.map_object('mapping', 'contacts', '');
CREATE TABLE animals (id int PRIMARY KEY);
CREATE TABLE dogs () INHERITS (animals);
SELECT crm.map_object('mapping', 'animals', 'contact');
SELECT pg_temp.refusal($$SELECT crm.map_object('mapping', 'scratch', 'contact')$$);

-- Keys.
SELECT crm.map_object('mapping', 'keyless', 'contact');
SELECT crm.map_object('mapping', 'lines', 'contact');
SELECT crm.map_object('mapping', 'keyless', 'contact', key_column => 'id');
SELECT crm.map_object('mapping', 'keyless', 'contact', key_column => 'email');
SELECT crm.map_object('mapping', 'contacts', 'contact', key_column => 'nick');
SELECT crm.map_object('mapping', 'contacts', 'contact', key_column => 'born');
SELECT crm.map_object('mapping', 'contacts', 'contact', key_column => 'name');
SELECT crm.map_object('mapping', 'contacts', 'contact', shard_column => 'tenant');

-- Words.
SELECT crm.map_object('mapping', 'contacts', 'contact', on_insert => 'insert');
SELECT crm.map_object('mapping', 'contacts', 'contact', on_insert => 'create');
SELECT crm.map_object('mapping', 'contacts', 'contact', on_delete => 'drop');
SELECT crm.map_object('mapping', 'contacts', 'contact', on_crm_insert => 'create');
SELECT crm.map_object('mapping', 'contacts', 'contact', on_crm_delete => NULL);
SELECT crm.map_object('mapping', 'contacts', 'contact', conflict_scope => 'cells');
SELECT crm.map_object('mapping', 'contacts', 'contact', write_interval => '59 seconds');
SELECT crm.map_object('mapping', 'contacts', 'contact', ingest_interval => '25 hours');

-- What is accepted: a unique column, a key beside its shard, and one table for two objects.
SELECT crm.map_object('mapping', 'contacts', 'contact', key_column => 'email') AS map \gset
SELECT key_column FROM crm.object_map WHERE map_id = :map;
SELECT crm.map_object('mapping', 'lines', 'deal', shard_column => 'order_id') AS lines \gset
SELECT key_column, shard_column FROM crm.object_map WHERE map_id = :lines;
SELECT crm.map_object('mapping', 'contacts', 'account') AS second \gset
SELECT crm.map_object('mapping', 'contacts', 'contact');

-- Fields.
SELECT pg_temp.refusal($$SELECT crm.map_field(0, 'nick', 'first_name')$$);
SELECT crm.map_field(:map, 'name', 'first_name');
SELECT crm.map_field(:map, 'ctid', 'first_name');
SELECT crm.map_field(:map, 'nick', '');
SELECT crm.map_field(:map, 'nick', 'first_name', 'both');
SELECT crm.map_field(:map, 'nick', 'first_name', on_conflict => 'newest');
SELECT crm.map_field(:map, 'email', 'email');
SELECT crm.map_field(:map, 'email', 'email', 'outbound');

-- Types.
SELECT crm.map_field(:map, 'nick', 'first_name', data_type => 'string');
SELECT crm.map_field(:map, 'nick', 'first_name', data_type => 'number');
SELECT crm.map_field(:map, 'born', 'x_born', data_type => 'boolean');
SELECT crm.map_field(:map, 'tags', 'x_tags', data_type => 'choice');
SELECT crm.map_field(:map, 'at', 'x_at');
SELECT crm.map_field(:map, 'at', 'x_at', data_type => 'number');
SELECT crm.map_field(:map, 'nick', 'first_name'), crm.map_field(:map, 'born', 'x_born'), crm.map_field(:map, 'tags', 'x_tags'),
       crm.map_field(:map, 'doc', 'x_doc'), crm.map_field(:map, 'at', 'x_at', data_type => 'text'), crm.map_field(:map, 'select', 'x_select', data_type => 'choice');
SELECT field_id, column_name, crm_field, direction, data_type FROM crm.field_map WHERE map_id = :map ORDER BY field_id;

-- Rules.
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"maxlength": 3}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '[]');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"min": 3}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"max_length": 0}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"max_length": "3"}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"nullable": "no"}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"choices": []}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"choices": ["a", ""]}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"pattern": "a("}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"pattern": "(?<=a)b"}');
SELECT crm.alter_field(:map, 'nick', 'first_name', validation => '{"pattern": "a\\b"}');
SELECT crm.alter_field(:map, 'born', 'x_born', validation => '{"min": "yesterday"}');
SELECT crm.alter_field(:map, 'born', 'x_born', validation => '{"min": "2026-12-31", "max": "2026-01-01"}');
SELECT crm.alter_field(:map, 'doc', 'x_doc', validation => '{"max_length": 10}');

-- A CRM field is written by one column.
SELECT crm.alter_field(:map, 'select', 'first_name');
SELECT crm.unmap_object(:second);
SELECT crm.map_object('mapping', 'contacts', 'account', external_id_field => 'external_key') AS second \gset
SELECT crm.map_field(:second, 'nick', 'external_key');

-- Transforms.
CREATE FUNCTION two(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION wide(text) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb($1)';
CREATE FUNCTION narrow(jsonb) RETURNS text LANGUAGE sql AS 'SELECT $1::text';
CREATE FUNCTION many(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION shout(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(upper($1 #>> '{}')) $$;
SELECT crm.alter_field(:map, 'nick', 'first_name', transform_out => 'two(jsonb, jsonb)');
SELECT crm.alter_field(:map, 'nick', 'first_name', transform_out => 'wide(text)');
SELECT crm.alter_field(:map, 'nick', 'first_name', transform_out => 'narrow(jsonb)');
SELECT crm.alter_field(:map, 'nick', 'first_name', transform_in => 'many(jsonb)');
SELECT pg_temp.refusal(format($$SELECT crm.alter_field(%s, 'nick', 'first_name', transform_out => 'jsonb_agg(jsonb)')$$, :map));
SELECT pg_temp.refusal(format($$SELECT crm.alter_field(%s, 'nick', 'first_name', transform_out => 'nothing(jsonb)')$$, :map));
-- Rules judge the column, so they must be able to.
SELECT crm.alter_field(:map, 'nick', 'x_rank', data_type => 'number', transform_out => 'shout(jsonb)', validation => '{"min": 1}');

-- A column is mapped once; altered, it keeps its place and what is not named.
SELECT pg_temp.refusal(format($$SELECT crm.map_field(%s, 'nick', 'last_name')$$, :map));
SELECT crm.alter_field(:map, 'nick', validation => '{"max_length": null}');
SELECT crm.alter_field(:map, 'nick', validation => '{"max_length": 30, "nullable": false}');
SELECT crm.alter_field(:map, 'nick', validation => '{"max_length": null}');
SELECT validation FROM crm.field_map WHERE map_id = :map AND column_name = 'nick';
SELECT crm.alter_field(:map, 'nick', validation => '{"nullable": null}');
SELECT pg_temp.refusal(format($$SELECT crm.alter_field(%s, 'first_name', 'last_name')$$, :map));
SELECT crm.alter_field(:map, 'nick', 'last_name', 'outbound', data_type => 'number', transform_out => 'shout(jsonb)');
SELECT field_id, column_name, crm_field, direction, data_type, transform_out FROM crm.field_map WHERE map_id = :map AND column_name = 'nick';
SELECT crm.alter_field(:map, 'nick', transform_out => '-', data_type => 'text', direction => 'bidirectional');
SELECT crm_field, direction, data_type, transform_out FROM crm.field_map WHERE map_id = :map AND column_name = 'nick';
-- A place is never given to another column.
SELECT crm.unmap_field(:map, 'select');
SELECT crm.map_field(:map, 'select', 'x_select');
SELECT pg_temp.refusal(format($$SELECT crm.unmap_field(%s, 'first_name')$$, :map));
SELECT pg_temp.refusal($$SELECT crm.unmap_field(0, 'nick')$$);
SELECT pg_temp.refusal($$SELECT crm.unmap_object(0)$$);
SELECT pg_temp.refusal($$SELECT crm.unmap_object(NULL)$$);

-- Maps are altered in place as well.
SELECT pg_temp.refusal($$SELECT crm.alter_map(0)$$);
SELECT crm.alter_map(:map, on_insert => 'make');
SELECT crm.alter_map(:map, on_insert => 'create');
SELECT crm.alter_map(:map, write_interval => '59 seconds');
SELECT crm.alter_map(:second, external_id_field => 'name');
SELECT crm.alter_map(:map, on_delete => 'unlink', write_interval => '1 hour', on_crm_insert => 'insert');
SELECT on_insert, on_delete, on_crm_insert, on_crm_delete, write_interval, ingest_interval FROM crm.object_map WHERE map_id = :map;
UPDATE crm.object_map SET on_delete = 'delete';
DELETE FROM crm.field_map;
SELECT crm.alter_connection('mapping', base_url => 'http://crm.example');
SELECT crm.alter_connection('nowhere');
SELECT crm.alter_connection('mapping', options => '{"max_in_flight": 100}');
SELECT crm.alter_connection('mapping', options => '{"max_in_flight": 8}');
SELECT crm.alter_connection('mapping', options => '{"realtime_reserve": 0.5, "max_in_flight": null}');
SELECT options FROM crm.connection WHERE name = 'mapping';

SELECT crm.unmap_object(:map), crm.unmap_object(:lines), crm.unmap_object(:second);
SELECT crm.drop_connection('mapping');
DROP SCHEMA mapping CASCADE;
