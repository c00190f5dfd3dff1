//! What people do in the CRM. What they picked may be gone by then: the worker deletes records too.

use crm_suites::{Json, Vendor, json};
use serde_json::Map;

use crate::forms::is_indigestible;
use crate::oracle::Side;
use crate::plan::{COLUMNS, CrmKey, Pick, Word};
use crate::walker::{Walk, nth};

impl Walk {
    /// The n-th record there is, or was.
    pub(crate) async fn record(&self, pick: Pick, deleted: bool) -> Option<String> {
        let mut ids = self.ids(deleted).await;
        ids.sort();
        nth(&ids, pick).cloned()
    }

    /// Records that are there, or that are deleted.
    pub(crate) async fn ids(&self, deleted: bool) -> Vec<String> {
        if self.plan.vendor == Vendor::Stub {
            let sql = "SELECT crm_id FROM crm_stub.records WHERE deleted = $1";
            return self.db.all(sql, &[&deleted]).await;
        }
        let path = format!(
            "objects/{}/{}?deleted=true",
            self.plan.vendor.name(),
            self.object()
        );
        let records = self.crm.sim().get(&path);
        let records = records["records"].as_array().expect("records").iter();
        records
            .filter(|r| r["deleted"] == deleted)
            .map(|r| r["id"].as_str().expect("an id").to_owned())
            .collect()
    }

    pub(crate) async fn crm_edit(&mut self, pick: Pick, cells: &[(usize, Word)]) {
        if let Some(id) = self.record(pick, false).await {
            let fields = self.values('c', cells, &id);
            let done = self.edit_record(&id, &fields).await;
            self.note(format!(
                "CRM edits {id}: {} {done:?}",
                Json::from(fields.clone())
            ));
            if done.is_ok() {
                self.set_record(&id, &fields);
            }
        }
    }

    /// Whoever deleted the record meanwhile, the edit is refused then.
    pub(crate) async fn edit_record(
        &self,
        id: &str,
        fields: &Map<String, Json>,
    ) -> Result<(), String> {
        let vendor = self.plan.vendor;
        let named = Json::from(vendor.entries(fields));
        if vendor == Vendor::Stub {
            let sql = "UPDATE crm_stub.records SET fields = jsonb_strip_nulls(fields || $2) WHERE crm_id = $1 AND NOT deleted RETURNING 1";
            let done = self.db.client().query(sql, &[&id, &named]).await;
            let hit = done.map_err(|error| format!("{error:?}"))?.len();
            return if hit == 1 {
                Ok(())
            } else {
                Err("it is deleted".to_owned())
            };
        }
        let path = format!("objects/{}/{}/{id}", vendor.name(), self.object());
        self.crm
            .sim()
            .attempt("PATCH", &path, &json!({ "fields": named }))
            .map(|_| ())
    }

    pub(crate) fn set_record(&mut self, id: &str, fields: &Map<String, Json>) {
        for (column, _) in COLUMNS {
            if let Some(value) = fields.get(column) {
                self.oracle
                    .set(Side::Record(id.to_owned()), column, value, self.at);
            }
        }
    }

    pub(crate) async fn crm_create(&mut self, key: CrmKey, words: &[Word]) {
        let cells: Vec<(usize, Word)> = words.iter().copied().enumerate().collect();
        let mut fields = self.values('c', &cells, "new");
        let key = match key {
            CrmKey::None => None,
            CrmKey::New => Some(format!("crm{}", self.at)),
            CrmKey::Row(pick) => self.row(pick).await,
        };
        if let Some(key) = key {
            let name = self.plan.vendor.field("id");
            let records = self.crm.records(&self.db, self.object()).await;
            if records
                .values()
                .any(|r| r.get(name).and_then(Json::as_str) == Some(&key))
            {
                return;
            }
            fields.insert("id".into(), key.into());
        }
        let object = self.object();
        // Where keys are unique, the worker may just have made a record with this one.
        let made = self
            .crm
            .attempt_create(&self.db, object, &[fields.clone()])
            .await;
        let told = Json::from(fields.clone());
        self.note(format!("CRM creates {made:?}: {told}"));
        let Ok(ids) = made else { return };
        let key = fields.get("id").and_then(Json::as_str);
        self.keys_in_crm.extend(key.map(str::to_owned));
        self.set_record(&ids[0], &fields);
    }

    /// What no row can take is set to something else.
    pub(crate) async fn cure(&mut self) {
        let records = self.crm.records(&self.db, self.object()).await;
        for (id, fields) in records {
            let cells: Vec<(usize, Word)> = (0..COLUMNS.len())
                .filter(|&n| {
                    fields
                        .get(self.plan.vendor.field(COLUMNS[n].0))
                        .is_some_and(is_indigestible)
                })
                .map(|n| (n, Word::Own))
                .collect();
            if cells.is_empty() {
                continue;
            }
            let fields = self.values('c', &cells, &id);
            self.note(format!("CRM cures {id}: {}", Json::from(fields.clone())));
            self.edit_record(&id, &fields).await.expect("it is there");
            self.set_record(&id, &fields);
        }
    }

    pub(crate) async fn crm_delete(&mut self, id: &str) {
        if self.plan.vendor == Vendor::Stub {
            let sql = "DELETE FROM crm_stub.records WHERE crm_id = $1";
            self.db.rows(sql, &[&id]).await;
        } else {
            let (vendor, object) = (self.plan.vendor.name(), self.object());
            let path = format!("objects/{vendor}/{object}/{id}");
            self.crm.sim().delete(&path);
        }
        self.note(format!("CRM deletes {id}"));
    }

    pub(crate) async fn crm_restore(&mut self, pick: Pick) {
        let Some(id) = self.record(pick, true).await else {
            return;
        };
        let object = self.object();
        let done = if self.plan.vendor == Vendor::Stub {
            let sql = "UPDATE crm_stub.records SET deleted = false WHERE crm_id = $1";
            let done = self.db.client().query(sql, &[&id]).await;
            done.map(|_| ()).map_err(|error| format!("{error:?}"))
        } else {
            let path = format!("objects/{}/{object}/{id}", self.plan.vendor.name());
            let restored = json!({"deleted": false});
            let done = self.crm.sim().attempt("PATCH", &path, &restored);
            done.map(|_| ())
        };
        self.note(format!("CRM restores {id}: {done:?}"));
        let record = self.crm.record(&self.db, object, &id).await;
        let name = self.plan.vendor.field("id");
        let key = record.and_then(|r| Some(r.get(name)?.as_str()?.to_owned()));
        self.keys_in_crm.extend(key);
    }

    pub(crate) async fn crm_merge(&mut self, into: Pick, from: Pick) {
        let (into, from) = (
            self.record(into, false).await,
            self.record(from, false).await,
        );
        let (Some(into), Some(from)) = (into, from) else {
            return;
        };
        if into == from {
            return;
        }
        let object = self.object();
        let path = format!("merge/{}/{object}", self.plan.vendor.name());
        let order = json!({"into": into, "from": [from]});
        // What was picked may be deleted by now.
        let Ok(record) = self.crm.sim().attempt("POST", &path, &order) else {
            return;
        };
        let kept = record["id"].as_str().expect("an id").to_owned();
        self.note(format!("CRM merges {from} into {into}: {kept}"));
        for gone in [&into, &from] {
            if **gone != kept {
                self.oracle.merge(&kept, gone);
            }
        }
    }
}
