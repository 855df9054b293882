//! `update`: an object replaced, or its status, or a namespace's finalizers.

use api::{Object, Scope, Status};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::call::Call;
use crate::managed_fields::manager_name;
use crate::write::Ownership;
use crate::{codec, write};

/// Replaces the object and answers with what is stored now.
pub(crate) async fn update(mut call: Call) -> Result<Response<Body>, Status> {
    let mut object = codec::read(&mut call).await?;
    match_path(&call, &mut object)?;
    let ownership = Ownership::Recorded(manager_name(&call, false)?);
    // What names its revision is never tried a second time.
    let once = write::names_revision(&object);
    let mut given = Some(object);
    let make = |_: &Object, _: &mut Vec<String>| {
        let object = if once { given.take() } else { given.clone() };
        object.ok_or_else(|| Status::internal("an update that names its revision was tried twice"))
    };
    let outcome = write::change(&mut call, ownership, make).await?;
    Ok(call.entry(StatusCode::OK, outcome.entry()))
}

/// The body must be about the object of the path.
pub(crate) fn match_path(call: &Call, object: &mut Object) -> Result<(), Status> {
    let (asked, namespace) = (&call.asked.name, call.namespace());
    if object.name().is_empty() {
        object.meta.name = Some(asked.clone());
    } else if object.name() != asked {
        return Err(Status::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({asked})",
            object.name()
        )));
    }
    if call.row.scope == Scope::Cluster {
        object.meta.namespace = None;
    } else if object.namespace().is_empty() {
        object.meta.namespace = Some(namespace.to_owned());
    } else if object.namespace() != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
