//! `ControllerRevision` of `apps/v1`: a snapshot of what a controller keeps.
//!
//! Source: upstream `pkg/apis/apps/validation/validation.go`,
//! `ValidateControllerRevision`; printer `printControllerRevision`.

use std::sync::Arc;

use api::Object;
use api::status::Violation;
use serde_json::Value;

use super::plain;
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::immutable;
use crate::validate::values::not_negative;

pub(super) fn row() -> Resource {
    Resource {
        strategy: Arc::new(ControllerRevision),
        columns: vec![
            table::name_column(),
            Column::computed("Controller", Cell::Text, |revision, _| Value::from(controller(revision)))
                .described("Controller of the object"),
            Column::path("Revision", Cell::Text, ".revision"),
            table::age_column(),
        ],
        ..plain("apps", "ControllerRevision", "controllerrevisions", "controllerrevisions")
    }
}

/// `statefulset.apps/web`, or `<none>`.
fn controller(revision: &Object) -> String {
    let owners = revision.meta.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return "<none>".to_owned();
    };
    let kind = owner.kind.to_lowercase();
    match owner.api_version.split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.name),
        None => format!("{kind}/{}", owner.name),
    }
}

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let mut broken = Vec::new();
        match new.body.get("data") {
            None | Some(Value::Null) => broken.push(Violation::required("data", "data is mandatory")),
            Some(Value::Object(_)) => {}
            Some(other) => broken.push(Violation::invalid("data", other, "must be a valid JSON object")),
        }
        if let Some(old) = old {
            broken.extend(immutable("data", &new.body.get("data"), &old.body.get("data")));
        }
        let revision = new.body.get("revision").and_then(Value::as_i64).unwrap_or(0);
        broken.extend(not_negative("revision", revision));
        broken
    }
}
