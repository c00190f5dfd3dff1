//! What a CRM makes of values by rules that none of its descriptions shows.

use serde_json::{Map, Value, json};

use super::Crm;
use crate::database::Database;

impl Crm {
    /// From now on the CRM keeps what is written to people's fields in a form of its own, by
    /// column: `decimals` and `characters` are how many are kept, `upper` is upper case, `brackets`
    /// are put around.
    pub async fn alter(&self, db: &Database, rules: &Value) {
        let rules: Map<String, Value> = rules
            .as_object()
            .expect("column -> rule")
            .iter()
            .map(|(column, rule)| (self.vendor.field(column).to_owned(), rule.clone()))
            .collect();
        if let Some(sim) = &self.sim {
            let path = format!("schema/{}/{}", self.vendor.name(), self.vendor.people());
            sim.post(&path, &json!({ "alter": rules }));
            return;
        }
        let sql = format!(
            "CREATE OR REPLACE FUNCTION alter_silently() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 rule record;
                 held text;
             BEGIN
                 FOR rule IN SELECT key AS field, value AS does FROM jsonb_each('{}') LOOP
                     held := NEW.fields ->> rule.field;
                     CONTINUE WHEN held IS NULL OR held = (SELECT r.fields ->> rule.field FROM crm_stub.records r WHERE r.crm_id = NEW.crm_id);
                     IF rule.does ? 'decimals' THEN
                         NEW.fields := NEW.fields || jsonb_build_object(rule.field, round(held::numeric, (rule.does ->> 'decimals')::int));
                         CONTINUE;
                     END IF;
                     held := left(held, coalesce((rule.does ->> 'characters')::int, 100000));
                     IF rule.does ? 'upper' THEN
                         held := upper(held);
                     END IF;
                     IF rule.does ? 'brackets' AND held NOT LIKE '[%' THEN
                         held := '[' || held || ']';
                     END IF;
                     NEW.fields := NEW.fields || jsonb_build_object(rule.field, held);
                 END LOOP;
                 RETURN NEW;
             END $$;
             CREATE OR REPLACE TRIGGER alter_silently BEFORE INSERT OR UPDATE ON crm_stub.records
             FOR EACH ROW EXECUTE FUNCTION alter_silently()",
            json!(rules)
        );
        db.execute(&sql).await;
    }
}
