//! `PodTemplate`.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidatePodTemplate`; `pkg/registry/core/podtemplate/strategy.go`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::PodTemplate as Typed;
use api::{Object, Time};
use serde_json::Value;

use super::pod::template;
use super::{plain, view};
use crate::registry::{Cell, Change, Column, Resource, Rules, Strategy};
use crate::table;

pub(super) fn row() -> Resource {
    Resource {
        strategy: Arc::new(PodTemplate),
        columns: vec![
            table::name_column(),
            Column::computed("Containers", Cell::Text, |object, _| {
                template::containers(object, "template", "name")
            }),
            Column::computed("Images", Cell::Text, |object, _| template::containers(object, "template", "image")),
            Column::computed("Pod Labels", Cell::Text, |object, _| {
                Value::from(table::labels(object.at("template.metadata.labels")))
            }),
        ],
        ..plain("", "PodTemplate", "podtemplates", "podtemplates")
    }
}

struct PodTemplate;

impl Strategy for PodTemplate {
    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        if old.is_some_and(|old| old.at("template") == new.at("template")) {
            return Vec::new();
        }
        super::pod::template_warnings(new, "template")
    }

    fn default(&self, object: &mut Object) {
        if let Some(Value::Object(template)) = object.body.get_mut("template") {
            template::fill(template);
        }
    }

    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { new } => new.meta.generation = Some(1),
            Change::Update { new, old } | Change::UpdateStatus { new, old } => {
                super::count_change(new, old, "template");
            }
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        match view::<Typed>(new) {
            Ok(typed) => template::rules("template", &typed.template.unwrap_or_default()),
            Err(broken) => broken,
        }
    }
}
