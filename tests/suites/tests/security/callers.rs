//! Who calls is the role in force where a function is called: not whom the session is of, and
//! nobody in the worker.

use crm_suites::{Desk, Vendor};

use crate::{CLUSTER, refused, role};

/// The owner is an admin, which lets them map their own tables, in a session of their own.
#[tokio::test]
async fn a_transform_sets_nothing_up() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    desk.link(1).await;
    let (owner, session) = role(&desk.db, "owner", Some("admin")).await;
    desk.db
        .execute(&format!(
            "CREATE TABLE superusers (id int PRIMARY KEY, name text);
             ALTER TABLE people OWNER TO {owner};
             CREATE TABLE probe (call text, refusal text);
             CREATE FUNCTION probe(jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
             DECLARE
                 call text;
                 refusal text;
             BEGIN
                 FOREACH call IN ARRAY ARRAY[
                     'crm.map_object(''stub'', ''public.superusers'', ''account'')', 'crm.map_object(''stub'', ''public.mine'', ''account'')',
                     'crm.map_field(1, ''phone'', ''phone'')', 'crm.unmap_object(1)', 'crm.pause(''stub'')', 'crm.resume(''stub'')',
                     'crm.create_connection(''other'', ''stub'')', 'crm.drop_connection(''stub'')', 'crm.set_credentials(''stub'', ''{{}}'')',
                     'crm.link(1, ''p1'', ''x'')', 'crm.replay(1)', 'crm.replay_all()', 'crm.cancel_write(gen_random_uuid())',
                     'crm.resolve_conflict(1, ''crm'')', 'crm.flush()', 'crm.ingest_now()', 'crm.backfill(1)', 'crm.test_connection(''stub'')',
                     'crm.describe(''stub'', ''contact'')', 'crm.check_mapping(1)', 'crm_internal.caller()',
                     'crm.receive_webhook(''stub'', ''{{}}'', '''')', 'crm.write(''public.people'', ''p1'', ''{{}}'')', 'crm.read_live(''public.people'', ''p1'')']
                 LOOP
                     refusal := NULL;
                     BEGIN
                         EXECUTE 'SELECT ' || call;
                     EXCEPTION WHEN OTHERS THEN
                         refusal := sqlstate || ' ' || sqlerrm;
                     END;
                     INSERT INTO public.probe VALUES (call, refusal);
                 END LOOP;
                 RETURN $1;
             END $$;
             ALTER TABLE probe OWNER TO {owner};
             ALTER FUNCTION probe(jsonb) OWNER TO {owner};
             CREATE TABLE mine (id int PRIMARY KEY);
             ALTER TABLE mine OWNER TO {owner};
             GRANT CREATE ON SCHEMA public TO {owner}"
        ))
        .await;
    session
        .execute(&format!(
            "SELECT crm.map_field({}, 'title', '{}', direction => 'outbound', transform_out => 'probe(jsonb)')",
            desk.map,
            Vendor::Stub.field("title")
        ))
        .await;
    desk.db.execute("UPDATE people SET title = 'Mx'").await;
    desk.db.drain().await;
    let calls = desk.db.count("(SELECT DISTINCT call FROM probe) x").await;
    assert_eq!(calls, 24, "the transform ran");
    let other = "SELECT call || ': ' || coalesce(refusal, 'done') FROM probe
                 WHERE refusal IS NULL OR refusal NOT LIKE '42501 %security-restricted operation'";
    assert_eq!(desk.db.text(other).await, "");
    let maps = "SELECT string_agg(relation::text, ' ') FROM crm.object_map";
    assert_eq!(desk.db.text(maps).await, "people");
    // The same calls are the owner's right where the owner makes them.
    session
        .execute("SELECT crm.map_object('stub', 'mine', 'account')")
        .await;
    refused(
        &session,
        "SELECT crm.map_object('stub', 'superusers', 'account')",
    )
    .await;
    desk.db.assert_checked().await;
}

/// The trigger's owner is an admin, and no member of pg_read_server_files; who inserts is a
/// superuser.
#[tokio::test]
async fn a_definers_trigger_that_a_superuser_fires_calls_as_its_owner() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let (mallory, _) = role(&desk.db, "mallory", Some("admin")).await;
    desk.db
        .execute(&format!(
            "CREATE TABLE bait (id int);
             CREATE TABLE superusers (id int PRIMARY KEY, name text);
             CREATE FUNCTION spring() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 IF NEW.id = 1 THEN
                     PERFORM crm.create_connection('x', 'hubspot', credentials => '{{\"access_token\": {{\"file\": \"/etc/passwd\"}}}}');
                 ELSIF NEW.id = 2 THEN
                     PERFORM crm.map_object('stub', 'superusers', 'account');
                 ELSE
                     PERFORM crm.grant_access('{mallory}', 'admin');
                 END IF;
                 RETURN NEW;
             END $$;
             ALTER FUNCTION spring() OWNER TO {mallory};
             CREATE TRIGGER spring BEFORE INSERT ON bait FOR EACH ROW EXECUTE FUNCTION spring()"
        ))
        .await;
    for id in 1..=3 {
        refused(&desk.db, &format!("INSERT INTO bait VALUES ({id})")).await;
    }
    // By SET ROLE it is the role that was set.
    let session = desk.db.session().await;
    session.execute(&format!("SET ROLE {mallory}")).await;
    refused(
        &session,
        "SELECT crm.map_object('stub', 'superusers', 'account')",
    )
    .await;
    refused(
        &session,
        &format!("SELECT crm.grant_access('{mallory}', 'admin')"),
    )
    .await;
    session.execute("RESET ROLE").await;
    session
        .execute("SELECT crm.map_object('stub', 'superusers', 'account')")
        .await;
}

#[tokio::test]
async fn nobody_says_that_somebody_else_calls() {
    let desk = Desk::open(&CLUSTER, Vendor::Stub).await;
    let (_, session) = role(&desk.db, "mallory", Some("admin")).await;
    let call =
        |token: &str| format!("SELECT crm_internal.do_set_credentials({token}, 'stub', '{{}}')");
    // The role's own number in front of anything, a superuser's in front of one's own proof,
    // nothing.
    for token in [
        "NULL",
        "''",
        "'\\x0000000a'",
        "'\\x0000000a' || decode(repeat('00', 32), 'hex')",
        "'\\x0000000a'::bytea || substr(crm_internal.caller(), 5)",
        "substr(crm_internal.caller(), 1, 35)",
        "crm_internal.caller() || '\\x00'",
    ] {
        refused(&session, &call(token)).await;
    }
    session.execute(&call("crm_internal.caller()")).await;
    // Good for its own transaction, also after an error in it, and for no other.
    let token: String = session
        .one("SELECT quote_literal(crm_internal.caller()::text)", &[])
        .await;
    refused(&session, &call(&format!("{token}::bytea"))).await;
    session
        .execute(&format!(
            "DO $$
             DECLARE token bytea := crm_internal.caller();
             BEGIN
                 BEGIN
                     PERFORM 1 / 0;
                 EXCEPTION WHEN division_by_zero THEN
                     NULL;
                 END;
                 PERFORM {};
             END $$",
            call("token").trim_start_matches("SELECT ")
        ))
        .await;
    // Another backend's is worth nothing.
    let other = desk.db.session().await;
    other.execute("BEGIN").await;
    let token: String = other
        .one("SELECT quote_literal(crm_internal.caller()::text)", &[])
        .await;
    refused(&session, &call(&format!("{token}::bytea"))).await;
}

/// A function that changes something and does not ask who calls would be a way around those that
/// do.
#[tokio::test]
async fn every_definer_refuses_where_nobody_calls() {
    let db = CLUSTER.database().await;
    let silent = "SELECT p.oid::regprocedure FROM pg_proc p JOIN crm.access a ON a.kind = 'function' AND a.name = p.proname
        WHERE p.pronamespace = a.schema::regnamespace AND p.prosecdef AND p.provolatile = 'v'
          AND p.prosrc !~ 'crm_internal\\.(verified\\(caller\\)|refuse_restricted\\(\\)|ask_worker\\(|ask_fields\\()'";
    assert_eq!(db.text(silent).await, "");
    // What is asked for a token is never called without, and what makes one never runs as somebody
    // else.
    let outer = "SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace IN ('crm'::regnamespace, 'crm_internal'::regnamespace) AND p.prosrc ~ 'crm_internal\\.caller\\(\\)' AND p.prosecdef";
    assert_eq!(db.text(outer).await, "");
}
