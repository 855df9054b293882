//! What becomes of a Pod's fields: of all that the schema has
//! ([`schema_fields`]), and of those that a manifest uses ([`examine`]).
//!
//! Both read the tables of `supported.rs`, as the refusals of the API server
//! do, so that none of the three can say something else than another.

use api::Object;
use api::schema::{self, Kind, Schema};
use api::typed::Pod;
use serde::Serialize;
use serde_json::Value;

use super::supported;
use crate::registry::{Registry, Resource, Rules};

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It does what upstream says it does.
    Honoured,
    /// So, but for some values, which are refused.
    HonouredInPart,
    /// An object that has it is refused.
    Refused,
    /// It is kept and shown, and does nothing yet.
    Kept,
    /// The platform writes it; what a manifest says of it is dropped, as upstream.
    Written,
    /// Upstream writes it in cases that do not occur here.
    NotWritten,
}

/// A field of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SchemaField {
    /// Such as `spec.containers[].image`. Init and ephemeral containers stand
    /// there once, as `spec.containers[]`; so do the statuses.
    pub path: String,
    /// What becomes of it.
    pub standing: Standing,
    /// Which values are refused, if not all; or why it is only kept.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub note: &'static str,
    /// What serves instead of what is refused.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub instead: &'static str,
}

/// A field that a manifest uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsedField {
    /// Such as `spec.containers[0].image`.
    pub path: String,
    /// What becomes of it here.
    pub standing: Standing,
    /// Why it is refused, as the API server says it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What serves instead.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub instead: String,
}

/// Fields of `metadata` that the server alone writes.
///
/// Source: object metadata API reference, "Populated by the system".
const OWNED_METADATA: [&str; 8] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// What the platform takes and does nothing about yet.
const KEPT: &[(&str, &str)] = &[("spec.preemptionPolicy", "no pod is preempted yet")];

/// Parts of the status that nothing here writes, with all below them.
const NOT_WRITTEN: &[(&str, &str)] = &[
    ("metadata.selfLink", "nor does upstream since v1.20"),
    ("status.conditions[].lastProbeTime", "upstream's is always null"),
    ("status.containerStatuses[].allocatedResourcesStatus", "there are no device plugins"),
    (
        "status.containerStatuses[].lastState.running",
        "what a container was before it is that it ended; nor does upstream",
    ),
    (
        "status.containerStatuses[].lastState.terminated.signal",
        "the exit code tells the signal; nor does upstream with a CRI runtime",
    ),
    (
        "status.containerStatuses[].lastState.waiting",
        "what a container was before it is that it ended; nor does upstream",
    ),
    (
        "status.containerStatuses[].state.terminated.signal",
        "the exit code tells the signal; nor does upstream with a CRI runtime",
    ),
    ("status.containerStatuses[].resources.claims", "resource claims are refused"),
    ("status.containerStatuses[].user", "the users of a container are not reported"),
    ("status.nominatedNodeName", "no pod is preempted"),
    ("status.resize", "deprecated by upstream"),
    ("status.resourceClaimStatuses", "resource claims are refused"),
];

/// Every field of the Pod schema, by path, what contains a field before it.
#[must_use]
pub fn schema_fields() -> Vec<SchemaField> {
    let mut all = Vec::new();
    if let Some(pod) = schema::for_kind("", "v1", "Pod") {
        below(pod, "", &mut all);
    }
    all
}

fn below(of: Schema<'_>, path: &str, all: &mut Vec<SchemaField>) {
    let mut fields: Vec<_> = of.fields().collect();
    fields.sort_by_key(|(name, _)| *name);
    for (name, field) in fields {
        let own = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        if let Some(twin) = twin(&own)
            && (all.iter().any(|known| known.path == twin) || has(&twin))
        {
            continue;
        }
        all.push(of_schema(&own));
        match field.schema.kind() {
            Kind::Object => below(field.schema, &own, all),
            Kind::Array(items) => below(items, &format!("{own}[]"), all),
            Kind::Map(values) => below(values, &format!("{own}[]"), all),
            _ => {} // nothing is below a scalar
        }
    }
}

