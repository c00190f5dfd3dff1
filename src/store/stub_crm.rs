//! The embedded CRM's transport: a function call instead of HTTP.

use crm_provider::{Request, Response, Target};
use pgrx::JsonB;
use pgrx::spi::SpiClient;
use serde_json::json;

use crate::store::error::StoreError;
use crate::store::row::Columns;

/// The answer to a request whose values the stub cannot keep, as a vendor would give it.
pub fn refusal(error: &StoreError) -> Response {
    let error =
        json!({ "class": "validation", "code": "value_refused", "message": error.message() });
    Response {
        status: 400,
        body: json!({ "error": error }).to_string().into_bytes(),
        ..Response::default()
    }
}

/// Hands a request to the stub. `None`: the answer was lost, as if the connection had broken.
pub fn handle(
    client: &mut SpiClient,
    connection: &str,
    request: &Request,
) -> Result<Option<Response>, StoreError> {
    let path = match &request.target {
        Target::Api(path) | Target::File(path) | Target::Url(path) => path.as_str(),
    };
    let body =
        (!request.body.is_empty()).then(|| String::from_utf8_lossy(&request.body).into_owned());
    let mut rows = client.update(
        "SELECT status, headers, body FROM crm_stub.handle($1, $2, $3, $4::jsonb)",
        None,
        &[
            connection.into(),
            request.method.name().into(),
            path.into(),
            body.into(),
        ],
    )?;
    let Some(row) = rows.next() else {
        return Ok(None);
    };
    let status = row.optional::<i32>("status")?.unwrap_or_default();
    if status == 0 {
        return Ok(None);
    }
    let headers = row
        .optional::<JsonB>("headers")?
        .map(|h| h.0)
        .unwrap_or_default();
    Ok(Some(Response {
        status: status as u16,
        headers: headers
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| {
                (
                    k.to_ascii_lowercase(),
                    v.as_str().map_or_else(|| v.to_string(), str::to_owned),
                )
            })
            .collect(),
        body: row
            .optional::<JsonB>("body")?
            .map(|b| b.0.to_string().into_bytes())
            .unwrap_or_default(),
        ..Response::default()
    }))
}
