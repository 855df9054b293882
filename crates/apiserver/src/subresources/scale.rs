//! `scale`: how many there are to be, whatever it is that is counted.
//!
//! Source: upstream `pkg/registry/core/replicationcontroller/storage/storage.go`,
//! `ScaleREST`; `pkg/apis/autoscaling/validation/validation.go`.

use api::status::Violation;
use api::{Object, Status};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::body::Body;
use crate::call::Call;
use crate::codec::{self, Parsed};
use crate::kinds::scale;
use crate::managed_fields::manager_name;
use crate::patch::{APPLY, Patch};
use crate::verbs::apply;
use crate::verbs::update::match_path;
use crate::write::Ownership;
use crate::{table, write};

/// `GET .../scale`.
pub(crate) async fn get(call: Call) -> Result<Response<Body>, Status> {
    let current = call.core.current(&call.row, &call.key()).await?.ok_or_else(|| call.not_found())?;
    answer(&call, &current.object)
}

/// `PUT .../scale`.
pub(crate) async fn update(mut call: Call) -> Result<Response<Body>, Status> {
    let mut asked = codec::read_as(&mut call, &scale()).await?;
    match_path(&call, &mut asked)?;
    let ownership = Ownership::Recorded(manager_name(&call, false)?);
    let outcome = write::change(&mut call, ownership, |object, _| scaled(object, &asked)).await?;
    answer(&call, &outcome.entry().object)
}

/// `PATCH .../scale`: the patch is of the scale, not of the object.
pub(crate) async fn patch(mut call: Call) -> Result<Response<Body>, Status> {
    let media_type = call.content_type();
    if media_type == APPLY {
        let stated = apply::stated(&mut call).await?;
        let stated = configuration(&call, stated)?;
        let (_, entry) = apply::store(&mut call, stated).await?;
        return answer(&call, &entry.object);
    }
    let ownership = Ownership::Recorded(manager_name(&call, false)?);
    let bytes = call.read_body().await?;
    let (patch, _) = Patch::read(call.row.schema(), &media_type, &bytes, call.core.limits.body_depth)?;
    let row = scale();
    let make = |object: &Object, warnings: &mut Vec<String>| {
        let mut value = scale_of(object);
        patch.apply(row.schema(), &mut value)?;
        let (mut asked, complaints) = codec::decode(
            &row,
            Parsed {
                value,
                complaints: Vec::new(),
            },
        )?;
        warnings.extend(complaints);
        if asked.meta.resource_version == object.meta.resource_version {
            asked.meta.resource_version = None;
        }
        scaled(object, &asked)
    };
    let outcome = write::change(&mut call, ownership, make).await?;
    answer(&call, &outcome.entry().object)
}

/// What an applied scale states of the object: how many, under the object's own
/// kind. Its owner is remembered as one of the subresource. Pure.
///
/// Source: upstream `pkg/registry/core/replicationcontroller/storage/storage.go`,
/// `scaleUpdatedObjectInfo`, and `apimachinery/pkg/util/managedfields/scalehandler.go`.
fn configuration(call: &Call, stated: Map<String, Value>) -> Result<Map<String, Value>, Status> {
    let row = scale();
    let value = Value::Object(stated);
    let replicas = value.pointer("/spec/replicas").cloned();
    let (asked, _) = codec::decode(
        &row,
        Parsed {
            value,
            complaints: Vec::new(),
        },
    )?;
    // Refuses a number that cannot be.
    scaled(&asked, &asked)?;
    let mut object = json!({
        "apiVersion": call.row.id.api_version(), "kind": call.row.id.kind,
        "metadata": {"name": asked.name(), "namespace": call.namespace()},
    });
    if let Some(revision) = &asked.meta.resource_version {
        object["metadata"]["resourceVersion"] = json!(revision);
    }
    if let Some(replicas) = replicas {
        object["spec"] = json!({"replicas": replicas});
    }
    match object {
        Value::Object(object) => Ok(object),
        _ => Ok(Map::new()),
    }
}

/// The object with as many as the scale asks for. Pure.
fn scaled(object: &Object, asked: &Object) -> Result<Object, Status> {
    let replicas = asked.at("spec.replicas").and_then(Value::as_i64).unwrap_or(0);
    if replicas < 0 {
        let broken = Violation::invalid("spec.replicas", &replicas.into(), "must be greater than or equal to 0");
        return Err(Status::invalid(&scale().id, object.name(), &[broken]));
    }
    let mut object = object.clone();
    object.meta.resource_version.clone_from(&asked.meta.resource_version);
    if let Some(uid) = asked.meta.uid.clone().filter(|uid| !uid.is_empty()) {
        object.meta.uid = Some(uid);
    }
    let spec = object.body.entry("spec").or_insert_with(|| json!({}));
    if let Some(spec) = spec.as_object_mut() {
        spec.insert("replicas".to_owned(), Value::from(replicas));
    }
    Ok(object)
}

fn scale_of(object: &Object) -> Value {
    let meta = &object.meta;
    let count = |path: &str| object.at(path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({"replicas": count("status.replicas")});
    let selector = table::labels(object.at("spec.selector"));
    if selector != "<none>" {
        status["selector"] = json!(selector);
    }
    json!({
        "apiVersion": "autoscaling/v1", "kind": "Scale",
        "metadata": {
            "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
            "resourceVersion": meta.resource_version, "creationTimestamp": meta.creation_timestamp,
        },
        "spec": {"replicas": count("spec.replicas")},
        "status": status,
    })
}

fn answer(call: &Call, object: &Object) -> Result<Response<Body>, Status> {
    let scale_object = serde_json::from_value(scale_of(object)).map_err(|error| Status::internal(&error.to_string()))?;
    Ok(call.object_of(&scale(), StatusCode::OK, &scale_object))
}