/// The same field of a regular container, for one of another container.
fn twin(path: &str) -> Option<String> {
    const LISTS: [(&str, &str); 4] = [
        ("spec.initContainers[]", "spec.containers[]"),
        ("spec.ephemeralContainers[]", "spec.containers[]"),
        ("status.initContainerStatuses[]", "status.containerStatuses[]"),
        ("status.ephemeralContainerStatuses[]", "status.containerStatuses[]"),
    ];
    LISTS
        .iter()
        .find_map(|(list, regular)| path.strip_prefix(list).map(|rest| format!("{regular}{rest}")))
}

/// Whether the Pod schema has a field at a path of the form of
/// [`SchemaField::path`].
fn has(path: &str) -> bool {
    let mut at = schema::for_kind("", "v1", "Pod");
    for step in path.split('.') {
        let name = step.trim_end_matches("[]");
        let field = at.and_then(|schema| schema.field(name)).map(|field| field.schema);
        at = if step.ends_with("[]") {
            field.and_then(|list| list.items().or_else(|| list.values()))
        } else {
            field
        };
    }
    at.is_some()
}

fn of_schema(path: &str) -> SchemaField {
    let (standing, note, instead) = stands(path);
    SchemaField {
        path: path.to_owned(),
        standing,
        note,
        instead,
    }
}

/// What becomes of a field of the schema, a note, and what serves instead.
fn stands(path: &str) -> (Standing, &'static str, &'static str) {
    let covers = |field: &str| {
        path.strip_prefix(field)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    if let Some((_, why)) = NOT_WRITTEN.iter().find(|(field, _)| covers(field)) {
        return (Standing::NotWritten, why, "");
    }
    if let Some((_, why)) = KEPT.iter().find(|(field, _)| covers(field)) {
        return (Standing::Kept, why, "");
    }
    if covers("status") || OWNED_METADATA.iter().any(|name| covers(&format!("metadata.{name}"))) {
        return (Standing::Written, "", "");
    }
    for refused in supported::refused_fields() {
        let base = if refused.of_container { "spec.containers[]" } else { "spec" };
        let field = format!("{base}.{}", refused.path);
        match refused.when {
            "" if covers(&field) => return (Standing::Refused, "", refused.instead),
            when if field == path => return (Standing::HonouredInPart, when, refused.instead),
            _ => {} // a row about another field
        }
    }
    (Standing::Honoured, "", "")
}

/// Every field that an object of a manifest uses, in its order, and what the
/// API server would do with it. What is refused covers what is below it.
///
/// Of objects other than Pods, what is refused alone is told.
#[must_use]
pub fn examine(registry: &Registry, manifest: &Value) -> Vec<UsedField> {
    let text = |name: &str| manifest[name].as_str().unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    let served = registry
        .rows()
        .find(|row| row.id.group == group && row.id.version == version && row.id.kind == text("kind"));
    let Some(row) = served else {
        return vec![UsedField {
            path: "kind".to_owned(),
            standing: Standing::Refused,
            reason: format!("no matches for kind {:?} in version {:?}", text("kind"), text("apiVersion")),
            instead: instead_of_kind(group).to_owned(),
        }];
    };
    let refused = refused(row, manifest);
    if row.id.kind != "Pod" || !group.is_empty() {
        return refused;
    }
    let mut used = Vec::new();
    walk(row.schema(), manifest, "", &refused, &mut used);
    // Refused without being written there: a default, or something that lacks.
    let rest = refused
        .into_iter()
        .filter(|refused| !used.iter().any(|known: &UsedField| known.path == refused.path));
    let rest: Vec<_> = rest.collect();
    used.extend(rest);
    used
}

fn instead_of_kind(group: &str) -> &'static str {
    match group {
        "apps" | "batch" => "Pods, whose `restartPolicy` keeps or ends them; a ReplicationController is kept, and makes none",
        _ => "",
    }
}

