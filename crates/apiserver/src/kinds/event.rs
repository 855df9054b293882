//! Event: one stored object, two forms. The stored form is core/v1.
//!
//! Source: upstream `pkg/apis/events/v1/conversion.go`,
//! `pkg/apis/core/validation/events.go`, printer `printEvent`.

use std::sync::Arc;
use std::time::Duration;

use api::status::{Status, Violation};
use api::{Object, Time};
use serde_json::{Map, Value};

use super::{plain, short, text_field};
use crate::registry::{Cell, Column, Convert, Field, Resource, Rules, Strategy};
use crate::table::{age::age, name_column, time};
use crate::validate::{immutable, invalid_each, names};

const STORAGE: &str = "events";
/// Source: upstream's default of `--event-ttl`.
const TTL: Duration = Duration::from_secs(3_600);

/// Field in events.k8s.io/v1, the same in core/v1. Others have one name.
const RENAMED: [(&str, &str); 7] = [
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

pub(super) fn core_row() -> Resource {
    Resource {
        short_names: short(&["ev"]),
        strategy: Arc::new(Event { strict: false }),
        fields: core_fields(),
        columns: columns(),
        ttl: Some(TTL),
        ..plain("", "Event", "events", STORAGE)
    }
}

pub(super) fn events_row() -> Resource {
    Resource {
        short_names: short(&["ev"]),
        convert: Some(&Forms),
        strategy: Arc::new(Event { strict: true }),
        fields: events_fields(),
        columns: columns(),
        ttl: Some(TTL),
        ..plain("events.k8s.io", "Event", "events", STORAGE)
    }
}

fn core_fields() -> Vec<Field> {
    vec![
        text_field!("involvedObject.kind"),
        text_field!("involvedObject.namespace"),
        text_field!("involvedObject.name"),
        text_field!("involvedObject.uid"),
        text_field!("involvedObject.apiVersion"),
        text_field!("involvedObject.resourceVersion"),
        text_field!("involvedObject.fieldPath"),
        text_field!("reason"),
        text_field!("reportingComponent"),
        Field::computed("source", |event| match event.str_at("source.component") {
            "" => event.str_at("reportingComponent").to_owned(),
            component => component.to_owned(),
        }),
        text_field!("type"),
    ]
}

fn events_fields() -> Vec<Field> {
    vec![
        text_field!("regarding.kind"),
        text_field!("regarding.namespace"),
        text_field!("regarding.name"),
        text_field!("regarding.uid"),
        text_field!("regarding.apiVersion"),
        text_field!("regarding.resourceVersion"),
        text_field!("regarding.fieldPath"),
        text_field!("reason"),
        text_field!("reportingController"),
        text_field!("type"),
    ]
}

/// Between core/v1 and events.k8s.io/v1. Nothing is lost either way.
struct Forms;

fn rename(
    body: Map<String, Value>,
    from: fn(&(&'static str, &'static str)) -> &'static str,
    to: fn(&(&'static str, &'static str)) -> &'static str,
) -> Map<String, Value> {
    body.into_iter()
        .map(|(key, value)| match RENAMED.iter().find(|pair| from(pair) == key) {
            Some(pair) => (to(pair).to_owned(), value),
            None => (key, value),
        })
        .collect()
}

impl Convert for Forms {
    fn from_stored(&self, mut stored: Object) -> Object {
        "events.k8s.io/v1".clone_into(&mut stored.types.api_version);
        stored.body = rename(stored.body, |pair| pair.1, |pair| pair.0);
        stored
    }

    fn to_stored(&self, mut served: Object) -> Result<Object, Status> {
        "v1".clone_into(&mut served.types.api_version);
        served.body = rename(served.body, |pair| pair.0, |pair| pair.1);
        Ok(served)
    }
}

/// A field of an event of either form, named as in core/v1.
fn either<'a>(event: &'a Object, core: &str) -> Option<&'a Value> {
    let other = RENAMED.iter().find(|pair| pair.1 == core).map(|pair| pair.0);
    event
        .body
        .get(core)
        .or_else(|| other.and_then(|name| event.body.get(name)))
        .filter(|value| !value.is_null())
}

fn either_text<'a>(event: &'a Object, core: &str) -> &'a str {
    either(event, core).and_then(Value::as_str).unwrap_or_default()
}

fn part<'a>(event: &'a Object, core: &str, key: &str) -> &'a str {
    either(event, core).and_then(|value| value[key].as_str()).unwrap_or_default()
}

fn first_seen(event: &Object) -> Option<Time> {
    time(either(event, "firstTimestamp")).or_else(|| time(either(event, "eventTime")))
}

fn last_seen(event: &Object) -> Option<Time> {
    let series = either(event, "series").and_then(|series| time(series.get("lastObservedTime")));
    series
        .or_else(|| time(either(event, "lastTimestamp")))
        .or_else(|| first_seen(event))
}

