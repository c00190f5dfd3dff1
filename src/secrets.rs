//! Credentials with their references resolved, in memory only.

use std::collections::BTreeMap;

use crm_provider::Credentials;
use serde_json::Value as Json;

/// Resolves `"literal"`, `{"file": "/path"}` and `{"env": "NAME"}`; the error names the key, never a value.
pub fn resolve(secret: &Json) -> Result<Credentials, String> {
    let mut resolved = BTreeMap::new();
    for (key, value) in secret.as_object().into_iter().flatten() {
        let text = if let Some(text) = value.as_str() {
            text.to_owned()
        } else if let Some(path) = value.get("file").and_then(Json::as_str) {
            std::fs::read_to_string(path)
                .map_err(|e| format!("credential \"{key}\": cannot read file \"{path}\": {e}"))?
                .trim()
                .to_owned()
        } else if let Some(name) = value.get("env").and_then(Json::as_str) {
            std::env::var(name).map_err(|_| {
                format!("credential \"{key}\": environment variable {name} is not set")
            })?
        } else {
            return Err(format!(
                "credential \"{key}\" is neither a string nor a reference"
            ));
        };
        resolved.insert(key.clone(), text);
    }
    Ok(Credentials(resolved))
}
