//! Templates of Pods, in the kinds that make Pods.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePodTemplateSpec`.

use api::Object;
use api::status::Violation;
use api::typed::{PodSpec, PodTemplateSpec};
use serde_json::{Map, Value};

use super::{app_armor, default, validate};
use crate::validate::{labels, metadata};

/// Fills the spec of a template, as that of a Pod is filled.
pub(in crate::kinds) fn fill(template: &mut Map<String, Value>) {
    if let Some(Value::Object(spec)) = template.get_mut("spec") {
        default::fill_spec(spec);
    }
}

/// Every broken rule of a template at `field`.
pub(in crate::kinds) fn rules(field: &str, template: &PodTemplateSpec) -> Vec<Violation> {
    let none = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&none);
    let mut broken = Vec::new();
    if let Some(meta) = &template.metadata {
        if let Some(map) = &meta.labels {
            broken.extend(labels(&format!("{field}.labels"), map));
        }
        broken.extend(metadata::annotations(&format!("{field}.annotations"), meta));
    }
    let annotations = template.metadata.as_ref().and_then(|meta| meta.annotations.as_ref());
    broken.extend(app_armor::annotations(&format!("{field}.annotations"), annotations, spec));
    let mut of_pod = validate::any(spec);
    of_pod.extend(app_armor::contradictions(annotations, spec));
    broken.extend(of_pod.into_iter().map(|violation| Violation {
        field: format!("{field}.{}", violation.field),
        ..violation
    }));
    if spec.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        broken.push(Violation::forbidden(
            format!("{field}.spec.ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
    broken
}

/// The names or images of the containers of the template at a path, as one
/// cell.
pub(in crate::kinds) fn containers(object: &Object, path: &str, field: &str) -> Value {
    let containers = object
        .at(&format!("{path}.spec.containers"))
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let texts: Vec<&str> = containers.filter_map(|container| container[field].as_str()).collect();
    Value::from(texts.join(","))
}
