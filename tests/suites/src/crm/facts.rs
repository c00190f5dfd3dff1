//! What a vendor does in its own way, as data: names, credentials, forms of values, answers. Each
//! vendor has one value, in a file of its own; that the outcomes are the same for all is for the
//! scenarios to say.
//!
//! Requests to match and answers to give are JSON, in the words of the simulator's faults (`crm-sim
//! --help`).

/// Names, and what each stands for.
pub type Table = &'static [(&'static str, &'static str)];

pub fn find(table: Table, name: &str) -> Option<&'static str> {
    let found = table.iter().find(|(known, _)| *known == name)?;
    Some(found.1)
}

/// All of it.
pub struct Facts {
    /// As `create_connection(provider => ...)` and the simulator call it.
    pub name: &'static str,
    /// The object that people are.
    pub people: &'static str,
    /// What employs them: the other end of a reference.
    pub firms: Firms,
    /// Columns of the table of people, and the fields that they are mapped to.
    pub fields: Table,
    /// What the CRM then holds of the values that the scenario of all types writes, as JSON.
    pub held: Table,
    /// Numbers in SQL for which its field has no room as they are, and whether it rounds them to a
    /// number of decimals.
    pub beyond: &'static [&'static str],
    pub rounds: bool,
    /// Whether its answer to a write shows what it made of the fields that were written.
    pub writes_are_shown: bool,
    /// Two options each of the fields for interests and for the source.
    pub interests: [&'static str; 2],
    pub sources: [&'static str; 2],
    /// Whether a field that is true or false is never empty.
    pub boolean_is_never_empty: bool,
    /// A token, or a key, that is one by itself.
    pub credentials: &'static str,
    /// How it gives out tokens.
    pub grant: Option<Grant>,
    /// What matches requests that `read`, `write` or `create` one record of the people, and that
    /// write (`batch`) or create (`creates`) several.
    pub requests: Table,
    /// Records that one request writes, at most.
    pub batch: usize,
    /// Answers by which one of these requests fails, for each class of errors that has one of the
    /// vendor's own.
    pub errors: Table,
    /// Faults beside them that belong to the same situation.
    pub besides: Table,
    /// Codes that refuse one record among others, by class.
    pub refusals: Table,
    /// The answer that refuses a whole batch for one record's sake.
    pub rejection: Option<&'static str>,
    /// Of these requests, those to which a 204 without a body is the answer that is documented.
    pub no_content: &'static [&'static str],
    /// Each way in which it says that it has had enough.
    pub limits: &'static [Limit],
    /// What becomes of a value that somebody sets between our read and our write: of a write of one
    /// record, and of more than a few.
    pub guards: [Guarded; 2],
    /// Records in a page of changes, at most.
    pub page: usize,
    /// Part of the path of the requests that look for changes.
    pub changes: &'static str,
    /// Whether its list of changes says who made them.
    pub names_editors: bool,
    /// What its webhooks call people; `None`: it posts none by itself, and a relay tells in its
    /// place.
    pub told: Option<&'static str>,
    /// Records that are written in one go, and how many requests that may take.
    pub volume: Volume,
    /// What cannot happen there, and why not. `docs/providers.md` says the same.
    pub absent: &'static [(Situation, &'static str)],
}

pub struct Firms {
    pub object: &'static str,
    pub name: &'static str,
    /// The field of a person that shows the firm, which may be called otherwise than the one that
    /// is written.
    pub held: &'static str,
}

pub struct Grant {
    /// Credentials that tokens are obtained by; `{url}` is the CRM's address.
    pub credentials: &'static str,
    /// The refresh token among them, and the secret.
    pub refresh_token: &'static str,
    pub secret: &'static str,
    /// Part of the path of the token endpoint.
    pub path: &'static str,
    /// Words by which it refuses a refresh token.
    pub refusal: &'static str,
}

pub struct Limit {
    pub form: &'static str,
    pub answer: &'static str,
    /// Seconds that the connection then waits.
    pub wait: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// The CRM refuses our write.
    Refused,
    /// Ours replaces it, and the audit reports the value that was replaced.
    Reported,
    /// Ours replaces it, and nothing shows what it replaced.
    Unnoticed,
}

pub struct Volume {
    pub records: usize,
    /// Requests for each thousand records at most: that are created, and of which two fields are
    /// cleared.
    pub requests: [usize; 2],
    /// Options of the connection.
    pub options: &'static str,
}

/// What a scenario needs and not every vendor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// Tokens that expire and are revoked.
    Tokens,
    /// A batch that is refused for one record's sake.
    WholeBatches,
    /// An answer that is no text.
    Bytes,
}
