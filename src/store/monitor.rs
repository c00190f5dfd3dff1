//! What the monitor shows: metrics, and the state of everything as JSON.

use crm_domain::open_metrics::Sample;
use pgrx::JsonB;
use pgrx::spi::SpiClient;
use serde_json::Value as Json;

use crate::store::error::StoreError;
use crate::store::row::Columns;
use crate::store::statement::Cached;

/// The samples of `crm.metrics()`, in its order.
pub fn samples(client: &SpiClient) -> Result<Vec<Sample>, StoreError> {
    let rows = client.select(
        Cached("SELECT name, labels, value, type AS kind, help FROM crm.metrics()"),
        None,
        &[],
    )?;
    let sample = |row: pgrx::spi::SpiHeapTupleData| {
        let labels: JsonB = row.required("labels")?;
        let text = |value: &Json| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        Ok(Sample {
            name: row.required("name")?,
            labels: match &labels.0 {
                Json::Object(labels) => labels
                    .iter()
                    .map(|(label, value)| (label.clone(), text(value)))
                    .collect(),
                _ => Vec::new(),
            },
            value: row.required("value")?,
            kind: row.required("kind")?,
            help: row.required("help")?,
        })
    };
    rows.map(sample).collect()
}

/// What the page shows, as JSON.
pub fn overview(client: &SpiClient) -> Result<String, StoreError> {
    let mut rows = client.select(
        Cached("SELECT crm_internal.overview()::text AS overview"),
        None,
        &[],
    )?;
    match rows.next() {
        Some(row) => Ok(row.required("overview")?),
        None => Ok("{}".to_owned()),
    }
}
