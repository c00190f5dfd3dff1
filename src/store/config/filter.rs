//! The filter of a map: a condition on the rows of its table. The map is about those for which it
//! holds.

/// A condition as part of a statement: true where it holds. A CASE, in which PostgreSQL refuses
/// functions that return sets.
pub fn holds(condition: &str) -> String {
    format!("CASE WHEN ({condition}\n) THEN true ELSE false END")
}

#[derive(Clone, Debug)]
pub struct Filter {
    pub condition: String,
    /// The columns that it reads, quoted.
    pub columns: Vec<String>,
    /// The same out of `$1`, an array of their texts.
    pub given: Vec<String>,
}

impl Filter {
    /// Whether the row `alias` is inside. Of all names in the statement, the condition can mean
    /// those of the filter's columns alone.
    pub fn of_row(&self, alias: &str) -> String {
        let columns = self.columns.iter();
        let columns: Vec<String> = columns.map(|name| format!("{alias}.{name}")).collect();
        let holds = holds(&self.condition);
        format!("(SELECT {holds} FROM (SELECT {}) AS t)", columns.join(", "))
    }

    /// The statement that tells whether a row with given values is inside.
    pub fn of_values(&self) -> String {
        let holds = holds(&self.condition);
        let given = self.given.join(", ");
        format!("SELECT {holds} AS inside FROM (SELECT {given}) AS t")
    }
}
