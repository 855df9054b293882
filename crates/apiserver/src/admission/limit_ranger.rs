//! What containers, Pods and claims may ask for, by the `LimitRange`s of their
//! namespace; and what they ask for where they do not say.
//!
//! Source: upstream `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::pods::{self, Resources};
use api::typed::{LimitRange, LimitRangeItem, Pod, WireQuantity};
use api::{Object, Quantity, Status};
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{Attributes, Plugin};
use crate::kinds::values::{object, objects, set_absent, text};

/// Says what of a Pod was filled in here.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// The plugin `LimitRanger`.
pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.creates("", "pods") || asked.resizes() || asked.is("", "persistentvolumeclaims")
    }

    async fn admit(&self, asked: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
        if asked.row.id.plural == "pods" {
            for range in ranges(asked).await? {
                fill(pod, &range);
            }
        }
        Ok(())
    }

    async fn validate(&self, asked: &Attributes<'_>, object: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        for range in ranges(asked).await? {
            let Ok(range) = range.view::<LimitRange>() else { continue };
            let items = range.spec.unwrap_or_default().limits;
            let broken = if asked.row.id.plural == "pods" {
                object.view::<Pod>().map(|pod| pod_rules(&pod, &items)).unwrap_or_default()
            } else {
                claim_rules(object, &items)
            };
            if !broken.is_empty() {
                return Err(asked.forbidden(object, &aggregate(broken)));
            }
        }
        Ok(())
    }
}

async fn ranges(asked: &Attributes<'_>) -> Result<Vec<Arc<Object>>, Status> {
    asked.lookup.objects("", "limitranges", asked.namespace).await
}

/// One as it is, several in brackets, each once.
///
/// Source: upstream `apimachinery/pkg/util/errors`, `NewAggregate`.
fn aggregate(mut texts: Vec<String>) -> String {
    let mut seen = std::collections::BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    match texts.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

/// Fills requests and limits that containers leave out, and says so.
fn fill(pod: &mut Object, range: &Object) {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    let items = range.at("spec.limits").and_then(Value::as_array).into_iter().flatten();
    for item in items.filter(|item| item["type"] == "Container") {
        requests.extend(item["defaultRequest"].as_object().cloned().unwrap_or_default());
        limits.extend(item["default"].as_object().cloned().unwrap_or_default());
    }
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    let mut said = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        for container in objects(spec, list) {
            let name = text(container, "name").to_owned();
            for (field, what, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set = fill_container(container, field, defaults);
                if !set.is_empty() {
                    said.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !said.is_empty() {
        let annotations = pod.meta.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION.to_owned(), format!("LimitRanger plugin set: {}", said.join("; ")));
    }
}

/// The names that were filled in.
fn fill_container(container: &mut Map<String, Value>, field: &str, defaults: &Map<String, Value>) -> Vec<String> {
    set_absent(container, "resources", json!({}));
    let Some(resources) = object(container, "resources") else {
        return Vec::new();
    };
    let lacking = |resources: &Map<String, Value>, name: &String| resources.get(field).and_then(|amounts| amounts.get(name)).is_none();
    let set: Vec<String> = defaults.keys().filter(|name| lacking(resources, name)).cloned().collect();
    if set.is_empty() {
        return set;
    }
    if !matches!(resources.get(field), Some(Value::Object(_))) {
        resources.insert(field.to_owned(), json!({}));
    }
    if let Some(amounts) = object(resources, field) {
        for name in &set {
            amounts.insert(name.clone(), defaults[name].clone());
        }
    }
    set
}

fn pod_rules(pod: &Pod, items: &[LimitRangeItem]) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut broken = Vec::new();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    broken.extend(rules(
                        item,
                        &pods::container_requests(container),
                        &pods::container_limits(container),
                    ));
                }
            }
            "Pod" => {
                // What the runtime needs beside is not the Pod's to answer for.
                let mut bare = pod.clone();
                if let Some(spec) = &mut bare.spec {
                    spec.overhead = None;
                }
                broken.extend(rules(item, &pods::requests(&bare), &pods::limits(&bare)));
            }
            _ => {}
        }
    }
    broken
}

