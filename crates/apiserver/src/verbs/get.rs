//! `get`: one object.

use api::Status;
use http::{Response, StatusCode};

use crate::authz::Authorizer;
use crate::body::Body;
use crate::call::Call;
use crate::verbs::{list, options};

/// Answers with the newest version of the object, or one not older than
/// `resourceVersion`.
pub(crate) async fn get(call: Call) -> Result<Response<Body>, Status> {
    if let Some(asked) = call.query.get("resourceVersion") {
        let asked = options::revision(asked)?;
        list::reach(&call, asked).await?;
    }
    let current = call.core.current(&call.row, &call.key()).await?;
    let current = current.ok_or_else(|| call.not_found())?;
    Authorizer::object(&call.identity, &call.asked, &current.entry.object)?;
    Ok(call.entry(StatusCode::OK, &current.entry))
}
