//! Credentials with their references resolved, in memory only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

use crm_provider::Credentials;
use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

/// Credentials whose names end so name a file that holds what their names say without it.
pub const FILE: &str = "_file";

/// Why a connection's credentials cannot be resolved. It names the key, never a value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("credential \"{key}\": {reason}")]
    Unreadable { key: String, reason: ReadError },
    #[error("credential \"{key}\" is neither a string nor a reference")]
    NoReference { key: String },
}

/// Why what a reference names cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read file \"{0}\": {1}")]
    Io(String, std::io::Error),
    #[error("environment variable {0} is not set")]
    NotSet(String),
    #[error("\"{0}\" is not a file")]
    NotAFile(String),
    #[error(
        "file \"{0}\" is open to others: its mode must be 0600, or 0640 if it is owned by root"
    )]
    OpenToOthers(String),
}

/// Resolves `"literal"`, `{"file": "/path"}`, `{"env": "NAME"}` and `private_key_file`; the error
/// names the key, never a value.
pub fn resolve(secret: &Json) -> Result<Credentials, SecretError> {
    let mut resolved = BTreeMap::new();
    for (key, value) in secret.as_object().into_iter().flatten() {
        let unreadable = |reason| SecretError::Unreadable {
            key: key.clone(),
            reason,
        };
        let (name, text) =
            if let (Some(path), Some(name)) = (value.as_str(), key.strip_suffix(FILE)) {
                (name, key_file(path).map_err(unreadable)?)
            } else if let Some(text) = value.as_str() {
                (key.as_str(), text.to_owned())
            } else if let Some(path) = value.get("file").and_then(Json::as_str) {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|e| unreadable(ReadError::Io(path.to_owned(), e)))?;
                (key.as_str(), text.trim().to_owned())
            } else if let Some(name) = value.get("env").and_then(Json::as_str) {
                let text = std::env::var(name);
                let text = text.map_err(|_| unreadable(ReadError::NotSet(name.to_owned())))?;
                (key.as_str(), text)
            } else {
                return Err(SecretError::NoReference { key: key.clone() });
            };
        resolved.insert(name.to_owned(), text);
    }
    Ok(Credentials(resolved))
}

/// Passwords of the proxies that the environment names, as they stand there and as they are sent.
pub fn proxy_passwords() -> impl Iterator<Item = String> {
    let names = ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"];
    let names = names.into_iter().map(str::to_owned);
    let named = names.flat_map(|name| [name.to_lowercase(), name]);
    let urls = named.filter_map(|name| std::env::var(name).ok());
    urls.flat_map(|url| {
        let user = url
            .split("://")
            .last()
            .and_then(|rest| rest.rsplit_once('@'));
        let pair = user.map(|(user, _)| user.to_owned()).unwrap_or_default();
        let password = pair.split_once(':').map_or("", |(_, password)| password);
        let plain = percent_decode_str(password).decode_utf8_lossy();
        [plain.into_owned(), password.to_owned()]
    })
}

/// A file that the server alone may read, as PostgreSQL asks of the key of its own certificate:
/// mode 0600, or 0640 if it is root's.
fn key_file(path: &str) -> Result<String, ReadError> {
    let failed = |e| ReadError::Io(path.to_owned(), e);
    let mut file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    let forbidden = if meta.uid() == 0 { 0o137 } else { 0o177 };
    if !meta.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    if meta.mode() & forbidden != 0 {
        return Err(ReadError::OpenToOthers(path.to_owned()));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