/// What the API server would refuse: shape and unknown fields first, broken
/// rules then, and at last what is right but not done.
fn refused(row: &Resource, manifest: &Value) -> Vec<UsedField> {
    let refused = |path: &str, reason: String, instead: &str| UsedField {
        path: path.to_owned(),
        standing: Standing::Refused,
        reason,
        instead: instead.to_owned(),
    };
    let mut all: Vec<UsedField> = schema::unknown_fields(row.schema(), manifest)
        .into_iter()
        .map(|complaint| {
            let path = complaint.split('"').nth(1).unwrap_or_default().to_owned();
            refused(&path, complaint, "")
        })
        .collect();
    let mut value = manifest.clone();
    schema::prune(row.schema(), &mut value);
    if let Err(error) = schema::check(row.schema(), &value) {
        let path = match &error {
            schema::ShapeError::Field { path, .. } => path.clone(),
            _ => String::new(), // upstream does not say where
        };
        all.push(refused(&path, error.to_string(), ""));
        return all;
    }
    schema::normalize(row.schema(), &mut value);
    schema::apply_defaults(row.schema(), &mut value);
    let mut object: Object = match serde_json::from_value(value) {
        Ok(object) => object,
        Err(error) => {
            all.push(refused("", error.to_string(), ""));
            return all;
        }
    };
    row.strategy.default(&mut object);
    let broken = row.strategy.validate(&object, None, Rules::Create);
    let not_done = match object.view::<Pod>() {
        Ok(pod) if row.id.kind == "Pod" => supported::refused(&pod),
        _ => Vec::new(),
    };
    all.extend(broken.into_iter().map(|violation| {
        let instead = not_done.iter().find(|refused| refused.path == violation.field);
        refused(
            &violation.field,
            violation.message.clone(),
            instead.map_or("", |refused| refused.instead),
        )
    }));
    all
}

/// Goes through what is given, down to scalars, lists of scalars, and the
/// keys of maps.
fn walk(of: Schema<'_>, value: &Value, path: &str, refused: &[UsedField], used: &mut Vec<UsedField>) {
    if let Some(known) = refused.iter().find(|known| !path.is_empty() && known.path == path) {
        used.push(known.clone());
        return;
    }
    match (of.kind(), value) {
        (_, Value::Null) => {}
        (Kind::Object, Value::Object(fields)) => {
            for (name, child) in fields {
                let own = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                // A field the schema has not is among the refused.
                let shape = of.field(name).map_or(of, |field| field.schema);
                walk(shape, child, &own, refused, used);
            }
        }
        (Kind::Map(values), Value::Object(fields)) => {
            for (key, child) in fields {
                walk(values, child, &format!("{path}[{key}]"), refused, used);
            }
        }
        (Kind::Array(items), Value::Array(list)) if items.kind() == Kind::Object => {
            for (index, child) in list.iter().enumerate() {
                walk(items, child, &format!("{path}[{index}]"), refused, used);
            }
        }
        _ => {
            let (standing, note, _) = stands(&as_schema(path));
            // What of it is refused was found above; the rest is honoured.
            let (standing, note) = match standing {
                Standing::HonouredInPart => (Standing::Honoured, ""),
                other => (other, note),
            };
            used.push(UsedField {
                path: path.to_owned(),
                standing,
                reason: note.to_owned(),
                instead: String::new(),
            });
        }
    }
}

