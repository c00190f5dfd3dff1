-- Connections: what is refused, and how the errors help.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS pg_crm;
\set SHOW_CONTEXT never

-- Providers.
SELECT crm.create_connection('acme', 'siebel');
SELECT crm.create_connection('acme', 'Stub');
SELECT crm.create_connection('', 'stub');
SELECT crm.create_connection(NULL, 'stub');

-- Options.
SELECT crm.create_connection('acme', 'stub', options => '{"max_inflight": 4}');
SELECT crm.create_connection('acme', 'salesforce', 'https://acme.my.salesforce.com', '{"version": "62.0"}');
SELECT crm.create_connection('acme', 'stub', options => '{"max_in_flight": 0}');
SELECT crm.create_connection('acme', 'stub', options => '{"max_in_flight": "4"}');
SELECT crm.create_connection('acme', 'stub', options => '{"rate_limit": 100}');
SELECT crm.create_connection('acme', 'stub', options => '{"rate_limit": {"requests": 0, "seconds": 10}}');
SELECT crm.create_connection('acme', 'stub', options => '{"realtime_reserve": 1}');
SELECT crm.create_connection('acme', 'stub', options => '{"daily_limit": 0}');
SELECT crm.create_connection('acme', 'stub', options => '{"via": "composio"}');
SELECT crm.create_connection('acme', 'hubspot', options => '{"via": "zapier"}');
SELECT crm.create_connection('acme', 'hubspot', options => '{"via": "composio"}');
SELECT crm.create_connection('acme', 'hubspot', options => '{"via": "composio", "connected_account_id": 7}');
SELECT crm.create_connection('acme', 'hubspot', options => '{"user_id": "dana"}');
SELECT crm.create_connection('acme', 'hubspot', options => '{"via": "composio", "connected_account_id": "ca_1"}', credentials => '{"access_token": "t"}');
-- Salesforce itself would need an address.
SELECT crm.create_connection('acme', 'salesforce', options => '{"via": "composio", "connected_account_id": "ca_1"}') > 0 AS made;
SELECT crm.drop_connection('acme');
SELECT crm.create_connection('acme', 'stub', options => '[]');

-- Base URLs.
SELECT crm.create_connection('acme', 'salesforce');
SELECT crm.create_connection('acme', 'salesforce', 'acme');
SELECT crm.create_connection('acme', 'salesforce', 'ftp://acme.my.salesforce.com');
SELECT crm.create_connection('acme', 'salesforce', 'http://acme.my.salesforce.com');

-- Credentials: the keys are the provider's, and no value is ever shown.
SELECT crm.create_connection('acme', 'hubspot', credentials => '{"token": "pat-secret"}');
SELECT crm.create_connection('acme', 'hubspot', credentials => '{"access_token": 12345678}');
SELECT crm.create_connection('acme', 'hubspot', credentials => '{"access_token": {"path": "/pat-secret"}}');
SELECT crm.create_connection('acme', 'hubspot', credentials => '{"access_token": {"file": "/a", "env": "B"}}');
SELECT crm.create_connection('acme', 'hubspot', credentials => '"pat-secret"');
SELECT crm.create_connection('acme', 'stub', credentials => '{"access_token": "pat-secret"}');
SELECT count(*) FROM crm.connection WHERE name = 'acme';

-- One name, one connection.
SELECT crm.create_connection('acme', 'hubspot', 'https://api.hubapi.com/', credentials => '{"access_token": {"env": "NO_SUCH_TOKEN"}}') > 0 AS created;
SELECT crm.create_connection('acme', 'stub');
SELECT name, provider, base_url, options, paused FROM crm.connection WHERE name = 'acme';

-- New credentials replace the old ones and revive the connection.
SELECT crm.set_credentials('acme', '{"token": "pat-secret"}');
SELECT crm.set_credentials('acne', '{}');
UPDATE crm.connection_state SET state = 'error', error_class = 'auth', last_error = 'expired'
WHERE connection_id = (SELECT connection_id FROM crm.connection WHERE name = 'acme');
SELECT crm.set_credentials('acme', '{"access_token": {"file": "/nonexistent"}}');
SELECT k.version, k.secret
FROM crm.connection c JOIN crm.credential k USING (connection_id) WHERE c.name = 'acme';

-- Pausing.
SELECT crm.pause('acme');
SELECT paused FROM crm.connection WHERE name = 'acme';
-- What it says depends on whether the worker has noticed that the credentials cannot be resolved.
SET client_min_messages = error;
SELECT crm.resume('acme');
SET client_min_messages = warning;
SELECT paused FROM crm.connection WHERE name = 'acme';
SELECT crm.pause('acne');

-- Dropping: not while a table is mapped.
CREATE TABLE conn_customers (id int PRIMARY KEY);
SELECT crm.map_object('acme', 'conn_customers', 'companies') AS map \gset
DO $$ BEGIN
    PERFORM crm.drop_connection('acme');
EXCEPTION WHEN dependent_objects_still_exist THEN
    RAISE WARNING 'refused: %', sqlerrm;
END $$;
SELECT crm.unmap_object(:map);
SELECT crm.drop_connection('acme');
SELECT crm.drop_connection('acme');
SELECT count(*) FROM crm.credential k WHERE NOT EXISTS (SELECT FROM crm.connection c WHERE c.connection_id = k.connection_id);
DROP TABLE conn_customers;
