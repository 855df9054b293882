//! `LimitRange`: what containers, Pods and claims of a namespace may ask for.
//!
//! Source: upstream `pkg/apis/core/validation/validation.go`,
//! `ValidateLimitRange`; `pkg/apis/core/v1/defaults.go`,
//! `SetDefaults_LimitRangeItem`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::status::Violation;
use api::typed::{LimitRange as Typed, LimitRangeItem};
use api::{Object, Quantity, Time, pods};
use serde_json::{Map, Value};

use super::{plain, pod, short, values, view};
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{invalid_each, names};

pub(super) fn row() -> Resource {
    Resource {
        short_names: short(&["limits"]),
        strategy: Arc::new(LimitRange),
        columns: vec![
            table::name_column(),
            Column::computed("Created At", Cell::Text, |range, _| {
                let created = range.meta.creation_timestamp.as_ref().map(Time::from);
                Value::from(created.map(|time| time.to_string()).unwrap_or_default())
            }),
        ],
        ..plain("", "LimitRange", "limitranges", "limitranges")
    }
}

struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, range: &mut Object) {
        let Some(Value::Object(spec)) = range.body.get_mut("spec") else {
            return;
        };
        for item in values::objects(spec, "limits") {
            if values::text(item, "type") == "Container" {
                // What follows from what, in this order.
                for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                    fill(item, from, to);
                }
            }
        }
    }

    fn validate(&self, new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let items = match view::<Typed>(new) {
            Ok(range) => range.spec.unwrap_or_default().limits,
            Err(broken) => return broken,
        };
        let mut broken = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let field = format!("spec.limits[{index}]");
            broken.extend(type_rules(&format!("{field}.type"), &item.type_));
            if items[..index].iter().any(|other| other.type_ == item.type_) {
                broken.push(Violation::duplicate(format!("{field}.type"), &item.type_));
            }
            broken.extend(item_rules(&field, item));
        }
        broken
    }
}

/// What is in `from` and not in `to` goes there.
fn fill(item: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(Value::Object(given)) = item.get(from).cloned() else {
        return;
    };
    if given.is_empty() {
        return;
    }
    if !matches!(item.get(to), Some(Value::Object(_))) {
        item.insert(to.to_owned(), Value::Object(Map::new()));
    }
    if let Some(target) = values::object(item, to) {
        for (name, amount) in given {
            values::set_absent(target, &name, amount);
        }
    }
}

fn type_rules(field: &str, name: &str) -> Vec<Violation> {
    let broken = invalid_each(field, name, names::qualified_name(name));
    let standard = matches!(name, "Pod" | "Container" | "PersistentVolumeClaim");
    if broken.is_empty() && !name.contains('/') && !standard {
        return vec![Violation::invalid(
            field,
            &Value::from(name),
            "must be a standard limit type or fully qualified",
        )];
    }
    broken
}

fn item_rules(field: &str, item: &LimitRangeItem) -> Vec<Violation> {
    let mut broken = Vec::new();
    let lists = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let amounts: BTreeMap<&str, pods::Resources> = lists.iter().map(|(name, wire)| (*name, pods::amounts(wire.as_ref()))).collect();
    for (list, _) in lists {
        if item.type_ == "Pod" && matches!(list, "default" | "defaultRequest") {
            if !amounts[list].is_empty() {
                broken.push(Violation::forbidden(
                    format!("{field}.{list}"),
                    "may not be specified when `type` is 'Pod'",
                ));
            }
            continue;
        }
        for name in amounts[list].keys() {
            broken.extend(pod::any_name(&format!("{field}.{list}[{name}]"), name));
        }
    }
    let of_claim = |list: &str| amounts[list].contains_key("storage");
    if item.type_ == "PersistentVolumeClaim" && !of_claim("min") && !of_claim("max") {
        broken.push(Violation::required(
            format!("{field}.limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    let named: BTreeSet<&String> = amounts.values().flat_map(BTreeMap::keys).collect();
    for name in named {
        broken.extend(order_rules(field, name, |list| amounts[list].get(name).copied()));
    }
    broken
}

/// Minimum, default request, default limit and maximum rise in this order.
fn order_rules(field: &str, name: &str, amount: impl Fn(&str) -> Option<Quantity>) -> Vec<Violation> {
    let mut broken = Vec::new();
    let mut refuse = |list: &str, shown: Quantity, why: String| {
        broken.push(Violation::invalid(
            format!("{field}.{list}[{name}]"),
            &Value::from(shown.to_string()),
            &why,
        ));
    };
    let (min, max) = (amount("min"), amount("max"));
    let (request, limit) = (amount("defaultRequest"), amount("default"));
    let above = |one: Option<Quantity>, other: Option<Quantity>| one.zip(other).filter(|(one, other)| one > other);
    if let Some((min, max)) = above(min, max) {
        refuse("min", min, format!("min value {min} is greater than max value {max}"));
    }
    if let Some((min, request)) = above(min, request) {
        refuse(
            "defaultRequest",
            request,
            format!("min value {min} is greater than default request value {request}"),
        );
    }
    if let Some((request, max)) = above(request, max) {
        refuse(
            "defaultRequest",
            request,
            format!("default request value {request} is greater than max value {max}"),
        );
    }
    if let Some((request, limit)) = above(request, limit) {
        refuse(
            "defaultRequest",
            request,
            format!("default request value {request} is greater than default limit value {limit}"),
        );
    }
    if let Some((min, limit)) = above(min, limit) {
        refuse("default", min, format!("min value {min} is greater than default value {limit}"));
    }
    if let Some((limit, max)) = above(limit, max) {
        refuse("default", max, format!("default value {limit} is greater than max value {max}"));
    }
    if let Some(ratio) = amount("maxLimitRequestRatio").filter(|ratio| ratio.milli() < 1_000) {
        refuse("maxLimitRequestRatio", ratio, format!("ratio {ratio} is less than 1"));
    }
    if let (Some(ratio), Some(min), Some(max)) = (amount("maxLimitRequestRatio"), min, max) {
        let most = thousandths(max) / thousandths(min);
        if thousandths(ratio) / 1_000.0 > most {
            let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
            refuse("maxLimitRequestRatio", ratio, why);
        }
    }
    if let Some((request, limit)) = request.zip(limit)
        && !pod::overcommits(name)
        && request != limit
    {
        let why = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
        refuse("defaultRequest", request, why);
    }
    broken
}

/// As upstream reckons it: in floating point.
#[expect(clippy::cast_precision_loss, reason = "upstream divides as floats too")]
fn thousandths(amount: Quantity) -> f64 {
    amount.milli() as f64
}
