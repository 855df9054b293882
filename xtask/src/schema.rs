//! Generates the schema table of the built-in kinds.
//!
//! The source is the set of JSON schemas in a published Python package, which
//! keeps the `x-kubernetes-*` extensions of the OpenAPI document. What that
//! set changed is undone here: `"null"` beside every type, quantities and
//! int-or-string as alternatives, `apiVersion` and `kind` as enumerations.
//!
//! One definition a line, sorted, so that a new version reads as a diff:
//!
//! ```text
//! {"definition":"io.k8s.api.core.v1.EnvVar","fields":{"name":{"type":"string"},...},"required":["name"]}
//! ```
//!
//! A type is `string`, `bytes`, `int32`, `int64`, `number`, `boolean`, `any`,
//! `quantity`, `int-or-string`, `time`, `micro-time`, the name of another
//! definition, `[]T` for an array, or `{}T` for a map with string keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::{generated, protobuf};

mod describe;

/// The package, its version and the hash `pip` must find.
const PACKAGE: &str = "kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9";
/// The schema set of the pinned Kubernetes version inside the package.
const MEMBER: &str = "kubernetes_validate/kubernetes-json-schema/v1.33.0-local/_definitions.json";
/// The generated table, relative to the workspace.
const OUTPUT: &str = "crates/api/src/schema/v1_33.jsonl";
/// The generated field numbers, relative to the workspace.
const NUMBERS: &str = "crates/api/src/schema/v1_33.numbers";
/// The generated descriptions, relative to the workspace.
const DESCRIPTIONS: &str = "crates/api/src/schema/v1_33.descriptions";

/// Every kind of these packages is in the table, and what it refers to.
const ROOTS: &[&str] = &[
    "io.k8s.api.apps.v1.",
    "io.k8s.api.authentication.v1.",
    "io.k8s.api.authorization.v1.",
    "io.k8s.api.autoscaling.v1.",
    "io.k8s.api.batch.v1.",
    "io.k8s.api.certificates.v1.",
    "io.k8s.api.coordination.v1.",
    "io.k8s.api.core.v1.",
    "io.k8s.api.discovery.v1.",
    "io.k8s.api.events.v1.",
    "io.k8s.api.networking.v1.",
    "io.k8s.api.node.v1.",
    "io.k8s.api.policy.v1.",
    "io.k8s.api.rbac.v1.",
    "io.k8s.api.scheduling.v1.",
    "io.k8s.api.storage.v1.",
    "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions",
    "io.k8s.apimachinery.pkg.apis.meta.v1.Status",
    METRICS_PACKAGE,
];

/// `metrics.k8s.io/v1beta1`. Another API server of the project publishes it, so
/// the document of the pinned version lacks it, and its messages.
pub(crate) const METRICS_PACKAGE: &str = "io.k8s.metrics.pkg.apis.metrics.v1beta1.";
/// Its definitions, in the shape of the document. Facts of k8s.io/metrics v0.33.
const METRICS: &str = include_str!("schema/metrics.json");

/// Definitions that are one of our scalar types.
const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "any"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "micro-time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "any"),
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "int-or-string"),
];

/// Writes the table, its descriptions and the field numbers of its messages, or with
/// `check` fails when the committed ones differ. `pip` and `cargo` fetch the
/// sources; without a network, point `PIP_FIND_LINKS` at a directory that
/// holds the package and set `PIP_NO_INDEX`.
///
/// # Errors
/// When a source cannot be had or read, and when `check` finds a difference.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let Generated { table, descriptions } = generate(&fetch()?, METRICS, describe::ENUMS)?;
    let numbers = protobuf::generate(&table).context("generating the field numbers")?;
    for (output, text) in [(OUTPUT, table), (NUMBERS, numbers), (DESCRIPTIONS, descriptions)] {
        generated::keep(root, output, &text, check, "schema")?;
        let done = if check { "is up to date" } else { "is written" };
        println!("{output} {done}: {} definitions, {} bytes", text.lines().count(), text.len());
    }
    Ok(())
}