fn as_schema(path: &str) -> String {
    let path = supported::pattern(path);
    match twin(&path) {
        Some(twin) if has(&twin) => twin,
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn no_field_of_the_schema_is_missing_and_none_stands_there_twice() {
        let all = schema_fields();
        let paths: BTreeSet<&str> = all.iter().map(|field| field.path.as_str()).collect();
        assert_eq!(paths.len(), all.len());
        for path in [
            "apiVersion",
            "spec.containers[].livenessProbe.grpc.port",
            "spec.ephemeralContainers[].targetContainerName",
            "spec.initContainers",
            "spec.volumes[].projected.sources[].serviceAccountToken.audience",
            "status.containerStatuses[].state.terminated.exitCode",
        ] {
            assert!(paths.contains(path), "{path}");
        }
        assert!(
            !paths.iter().any(|path| path.starts_with("spec.initContainers[]")),
            "init containers have no field of their own"
        );
    }

    #[test]
    fn whatever_a_table_names_is_a_field() {
        for refused in supported::refused_fields() {
            let base = if refused.of_container { "spec.containers[]" } else { "spec" };
            assert!(has(&format!("{base}.{}", refused.path)), "{refused:?}");
            assert!(!refused.instead.is_empty(), "{refused:?}");
        }
        for (path, _) in KEPT.iter().chain(NOT_WRITTEN) {
            assert!(has(path), "{path}");
        }
        for name in OWNED_METADATA {
            assert!(has(&format!("metadata.{name}")), "{name}");
        }
    }

    /// A kind of volume that comes with a new schema is either mounted or refused.
    #[test]
    fn every_kind_of_volume_is_mounted_or_refused() {
        let all = schema_fields();
        let kinds = all
            .iter()
            .filter_map(|field| field.path.strip_prefix("spec.volumes[].").map(|kind| (kind, field.standing)));
        for (kind, standing) in kinds.filter(|(kind, _)| !kind.contains('.') && *kind != "name") {
            assert_eq!(standing == Standing::Honoured, supported::MOUNTED.contains(&kind), "{kind}");
        }
    }

    fn examined(manifest: &Value) -> Vec<(String, Standing)> {
        examine(&crate::kinds::builtin(), manifest)
            .into_iter()
            .map(|used| (used.path, used.standing))
            .collect()
    }

    #[test]
    fn each_field_of_a_manifest_is_told_of() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a", "labels": { "x": "y" }, "uid": "u" },
            "spec": { "hostUsers": false, "typo": 1, "containers": [{ "name": "a", "image": "i", "args": ["b", "c"], "ports": [{ "containerPort": 1, "hostPort": 1 }] }] },
        });
        let told: Vec<_> = examined(&pod);
        let all: BTreeSet<(&str, bool)> = told
            .iter()
            .map(|(path, standing)| (path.as_str(), *standing == Standing::Refused))
            .collect();
        let wanted = [
            ("apiVersion", false),
            ("kind", false),
            ("metadata.labels[x]", false),
            ("metadata.name", false),
            ("metadata.uid", false),
            ("spec.containers[0].args", false),
            ("spec.containers[0].image", false),
            ("spec.containers[0].name", false),
            ("spec.containers[0].ports[0].containerPort", false),
            ("spec.containers[0].ports[0].hostPort", true),
            ("spec.hostUsers", false),
            ("spec.typo", true),
        ];
        assert_eq!(all, wanted.into_iter().collect());
        assert!(told.contains(&("metadata.uid".to_owned(), Standing::Written)));
        let refused = examine(&crate::kinds::builtin(), &pod);
        let port = refused.iter().find(|used| used.path.ends_with("hostPort")).unwrap();
        assert!(
            port.reason.contains("does not forward host ports yet") && port.instead.contains("hostNetwork"),
            "{port:?}"
        );
    }

    #[test]
    fn what_is_wrong_is_refused_in_the_servers_words() {
        let wrong = |spec: Value| {
            examine(
                &crate::kinds::builtin(),
                &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": spec }),
            )
        };
        let shape = wrong(json!({ "containers": [{ "name": 3 }] }));
        assert!(
            shape.iter().any(|used| used.reason.starts_with("json: cannot unmarshal number")),
            "{shape:?}"
        );
        let rule = wrong(json!({ "containers": [{ "name": "A_b", "image": "i" }] }));
        let broken: Vec<_> = rule.iter().filter(|used| used.standing == Standing::Refused).collect();
        assert_eq!(broken.len(), 1);
        assert!(
            broken[0].path == "spec.containers[0].name" && broken[0].reason.starts_with("Invalid value: \"A_b\""),
            "{broken:?}"
        );
        let lacking = wrong(json!({ "containers": [{ "image": "i" }] }));
        assert!(
            lacking
                .iter()
                .any(|used| used.path == "spec.containers[0].name" && used.reason == "Required value"),
            "{lacking:?}"
        );
    }

    #[test]
    fn kinds_without_pods_in_them_and_kinds_not_served() {
        assert_eq!(
            examined(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "a": "b" } })),
            []
        );
        let typo = examined(&json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "datum": {} }));
        assert_eq!(typo, [("datum".to_owned(), Standing::Refused)]);
        let other = examine(
            &crate::kinds::builtin(),
            &json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "a" } }),
        );
        assert_eq!(other[0].reason, "no matches for kind \"Deployment\" in version \"apps/v1\"");
    }
}
