//! `RuntimeClass` of `node.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/node/validation/validation.go`.

use std::sync::Arc;

use api::status::Violation;
use api::typed::node::RuntimeClass as Typed;
use api::{Object, Scope};
use serde_json::Value;

use super::warnings::old_label;
use super::{plain, pod, view};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{immutable, invalid_each, labels, names};

pub(super) fn row() -> Resource {
    Resource {
        scope: Scope::Cluster,
        strategy: Arc::new(RuntimeClass),
        columns: vec![
            table::name_column(),
            Column::path("Handler", Cell::Text, ".handler"),
            table::age_column(),
        ],
        ..plain("node.k8s.io", "RuntimeClass", "runtimeclasses", "runtimeclasses")
    }
}

struct RuntimeClass;

impl Strategy for RuntimeClass {
    /// Source: upstream `pkg/api/node/util.go`, `GetWarningsForRuntimeClass`.
    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let selector = new.at("scheduling.nodeSelector").and_then(Value::as_object);
        let told = selector.into_iter().flatten().filter_map(|(key, _)| old_label(key));
        told.map(|message| format!("scheduling.nodeSelector: {message}")).collect()
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let class: Typed = match view(new) {
            Ok(class) => class,
            Err(broken) => return broken,
        };
        if let Some(old) = old {
            return immutable("handler", &new.str_at("handler"), &old.str_at("handler"))
                .into_iter()
                .collect();
        }
        let mut broken = invalid_each("handler", &class.handler, names::dns1123_label(&class.handler));
        for (name, amount) in class.overhead.iter().filter_map(|overhead| overhead.pod_fixed.as_ref()).flatten() {
            let field = format!("overhead.podFixed[{name}]");
            broken.extend(pod::any_name(&field, name));
            broken.extend(pod::amount_rules(&field, name, pod::parsed(amount)));
        }
        if let Some(scheduling) = &class.scheduling {
            if let Some(selector) = &scheduling.node_selector {
                broken.extend(labels("scheduling.nodeSelector", selector));
            }
            broken.extend(pod::tolerations(
                "scheduling.tolerations",
                scheduling.tolerations.as_deref().unwrap_or_default(),
            ));
        }
        broken
    }
}