/// The schema set, as text.
fn fetch() -> Result<String> {
    let scratch = tempfile::tempdir().context("making a directory to download into")?;
    let dir = scratch.path();
    let wanted = dir.join("requirements.txt");
    std::fs::write(&wanted, PACKAGE).with_context(|| format!("writing {}", wanted.display()))?;
    let done = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest"])
        .arg(dir)
        .arg("-r")
        .arg(&wanted)
        .status()
        .context("starting pip (python3 -m pip)")?;
    ensure!(
        done.success(),
        "pip could not fetch {PACKAGE}; without a network, point PIP_FIND_LINKS at a copy and set PIP_NO_INDEX=1"
    );
    let entries = std::fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let wheel = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"));
    unpack(&wheel.context("pip reported success and left no .whl")?)
}

fn unpack(wheel: &Path) -> Result<String> {
    let script = "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";
    let done = Command::new("python3")
        .args(["-c", script])
        .arg(wheel)
        .arg(MEMBER)
        .output()
        .context("starting python3 to unpack the package")?;
    ensure!(
        done.status.success(),
        "unpacking {MEMBER} from {}: {}",
        wheel.display(),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    String::from_utf8(done.stdout).context("the schema set is not UTF-8")
}

/// What is made of a schema set.
#[derive(Debug)]
struct Generated {
    table: String,
    descriptions: String,
}

/// The table of a schema set and of the definitions it lacks.
fn generate(source: &str, lacking: &str, enums: &str) -> Result<Generated> {
    let document: Value = serde_json::from_str(source).context("the schema set is not JSON")?;
    let mut definitions = document["$defs"].as_object().context("the schema set has no $defs")?.clone();
    definitions.extend(serde_json::from_str::<Map<String, Value>>(lacking).context("the definitions the schema set lacks are not JSON")?);
    let mut wanted: Vec<&str> = definitions
        .iter()
        .filter(|(name, body)| body.get("x-kubernetes-group-version-kind").is_some() && ROOTS.iter().any(|root| name.starts_with(root)))
        .map(|(name, _)| name.as_str())
        .collect();
    let mut seen = BTreeSet::new();
    let mut lines = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name) {
            continue;
        }
        let body = definitions
            .get(name)
            .with_context(|| format!("{name} is referred to and not defined"))?;
        references(body, &mut wanted);
        if !SCALARS.iter().any(|(scalar, _)| *scalar == name) {
            lines.insert(name, definition(name, body).with_context(|| format!("definition {name}"))?);
        }
    }
    ensure!(!lines.is_empty(), "the schema set holds none of the wanted kinds");
    let mut text = String::new();
    for line in lines.values() {
        text.push_str(&line.to_string());
        text.push('\n');
    }
    Ok(Generated {
        table: text,
        descriptions: describe::generate(seen.into_iter(), &definitions, enums)?,
    })
}

/// Appends the definitions `node` refers to.
fn references<'a>(node: &'a Value, found: &mut Vec<&'a str>) {
    match node {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/")) {
                found.push(name);
            }
            map.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn definition(name: &str, body: &Value) -> Result<Value> {
    let properties = body
        .get("properties")
        .and_then(Value::as_object)
        .context("is not an object with properties and not a known scalar")?;
    let mut fields = Map::new();
    for (field, node) in properties {
        fields.insert(field.clone(), self::field(node).with_context(|| format!("field {field}"))?);
    }
    let mut line = json!({ "definition": name, "fields": fields });
    if let Some(kinds) = body.get("x-kubernetes-group-version-kind").and_then(Value::as_array) {
        // DeleteOptions and its like name every group; the core one is enough.
        let part = |kind: &Value, key: &str| kind[key].as_str().unwrap_or_default().to_owned();
        let first = kinds.first().context("has an empty group-version-kind list")?;
        line["kind"] = json!([part(first, "group"), part(first, "version"), part(first, "kind")]);
    }
    if let Some(required) = body.get("required") {
        line["required"] = required.clone();
    }
    if body.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic") {
        line["atomic"] = json!(true);
    }
    Ok(line)
}