fn each(wire: Option<&BTreeMap<String, WireQuantity>>) -> Resources {
    pods::amounts(wire)
}

/// Minimum, maximum and ratio of what is asked for.
fn rules(item: &LimitRangeItem, requests: &Resources, limits: &Resources) -> Vec<String> {
    let kind = &item.type_;
    let mut broken = Vec::new();
    for (name, min) in each(item.min.as_ref()) {
        let begin = format!("minimum {name} usage per {kind} is {min}");
        broken.extend(match (requests.get(&name), limits.get(&name)) {
            (None, _) => Some(format!("{begin}.  No request is specified")),
            (Some(request), _) if *request < min => Some(format!("{begin}, but request is {request}")),
            (_, Some(limit)) if *limit < min => Some(format!("{begin}, but limit is {limit}")),
            _ => None,
        });
    }
    for (name, max) in each(item.max.as_ref()) {
        let begin = format!("maximum {name} usage per {kind} is {max}");
        broken.extend(match (requests.get(&name), limits.get(&name)) {
            (_, None) => Some(format!("{begin}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => Some(format!("{begin}, but limit is {limit}")),
            (Some(request), _) if *request > max => Some(format!("{begin}, but request is {request}")),
            _ => None,
        });
    }
    for (name, ratio) in each(item.max_limit_request_ratio.as_ref()) {
        broken.extend(ratio_rule(kind, &name, ratio, requests.get(&name), limits.get(&name)));
    }
    broken
}

fn ratio_rule(kind: &str, name: &str, most: Quantity, request: Option<&Quantity>, limit: Option<&Quantity>) -> Option<String> {
    let begin = format!("{name} max limit to request ratio per {kind} is {most}");
    let set = |amount: Option<&Quantity>| amount.copied().filter(|amount| !amount.is_zero());
    let Some(request) = set(request) else {
        return Some(format!("{begin}, but no request is specified or request is 0"));
    };
    let Some(limit) = set(limit) else {
        return Some(format!("{begin}, but no limit is specified or limit is 0"));
    };
    // Thousandths over thousandths: the ratio in millionths, and none is lost.
    let (limit, request, most) = (i128::from(limit.milli()), i128::from(request.milli()), i128::from(most.milli()));
    (limit * 1_000 > most * request).then(|| {
        let millionths = (limit * 1_000_000 + request / 2) / request;
        format!(
            "{begin}, but provided ratio is {}.{:06}",
            millionths / 1_000_000,
            millionths % 1_000_000
        )
    })
}

/// What a claim asks for has no limits.
fn claim_rules(claim: &Object, items: &[LimitRangeItem]) -> Vec<String> {
    let wire = claim
        .at("spec.resources.requests")
        .cloned()
        .map(serde_json::from_value)
        .and_then(Result::ok);
    let requests = pods::amounts(wire.as_ref());
    let mut broken = Vec::new();
    for item in items.iter().filter(|item| item.type_ == "PersistentVolumeClaim") {
        for (name, min) in each(item.min.as_ref()) {
            let begin = format!("minimum {name} usage per {} is {min}", item.type_);
            broken.extend(match requests.get(&name) {
                None => Some(format!("{begin}.  No request is specified")),
                Some(request) => (*request < min).then(|| format!("{begin}, but request is {request}")),
            });
        }
        for (name, max) in each(item.max.as_ref()) {
            let begin = format!("maximum {name} usage per {} is {max}", item.type_);
            broken.extend(match requests.get(&name) {
                None => Some(format!("{begin}.  No request is specified")),
                Some(request) => (*request > max).then(|| format!("{begin}, but request is {request}")),
            });
        }
    }
    broken
}
