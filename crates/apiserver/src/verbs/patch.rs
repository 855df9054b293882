//! `patch`: an object changed in part.
//!
//! Source: Kubernetes "API concepts", "Patch"; upstream
//! `apiserver/pkg/endpoints/handlers/patch.go`.

use api::status::Violation;
use api::{Object, ResourceId, Status};
use http::{Response, StatusCode};

use crate::body::Body;
use crate::call::Call;
use crate::codec::{self, FieldValidation, Parsed};
use crate::managed_fields::manager_name;
use crate::patch::{APPLY, Patch};
use crate::registry::Resource;
use crate::verbs::apply;
use crate::write::{self, Ownership};

/// Applies the patch to what is stored and answers with what is stored then.
pub(crate) async fn patch(mut call: Call) -> Result<Response<Body>, Status> {
    let validation = FieldValidation::of(&call)?;
    let media_type = call.content_type();
    if media_type == APPLY {
        return apply::apply(call).await;
    }
    if call.query.get("force").is_some() {
        return Err(call.invalid_option(Violation::forbidden("force", "may not be specified for non-apply patch")));
    }
    let ownership = Ownership::Recorded(manager_name(&call, false)?);
    let bytes = call.read_body().await?;
    let (patch, duplicates) = Patch::read(call.row.schema(), &media_type, &bytes, call.core.limits.body_depth)?;
    let row = std::sync::Arc::clone(&call.row);
    let make = |current: &Object, warnings: &mut Vec<String>| {
        let (object, mut complaints) = patched(&row, &patch, current)?;
        complaints.splice(0..0, duplicates.iter().cloned());
        match validation {
            FieldValidation::Strict if !complaints.is_empty() => return Err(strict(&bytes, &complaints)),
            FieldValidation::Warn => warnings.extend(complaints),
            _ => {}
        }
        Ok(object)
    };
    let outcome = write::change(&mut call, ownership, make).await?;
    Ok(call.entry(StatusCode::OK, outcome.entry()))
}

/// The object after the patch. Pure.
fn patched(row: &Resource, patch: &Patch, current: &Object) -> Result<(Object, Vec<String>), Status> {
    // Few patches are about managed fields, and they are long.
    let about_managers = patch.is_about_managed_fields();
    let value = if about_managers {
        serde_json::to_value(current)
    } else {
        current.value()
    };
    let mut value = value.map_err(|error| Status::internal(&format!("the stored object could not be encoded: {error}")))?;
    patch.apply(row.schema(), &mut value)?;
    let (mut object, complaints) = codec::decode(
        row,
        Parsed {
            value,
            complaints: Vec::new(),
        },
    )?;
    if !about_managers {
        object.managed_fields.clone_from(&current.managed_fields);
    }
    if object.meta.resource_version == current.meta.resource_version {
        // The patch did not name another one, so it may be applied to a newer
        // version just as well; one that names this version finds it changed
        // then, and fails.
        object.meta.resource_version = None;
    }
    Ok((object, complaints))
}

/// 422 for unknown or duplicate fields in a patch.
fn strict(patch: &[u8], complaints: &[String]) -> Status {
    let text = serde_json::Value::from(String::from_utf8_lossy(patch));
    let violation = Violation::invalid("patch", &text, &format!("strict decoding error: {}", complaints.join(", ")));
    Status::invalid(&ResourceId::new("", "", "", ""), "", &[violation])
}