fn field(node: &Value) -> Result<Value> {
    let mut field = json!({ "type": type_of(node)? });
    if let Some(strategy) = node.get("x-kubernetes-patch-strategy") {
        field["patch"] = strategy.clone();
    }
    if let Some(key) = node.get("x-kubernetes-patch-merge-key") {
        field["mergeKey"] = key.clone();
    }
    if let Some(list) = node.get("x-kubernetes-list-type") {
        field["list"] = list.clone();
    }
    if let Some(keys) = node.get("x-kubernetes-list-map-keys") {
        field["keys"] = keys.clone();
    }
    if node.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic") {
        field["atomic"] = json!(true);
    }
    Ok(field)
}

fn type_of(node: &Value) -> Result<String> {
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        let name = reference
            .strip_prefix("#/$defs/")
            .with_context(|| format!("reference {reference:?} leads elsewhere"))?;
        let scalar = SCALARS.iter().find(|(scalar, _)| *scalar == name);
        return Ok(scalar.map_or(name, |(_, ours)| ours).to_owned());
    }
    let declared = match &node["type"] {
        Value::Array(types) => types.iter().find(|t| *t != "null"),
        other => Some(other),
    };
    let format = node.get("format").and_then(Value::as_str).unwrap_or_default();
    Ok(match (declared.and_then(Value::as_str).unwrap_or_default(), format) {
        ("array", _) => format!("[]{}", type_of(&node["items"])?),
        ("object", _) if node.get("additionalProperties").is_some() => format!("{{}}{}", type_of(&node["additionalProperties"])?),
        ("object", _) => "any".to_owned(),
        ("string", "byte") => "bytes".to_owned(),
        ("integer", "int32" | "int64") => format.to_owned(),
        (scalar @ ("string" | "number" | "boolean"), _) => scalar.to_owned(),
        (other, _) => bail!("type {other:?} with format {format:?} is not known"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_source_changed_is_undone() {
        let source = json!({ "$defs": {
            "io.k8s.api.core.v1.Thing": {
                "properties": {
                    "kind": { "type": ["string", "null"], "enum": ["Thing"] },
                    "size": { "$ref": "#/$defs/io.k8s.apimachinery.pkg.api.resource.Quantity" },
                    "env": { "type": ["array", "null"], "items": { "$ref": "#/$defs/io.k8s.api.core.v1.Env" },
                             "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name" },
                },
                "required": ["env"],
                "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "Thing" }],
            },
            "io.k8s.api.core.v1.Env": { "properties": { "data": { "type": "object", "additionalProperties": { "type": "string", "format": "byte" } } } },
            "io.k8s.apimachinery.pkg.api.resource.Quantity": { "oneOf": [] },
            "io.k8s.api.core.v1.Unused": { "properties": {} },
        }});
        let table = generate(&source.to_string(), "{}", "").unwrap().table;
        let lines: Vec<Value> = table.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            lines,
            [
                json!({ "definition": "io.k8s.api.core.v1.Env", "fields": { "data": { "type": "{}bytes" } } }),
                json!({
                    "definition": "io.k8s.api.core.v1.Thing",
                    "kind": ["", "v1", "Thing"],
                    "required": ["env"],
                    "fields": {
                        "kind": { "type": "string" },
                        "size": { "type": "quantity" },
                        "env": { "type": "[]io.k8s.api.core.v1.Env", "patch": "merge", "mergeKey": "name" },
                    },
                }),
            ]
        );
    }

    #[test]
    fn a_type_nobody_knows_is_refused() {
        let source = json!({ "$defs": { "io.k8s.api.core.v1.Thing": {
            "properties": { "x": { "type": "integer", "format": "uint8" } },
            "x-kubernetes-group-version-kind": [{ "group": "", "version": "v1", "kind": "Thing" }],
        }}});
        let error = format!("{:#}", generate(&source.to_string(), "{}", "").unwrap_err());
        assert!(
            error.contains("io.k8s.api.core.v1.Thing: field x: type \"integer\" with format \"uint8\""),
            "{error}"
        );
    }
}
