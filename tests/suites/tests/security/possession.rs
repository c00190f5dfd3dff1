//! What these scenarios start from: a mapped table that belongs to a role without any rights beyond
//! it, and a witness that notes with whose rights that role's code runs.

use crm_suites::{Crm, Database, Session, Vendor, eventually};

use crate::CLUSTER;

pub struct Possession {
    pub db: Database,
    pub crm: Crm,
    pub map: i32,
    pub role: String,
    /// A session of the owner.
    pub owner: Session,
}

/// The owner's table, its key first.
pub const PEOPLE: &str =
    "CREATE TABLE m.people (id text PRIMARY KEY, email varchar, phone text, notes text)";

impl Possession {
    /// The table as that statement makes it, with `email` and `phone` mapped in this direction.
    pub async fn of(table: &str, direction: &str, arguments: &str) -> Possession {
        let db = CLUSTER.database().await;
        Possession::in_database(db, table, direction, arguments).await
    }

    pub async fn in_database(
        db: Database,
        table: &str,
        direction: &str,
        arguments: &str,
    ) -> Possession {
        let crm = Crm::connect(&db, Vendor::Stub).await;
        let role = format!("{}_owner", db.name);
        let sql = format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA m AUTHORIZATION {role}");
        db.execute(&sql).await;
        let owner = db.session().await;
        let sql = format!(
            "SET SESSION AUTHORIZATION {role}; {table};
             CREATE TABLE m.witness (who name, is_super bool, place text);
             CREATE FUNCTION m.note(place text) RETURNS bool LANGUAGE sql AS $$
                INSERT INTO m.witness SELECT r.rolname, r.rolsuper, place FROM pg_catalog.pg_roles r
                WHERE r.rolname = current_user RETURNING true $$"
        );
        owner.execute(&sql).await;
        let sql = format!(
            "SELECT crm.map_object('stub', 'm.people', 'contact', external_id_field => 'external_key'{arguments})"
        );
        let map = db.one(&sql, &[]).await;
        for (column, field) in [("email", "last_name"), ("phone", "first_name")] {
            let sql = format!(
                "SELECT crm.map_field({map}, '{column}', '{field}', direction => '{direction}')"
            );
            db.execute(&sql).await;
        }
        Possession {
            db,
            crm,
            map,
            role,
            owner,
        }
    }

    /// The owner's code ran with the owner's rights alone, if it ran.
    pub async fn assert_own_rights(&self) {
        let sql = format!(
            "SELECT * FROM m.witness WHERE who <> '{}' OR is_super",
            self.role
        );
        assert_eq!(
            self.db.text(&sql).await,
            "",
            "code of the owner ran as somebody else"
        );
    }

    /// Makes CRM records with these keys, by which they are named too.
    pub async fn born(&self, keys: &[String]) {
        let sql = "INSERT INTO crm_stub.records (connection, crm_object, fields)
                   SELECT 'stub', 'contact', jsonb_build_object('external_key', k, 'first_name', k, 'last_name', 'Born') FROM unnest($1::text[]) AS k";
        self.db.rows(sql, &[&keys]).await;
    }

    /// How often the owner's code ran at that place.
    pub async fn noted(&self, place: &str) -> i64 {
        self.db
            .one("SELECT count(*) FROM m.witness WHERE place = $1", &[&place])
            .await
    }

    pub async fn state(&self) -> String {
        let sql = "SELECT state FROM crm.status WHERE map_id = $1";
        self.db.one(sql, &[&self.map]).await
    }

    /// Waits until the map stands still; the reason it gives.
    pub async fn stopped(&self) -> String {
        eventually("the map stops", async || {
            let sql = "SELECT reason FROM crm.status WHERE map_id = $1 AND state = 'error'";
            self.db.all(sql, &[&self.map]).await.pop()
        })
        .await
    }

    /// Waits until the map works.
    pub async fn idle(&self) {
        eventually("the map works", async || {
            (self.state().await == "idle").then_some(())
        })
        .await;
    }
}
