//! Pod: the row and what its strategy does.
//!
//! Reading order: this file (the row), `default.rs` (what is filled in),
//! `prepare.rs` (what the server owns), `validate.rs` (upstream's rules),
//! `supported.rs` (what Lifepod does not do yet), and `fields.rs` (what
//! becomes of each field, of the schema and of a manifest).
//!
//! Source: upstream `pkg/registry/core/pod/strategy.go`.

mod app_armor;
mod default;
pub(super) mod fields;
mod prepare;
mod supported;
pub(super) mod template;
mod validate;
mod warnings;

pub(super) use self::prepare::comparable;
pub(super) use self::supported::not_yet;
pub(super) use self::validate::{amount_rules, any_name, node_selector, overcommits, parsed, taint_effect, tolerations};
pub(super) use self::warnings::of_template as template_warnings;

use std::sync::Arc;

use api::status::Violation;
use api::typed::Pod as Typed;
use api::{Object, Time};
use serde_json::Value;

use super::{flag_field, plain, short, text_field, view};
use crate::registry::{Change, Resource, Rules, Strategy, Subresource};
use crate::table;

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["po"]),
        categories: short(&["all"]),
        strategy: Arc::new(Pod),
        fields: vec![
            text_field!("spec.nodeName"),
            // As clients from before v1 call it.
            text_field!("spec.host", "spec.nodeName"),
            text_field!("spec.restartPolicy"),
            text_field!("spec.schedulerName"),
            text_field!("spec.serviceAccountName"),
            flag_field!("spec.hostNetwork"),
            text_field!("status.phase"),
            text_field!("status.podIP"),
            // Upstream takes the name, and gives it no value.
            crate::registry::Field::computed("status.podIPs", |_| String::new()),
            text_field!("status.nominatedNodeName"),
        ],
        indexed: Some(|pod| pod.str_at("spec.nodeName")),
        columns: table::pod::columns(),
        row_conditions: table::pod::row_conditions,
        subresources: vec![
            Subresource::Status,
            Subresource::Binding,
            Subresource::Eviction,
            Subresource::Log,
            Subresource::EphemeralContainers,
            Subresource::Resize,
            Subresource::Proxy,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
        ],
        ..plain("", "Pod", "pods", "pods")
    }
}

struct Pod;

impl Strategy for Pod {
    fn default(&self, pod: &mut Object) {
        default::fill(pod);
    }

    fn prepare(&self, change: Change<'_>, now: Time) {
        prepare::prepare(change, now);
    }

    fn validate(&self, new: &Object, old: Option<&Object>, rules: Rules) -> Vec<Violation> {
        let pod: Typed = match view(new) {
            Ok(pod) => pod,
            Err(broken) => return broken,
        };
        match (rules, old) {
            (Rules::Create, _) | (_, None) => {
                let broken = validate::create(&pod);
                // What is wrong is said first; what is right but not done, then.
                if broken.is_empty() {
                    said(&supported::refused(&pod))
                } else {
                    broken
                }
            }
            (Rules::Update, Some(old)) => match view::<Typed>(old) {
                Ok(before) => validate::update(&pod, &before, new, old),
                Err(broken) => broken,
            },
            (Rules::UpdateEphemeral, Some(old)) => match view::<Typed>(old) {
                Ok(before) => {
                    let broken = validate::ephemeral(&pod, &before);
                    if broken.is_empty() {
                        said(&supported::added(&pod, &before))
                    } else {
                        broken
                    }
                }
                Err(broken) => broken,
            },
            (Rules::UpdateResize, Some(old)) => match view::<Typed>(old) {
                Ok(before) => validate::resized(&pod, &before),
                Err(broken) => broken,
            },
            (Rules::UpdateStatus | Rules::UpdateApproval, Some(old)) => match view::<Typed>(old) {
                Ok(before) => validate::status(&pod, &before),
                Err(broken) => broken,
            },
        }
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        // Those who change Pods are programs.
        if old.is_none() { warnings::of_new(new) } else { Vec::new() }
    }

    /// Nothing to wait for unless the Pod is on a node and not over.
    fn grace(&self, pod: &Object, asked_s: Option<i64>) -> Option<u64> {
        if pod.str_at("spec.nodeName").is_empty() || matches!(pod.str_at("status.phase"), "Succeeded" | "Failed") {
            return None;
        }
        let own_s = || pod.at("spec.terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        match asked_s.unwrap_or_else(own_s) {
            0 => None,
            ..0 => Some(1),
            grace_s => Some(grace_s.unsigned_abs()),
        }
    }
}

fn said(refused: &[supported::Refused]) -> Vec<Violation> {
    refused.iter().map(supported::Refused::violation).collect()
}

#[cfg(test)]
mod tests;