fn count(event: &Object) -> i64 {
    let series = either(event, "series").and_then(|series| series["count"].as_i64());
    match series.or_else(|| either(event, "count").and_then(Value::as_i64)) {
        None | Some(0) => 1,
        Some(count) => count,
    }
}

fn source(event: &Object) -> String {
    let (component, host) = match (part(event, "source", "component"), part(event, "source", "host")) {
        ("", _) => (either_text(event, "reportingComponent"), either_text(event, "reportingInstance")),
        pair => pair,
    };
    if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    }
}

fn columns() -> Vec<Column> {
    let text = |name, value| Column::computed(name, Cell::Text, value);
    vec![
        text("Last Seen", |event, now| Value::from(age(last_seen(event), now))),
        text("Type", |event, _| Value::from(either_text(event, "type"))),
        text("Reason", |event, _| Value::from(either_text(event, "reason"))),
        text("Object", |event, _| {
            let kind = part(event, "involvedObject", "kind").to_lowercase();
            Value::from(format!("{kind}/{}", part(event, "involvedObject", "name")))
        }),
        text("Subobject", |event, _| Value::from(part(event, "involvedObject", "fieldPath"))).wide(),
        text("Source", |event, _| Value::from(source(event))).wide(),
        text("Message", |event, _| Value::from(either_text(event, "message").trim())),
        text("First Seen", |event, now| Value::from(age(first_seen(event), now))).wide(),
        text("Count", |event, _| Value::from(count(event))).wide(),
        Column {
            priority: 1,
            ..name_column()
        },
    ]
}

struct Event {
    /// The newer form asks for more than the older one.
    strict: bool,
}

impl Strategy for Event {
    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let mut broken = if time(either(new, "eventTime")).is_some() {
            timed(new)
        } else {
            untimed(new)
        };
        if self.strict {
            match old {
                None => broken.extend(strict(new)),
                Some(old) => broken.extend(unchanged(new, old)),
            }
        }
        broken
    }

    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        if self.strict {
            names::dns1123_subdomain(name)
        } else {
            names::path_segment(name)
        }
    }
}

const ELSEWHERE: &str = "does not match event.namespace";

/// An event of an older recorder: it lies where its object lies.
fn untimed(event: &Object) -> Vec<Violation> {
    let about = part(event, "involvedObject", "namespace");
    let fits = if about.is_empty() {
        matches!(event.namespace(), "" | "default")
    } else {
        about == event.namespace()
    };
    if fits {
        Vec::new()
    } else {
        vec![Violation::invalid("involvedObject.namespace", &Value::from(about), ELSEWHERE)]
    }
}

/// An event of a newer recorder, which says who reports what.
fn timed(event: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    let about = part(event, "involvedObject", "namespace");
    if about.is_empty() && !matches!(event.namespace(), "default" | "kube-system") {
        broken.push(Violation::invalid("involvedObject.namespace", &Value::from(about), ELSEWHERE));
    }
    let controller = either_text(event, "reportingComponent");
    if controller.is_empty() {
        broken.push(Violation::required("reportingController", ""));
    }
    broken.extend(invalid_each("reportingController", controller, names::qualified_name(controller)));
    for (field, most) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let text = either_text(event, field);
        if text.is_empty() && field != "message" {
            broken.push(Violation::required(field, ""));
        }
        if text.len() > most {
            broken.push(Violation::invalid(
                field,
                &Value::from(""),
                &format!("can have at most {most} characters"),
            ));
        }
    }
    broken
}

fn series(event: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    if let Some(series) = either(event, "series") {
        if series["count"].as_i64().unwrap_or(0) < 2 {
            broken.push(Violation::invalid("series.count", &Value::from(""), "should be at least 2"));
        }
        if time(series.get("lastObservedTime")).is_none() {
            broken.push(Violation::required("series.lastObservedTime", ""));
        }
    }
    broken
}

fn strict(event: &Object) -> Vec<Violation> {
    let mut broken = series(event);
    if time(either(event, "eventTime")).is_none() {
        broken.push(Violation::required("eventTime", ""));
    }
    let kind = either_text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        broken.push(Violation::invalid("type", &Value::from(""), &format!("has invalid value: {kind}")));
    }
    let unset = |value: &Value| match value {
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Object(source) => source.values().all(|part| part == ""),
        other => other.is_null(),
    };
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if either(event, field).is_some_and(|value| !unset(value)) {
            broken.push(Violation::invalid(field, &Value::from(""), "needs to be unset"));
        }
    }
    broken
}

/// Only the series of a reported event goes on.
fn unchanged(new: &Object, old: &Object) -> Vec<Violation> {
    let mut broken = if either(new, "series") == either(old, "series") {
        Vec::new()
    } else {
        series(new)
    };
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
    ] {
        broken.extend(immutable(field, &either(new, field), &either(old, field)));
    }
    for (name, field) in [
        ("reportingController", "reportingComponent"),
        ("reportingInstance", "reportingInstance"),
    ] {
        broken.extend(immutable(name, &either(new, field), &either(old, field)));
    }
    broken
}

#[cfg(test)]
mod tests;
