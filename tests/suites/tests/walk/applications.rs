//! What applications do to their table.

use crm_suites::Json;
use tokio_postgres::error::SqlState;

use crate::calls::Call;
use crate::forms::{plain, value};
use crate::oracle::{Edit, Side};
use crate::plan::{Action, Base, COLUMNS, Direction, Pick, Word};
use crate::walker::{CALLERS, Walk, nth, outcome};

/// Columns as applications give their values.
const VALUES: &str = "id text, first_name text, last_name text, email text, phone text, title text, score numeric, born date";

impl Walk {
    pub(crate) async fn row(&self, pick: Pick) -> Option<String> {
        let keys: Vec<String> = self.db.all("SELECT id FROM people ORDER BY id", &[]).await;
        nth(&keys, pick).cloned()
    }

    pub(crate) async fn update(&mut self, rows: usize, pick: Pick, cells: &[(usize, Word)]) {
        self.update_with("", rows, pick, cells).await;
    }

    /// The same in a transaction that begins with this.
    pub(crate) async fn update_with(
        &mut self,
        first: &str,
        rows: usize,
        pick: Pick,
        cells: &[(usize, Word)],
    ) {
        let cells = self.flowing(cells, &[Direction::Outbound, Direction::Bidirectional]);
        let keys: Vec<String> = self.db.all("SELECT id FROM people ORDER BY id", &[]).await;
        if cells.is_empty() || keys.is_empty() {
            return;
        }
        let objects: Vec<Json> = (0..rows.min(keys.len()))
            .map(|n| {
                let key = &keys[(pick + n) % keys.len()];
                let mut object = self.values('a', &cells, key);
                object.insert("id".into(), key.as_str().into());
                object.into()
            })
            .collect();
        let set: Vec<String> = cells
            .iter()
            .map(|(c, _)| format!("{0} = r.{0}", COLUMNS[*c].0))
            .collect();
        let sql = format!(
            "UPDATE people p SET {} FROM jsonb_to_recordset($1) AS r ({VALUES}) WHERE p.id = r.id RETURNING p.id",
            set.join(", ")
        );
        self.db.execute(&format!("BEGIN; {first}")).await;
        let done = self
            .db
            .client()
            .query(&sql, &[&Json::from(objects.clone())])
            .await;
        self.db.execute("COMMIT").await;
        self.note(format!(
            "{first} UPDATE {} : {}",
            Json::from(objects.clone()),
            outcome(&done)
        ));
        match done {
            Ok(rows) => {
                let hit: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                for object in &objects {
                    let key = object["id"].as_str().expect("a key").to_owned();
                    if hit.contains(&key) {
                        self.set_row(&key, object);
                    }
                }
            }
            // A field that may not change any more.
            Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    /// Triggers do not fire, and an operator asks for what was missed.
    pub(crate) async fn behind(&mut self, rows: usize, pick: Pick, cells: &[(usize, Word)]) {
        let first = "SET LOCAL session_replication_role = replica;";
        self.update_with(first, rows, pick, cells).await;
        self.operate("SELECT crm.recapture(map_id) FROM crm.object_map", &[])
            .await;
    }

    /// Every row gets another value in a column, by DDL. Whoever is at work on the table is not
    /// waited for long.
    pub(crate) async fn rewrite(&mut self, column: usize) {
        let (name, _) = COLUMNS[column];
        let flows = self.flowing(
            &[(column, Word::Own)],
            &[Direction::Outbound, Direction::Bidirectional],
        );
        if flows.is_empty() || ["email", "score"].contains(&name) {
            return;
        }
        let born = value('a', self.at, name, Word::Own, "", false);
        let using = match name {
            "born" => format!("date '{}'", plain(&born)),
            _ => format!(
                "'d{}.' || regexp_replace(lower(id), '[^a-z0-9-]', '', 'g')",
                self.at
            ),
        };
        let data_type = self.plan.types[column];
        let sql = format!(
            "SET lock_timeout = '200 ms'; ALTER TABLE people ALTER {name} TYPE {data_type} USING {using}"
        );
        let done = self.db.client().batch_execute(&sql).await;
        self.db.execute("RESET lock_timeout").await;
        self.note(format!("ALTER {name} USING {using}: {}", done.is_ok()));
        if done.is_ok() {
            // What a CRM's user has done since is in the record's history, and may have come in
            // already.
            let keys: Vec<String> = self.db.all("SELECT id FROM people", &[]).await;
            for key in keys {
                let mut letters = key.to_lowercase();
                letters.retain(|c| c.is_ascii_alphanumeric() || c == '-');
                let value = match name {
                    "born" => born.clone(),
                    _ => format!("d{}.{letters}", self.at).into(),
                };
                self.oracle.set(Side::Row(key), name, &value, self.at);
            }
        }
    }

    pub(crate) fn set_row(&mut self, key: &str, object: &Json) {
        for (column, _) in COLUMNS {
            if let Some(value) = object.get(column) {
                self.oracle
                    .set(Side::Row(key.to_owned()), column, value, self.at);
            }
        }
    }

    pub(crate) async fn insert(&mut self, keys: Vec<String>, words: &[Word]) {
        let all: Vec<(usize, Word)> = words.iter().copied().enumerate().collect();
        let cells = self.flowing(&all, &[Direction::Outbound, Direction::Bidirectional]);
        let mut objects = Vec::new();
        for key in &keys {
            let mut object = self.values('a', &cells, key);
            object.insert("id".into(), key.as_str().into());
            for (column, _) in COLUMNS {
                object.entry(column).or_insert(Json::Null);
            }
            objects.push(Json::from(object));
        }
        let names = COLUMNS.map(|(column, _)| column).join(", ");
        let sql = format!(
            "INSERT INTO people (id, {names}) SELECT id, {names} FROM jsonb_to_recordset($1) AS r ({VALUES})
             ON CONFLICT (id) DO NOTHING RETURNING id"
        );
        let hit: Vec<String> = self.db.all(&sql, &[&Json::from(objects.clone())]).await;
        self.note(format!(
            "INSERT {} : {}",
            Json::from(objects.clone()),
            hit.len()
        ));
        for object in &objects {
            let key = object["id"].as_str().expect("a key");
            if hit.iter().any(|k| k == key) {
                self.inserted.insert(key.to_owned(), self.at);
                self.deleted.remove(key);
                self.set_row(key, object);
            }
        }
    }

    pub(crate) async fn revive(&mut self, pick: Pick, words: &[Word]) {
        let there: Vec<String> = self.db.all("SELECT id FROM people", &[]).await;
        let gone: Vec<String> = self
            .inserted
            .keys()
            .filter(|k| !there.contains(k))
            .cloned()
            .collect();
        if let Some(key) = nth(&gone, pick) {
            self.insert(vec![key.clone()], words).await;
        }
    }

    pub(crate) async fn delete(&mut self, pick: Pick) {
        if let Some(key) = self.row(pick).await {
            self.db
                .rows("DELETE FROM people WHERE id = $1", &[&key])
                .await;
            self.note(format!("DELETE {key}"));
            self.reborn.insert(key.clone());
            self.deleted.insert(key);
        }
    }

    /// Rows that come back in the transaction that takes them out are new ones to everybody.
    pub(crate) async fn reload(&mut self) {
        // Where records follow, rows are not taken out without a word of each.
        let empty = match self.plan.on_delete {
            "ignore" => "TRUNCATE people",
            _ => "DELETE FROM people",
        };
        let sql = format!(
            "BEGIN; CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM people; {empty};
             INSERT INTO people OVERRIDING SYSTEM VALUE SELECT * FROM kept; COMMIT"
        );
        self.db.execute(&sql).await;
        let sql = "SELECT pg_catalog.to_jsonb(p) FROM people p";
        let rows: Vec<Json> = self.db.all(sql, &[]).await;
        self.note(format!("{empty} and INSERT of {} rows", rows.len()));
        for row in rows {
            let key = row["id"].as_str().expect("a key");
            self.inserted.insert(key.to_owned(), self.at);
            self.reborn.insert(key.to_owned());
            self.set_row(key, &row);
        }
    }

    /// Others wait for the row, or pass it by, until it is known what becomes of the transaction.
    pub(crate) async fn prepare(
        &mut self,
        pick: Pick,
        cells: &[(usize, Word)],
        commit: bool,
        ms: u64,
    ) {
        let cells = self.flowing(cells, &[Direction::Outbound, Direction::Bidirectional]);
        let Some(key) = self.row(pick).await.filter(|_| !cells.is_empty()) else {
            return;
        };
        let object = Json::from(self.values('a', &cells, &key));
        let set: Vec<String> = cells
            .iter()
            .map(|(c, _)| format!("{0} = r.{0}", COLUMNS[*c].0))
            .collect();
        let sql = format!(
            "UPDATE people p SET {} FROM jsonb_to_record($1) AS r ({VALUES}) WHERE p.id = $2",
            set.join(", ")
        );
        self.db.execute("BEGIN").await;
        let done = self.db.client().execute(&sql, &[&object, &key]).await;
        let is_done = match &done {
            Ok(rows) => *rows == 1,
            // A field that may not change any more.
            Err(error) if error.code() == Some(&SqlState::CHECK_VIOLATION) => false,
            Err(error) => panic!("{sql}: {error:?}"),
        };
        if !is_done {
            self.db.execute("ROLLBACK").await;
            return;
        }
        let name = format!("walk{}", self.at);
        self.db
            .execute(&format!("PREPARE TRANSACTION '{name}'"))
            .await;
        tokio::time::sleep(std::time::Duration::from_millis(ms)).await;
        let end = if commit { "COMMIT" } else { "ROLLBACK" };
        self.db.execute(&format!("{end} PREPARED '{name}'")).await;
        self.note(format!("{end} PREPARED of {key}: {object}"));
        if commit {
            self.set_row(&key, &object);
        }
    }

    pub(crate) async fn write(&mut self, action: &Action) {
        let Action::Write {
            pick,
            cells,
            base,
            force,
            commit,
        } = action
        else {
            return;
        };
        let cells = self.flowing(cells, &[Direction::Bidirectional]);
        let Some(key) = self.row(*pick).await.filter(|_| !cells.is_empty()) else {
            return;
        };
        let free = self.callers.iter().position(|c| c.busy_pid().is_none());
        let place = free.unwrap_or(self.at % CALLERS);
        self.join(place).await;
        let call = Call {
            began: self.at,
            crm_ids: self.linked_ids(&key).await,
            changes: self.values('w', &cells, &key),
            key,
            base: *base,
            force: *force,
            commit: *commit,
        };
        self.note(format!("crm.write begins: {call:?}"));
        self.callers[place].begin(call);
    }

    pub async fn linked_ids(&self, key: &str) -> Vec<String> {
        let sql = "SELECT crm_id FROM crm.ledger WHERE record_key = $1 AND crm_id IS NOT NULL";
        self.db.all(sql, &[&key]).await
    }

    /// Waits for a call, and notes what came of it.
    pub async fn join(&mut self, place: usize) {
        let Some((call, ended)) = self.callers[place].end().await else {
            return;
        };
        self.note(format!(
            "crm.write of #{} on {} ends: {ended:?}",
            call.began, call.key
        ));
        let ids: Vec<String> = match ended.may_be_in_crm() {
            true => self
                .linked_ids(&call.key)
                .await
                .into_iter()
                .chain(call.crm_ids)
                .collect(),
            false => Vec::new(),
        };
        // One that was based on what nobody held may have to give way to an edit that was there
        // before.
        let stands = ended.is_certain() && (call.force || call.base == Base::Known);
        let sides = ids.into_iter().map(Side::Record);
        let sides = sides.chain(ended.may_be_in_row().then(|| Side::Row(call.key.clone())));
        for side in sides.collect::<Vec<_>>() {
            for (column, _) in COLUMNS {
                if let Some(value) = call.changes.get(column) {
                    if call.base == Base::Wrong && matches!(side, Side::Row(_)) {
                        self.misled.insert((call.key.clone(), column));
                    }
                    let edit = Edit {
                        value: crate::forms::plain(value),
                        began: call.began,
                        ended: self.at,
                        certain: stands && matches!(side, Side::Row(_)),
                    };
                    self.oracle.edit(side.clone(), column, edit);
                }
            }
        }
    }
}
