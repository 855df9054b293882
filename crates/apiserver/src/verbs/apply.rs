//! Server-side apply: a patch that says what its sender wants to own. The
//! object is made where there is none.
//!
//! Source: KEP-555; upstream `apiserver/pkg/endpoints/handlers/patch.go`,
//! `applyPatcher`.

use std::sync::Arc;

use api::{Object, Status};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::body::Body;
use crate::call::Call;
use crate::codec::{self, FieldValidation, Parsed};
use crate::hub::Entry;
use crate::managed_fields::{self, Config, Forms, Writer, manager_name};
use crate::registry::Registry;
use crate::registry::Resource;
use crate::request::Verb;
use crate::verbs::create;
use crate::write::{self, Ownership};

/// How often an apply begins anew because the object came or went meanwhile.
const ATTEMPTS: u32 = 5;

/// Applies the configuration and answers with what is stored then.
pub(crate) async fn apply(mut call: Call) -> Result<Response<Body>, Status> {
    let stated = stated(&mut call).await?;
    let (code, entry) = store(&mut call, stated).await?;
    Ok(call.entry(code, &entry))
}

/// The configuration in the body of a call.
pub(crate) async fn stated(call: &mut Call) -> Result<Map<String, Value>, Status> {
    // Who applies has to say who they are, before anything else is looked at.
    manager_name(call, true)?;
    let validation = FieldValidation::of(call)?;
    let bytes = call.read_body().await?;
    let (object, duplicates) = read(&bytes, call.core.limits.body_depth)?;
    match validation {
        FieldValidation::Strict if !duplicates.is_empty() => {
            return Err(Status::bad_request(format!(
                "error strict decoding YAML: {}",
                duplicates.join(", ")
            )));
        }
        FieldValidation::Warn => call.warnings.extend(duplicates),
        _ => {}
    }
    Ok(object)
}

/// Applies a configuration of the call's object. 201 when that made it.
pub(crate) async fn store(call: &mut Call, stated: Map<String, Value>) -> Result<(StatusCode, Arc<Entry>), Status> {
    let manager = manager_name(call, true)?;
    let force = call.query.boolean("force").unwrap_or(false);
    let (core, row) = (Arc::clone(&call.core), Arc::clone(&call.row));
    let served = core.serving.load_full();
    let applying = Applying {
        row: &row,
        registry: &served.registry,
        config: Config { object: stated, force },
        writer: write::writer(call, &manager),
        reset: managed_fields::reset_fields(&row, call.part()),
    };
    for _ in 0..ATTEMPTS {
        let exists = core.current(&row, &call.key()).await?.is_some();
        // A subresource is made with its object alone.
        if exists || !call.asked.subresource.is_empty() {
            let (name, namespace) = (call.asked.name.clone(), call.namespace().to_owned());
            let make = |current: &Object, _: &mut Vec<String>| {
                let mut object = applying.onto(Some(current))?;
                require_place(&object, &name, &namespace)?;
                if object.meta.resource_version == current.meta.resource_version && !applying.names_revision() {
                    object.meta.resource_version = None;
                }
                Ok(object)
            };
            match write::change(call, Ownership::Made, make).await {
                Ok(outcome) => return Ok((StatusCode::OK, Arc::clone(outcome.entry()))),
                // Gone meanwhile.
                Err(status) if exists && status.code == 404 && call.asked.subresource.is_empty() => {}
                Err(status) => return Err(status),
            }
        } else {
            match make_new(call, &applying).await {
                // There meanwhile.
                Err(status) if status.code == 409 && status.reason == "AlreadyExists" => {}
                made => return made.map(|entry| (StatusCode::CREATED, entry)),
            }
        }
    }
    Err(Status::modified(&call.row.id, &call.asked.name))
}

async fn make_new(call: &mut Call, applying: &Applying<'_>) -> Result<Arc<Entry>, Status> {
    let mut object = applying.onto(None)?;
    let (name, namespace) = (call.asked.name.clone(), call.namespace().to_owned());
    if !object.uid().is_empty() {
        let why = format!(
            "uid mismatch: the provided object specified uid {}, and no existing object was found",
            object.uid()
        );
        return Err(Status::conflict(&call.row.id, &name, &why));
    }
    require_place(&object, &name, &namespace)?;
    create::place(call, &mut object)?;
    let mut asked = call.asked.clone();
    asked.verb = Verb::Create;
    call.core.served().authorizer.resource(&call.identity, &asked)?;
    create::store(call, object, &Ownership::Made).await
}

struct Applying<'a> {
    row: &'a Resource,
    registry: &'a Registry,
    config: Config,
    writer: Writer,
    reset: managed_fields::Set,
}

impl Applying<'_> {
    /// The object the configuration makes of what is stored. Pure.
    fn onto(&self, live: Option<&Object>) -> Result<Object, Status> {
        let forms = Forms {
            row: self.row,
            registry: self.registry,
        };
        let applied = managed_fields::apply(&forms, live, &self.config, &self.writer, &self.reset)?;
        let parsed = Parsed {
            value: Value::Object(applied.object),
            complaints: Vec::new(),
        };
        let (mut object, _) = codec::decode(self.row, parsed)?;
        object.managed_fields = applied.managers.encode()?;
        Ok(object)
    }

    /// Whether the configuration is for one version of the object.
    fn names_revision(&self) -> bool {
        self.config
            .object
            .get("metadata")
            .and_then(|meta| meta.get("resourceVersion"))
            .is_some_and(|revision| !revision.is_null())
    }
}

/// Reads a configuration: YAML, and so also JSON.
fn read(bytes: &[u8], max_depth: usize) -> Result<(Map<String, Value>, Vec<String>), Status> {
    let refused = |why: &str| Status::bad_request(format!("error decoding YAML: {why}"));
    match codec::from_yaml(bytes, max_depth).map_err(|error| refused(&error))? {
        (Value::Object(object), duplicates) => Ok((object, duplicates)),
        _ => Err(refused("the configuration is not an object")),
    }
}

/// The object must be the one of the path.
///
/// Source: upstream `handlers/rest.go` `checkName`.
fn require_place(object: &Object, name: &str, namespace: &str) -> Result<(), Status> {
    let own = object.name();
    if own.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )));
    }
    if own != name {
        return Err(Status::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    if !object.namespace().is_empty() && object.namespace() != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}
