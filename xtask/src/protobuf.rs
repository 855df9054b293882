//! Generates the field numbers of the built-in kinds in protobuf.
//!
//! The schema table says what a field is; this says under which number it
//! goes over the wire. The source is a published crate of messages generated
//! from upstream's `.proto` files. Its fields are compared with the table: one
//! that is missing, or of another type than the decoder will expect from the
//! table, fails the generation. Messages and fields the table does not hold
//! are left out.
//!
//! One definition a line, in the table's order; names in order:
//!
//! ```text
//! io.k8s.api.core.v1.Volume configMap=2.19 name=1
//! io.k8s.api.core.v1.ContainerPort ... hostPort=2
//! io.k8s.api.apps.v1.ReplicaSetSpec ... replicas=1?
//! ```
//!
//! `2.19` is field 19 of the message in field 2: Go embeds a struct there, so
//! JSON shows its fields as the outer object's. `?` marks what Go declares as
//! a pointer to a scalar: zero is a value of its own (`pointers.txt`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::schema::METRICS_PACKAGE;

mod messages;

use messages::{Field, Message, Messages, Sent};

const CRATE: &str = "k8s-pb";
const VERSION: &str = "0.9.0";
/// What the registry's index must say of the package.
const SHA256: &str = "43b6ba14400b62feaa58ebbbd32ce2d9a4601339b2820af393f68033b9cea620";
const POINTERS: &str = include_str!("protobuf/pointers.txt");

/// Definitions whose messages are one of the table's scalar types.
const SCALARS: &[(&str, &[&str])] = &[
    (
        "any",
        &[
            "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
            "io.k8s.apimachinery.pkg.runtime.RawExtension",
        ],
    ),
    ("int-or-string", &["io.k8s.apimachinery.pkg.util.intstr.IntOrString"]),
    ("micro-time", &["io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"]),
    ("quantity", &["io.k8s.apimachinery.pkg.api.resource.Quantity"]),
    ("time", &["io.k8s.apimachinery.pkg.apis.meta.v1.Time"]),
];

/// The field numbers of every definition of the schema table `table`. Cargo
/// fetches the source.
///
/// # Errors
/// When the source cannot be had or read, and when it contradicts the table.
pub(crate) fn generate(table: &str) -> Result<String> {
    let scratch = tempfile::tempdir().context("making a directory to download into")?;
    numbers(table, &fetch(scratch.path())?, POINTERS)
}

/// All messages of the source.
fn fetch(scratch: &Path) -> Result<Messages> {
    let manifest = format!(
        "[package]\nname = \"scratch\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[workspace]\n[dependencies]\n{CRATE} = \"={VERSION}\"\n"
    );
    std::fs::create_dir(scratch.join("src")).context("making a scratch package")?;
    std::fs::write(scratch.join("src/lib.rs"), "").context("making a scratch package")?;
    std::fs::write(scratch.join("Cargo.toml"), manifest).context("making a scratch package")?;
    let done = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["vendor", "--quiet", "vendor"])
        .current_dir(scratch)
        .stdout(std::process::Stdio::null())
        .status()
        .context("starting cargo vendor")?;
    ensure!(
        done.success(),
        "cargo could not fetch {CRATE} {VERSION}; it needs the package registry, or a mirror of it"
    );
    let package = scratch.join("vendor").join(CRATE);
    let checksums =
        std::fs::read_to_string(package.join(".cargo-checksum.json")).with_context(|| format!("reading the checksum of {CRATE}"))?;
    let checksums: Value = serde_json::from_str(&checksums).with_context(|| format!("the checksum file of {CRATE} is not JSON"))?;
    ensure!(
        checksums["package"] == SHA256,
        "{CRATE} {VERSION} has the checksum {}, not {SHA256}: it is not the package this was written for",
        checksums["package"]
    );
    Messages::read(&package.join("src"))
}

fn numbers(table: &str, messages: &Messages, pointers: &str) -> Result<String> {
    let mut pointers = read_pointers(pointers)?;
    let mut text = String::new();
    for line in table.lines() {
        let line: Value = serde_json::from_str(line).context("the schema table is not JSON")?;
        let name = line["definition"]
            .as_str()
            .context("a line of the schema table names no definition")?;
        if name.starts_with(METRICS_PACKAGE) {
            continue;
        }
        let fields = definition(&line, messages).with_context(|| format!("definition {name}"))?;
        text.push_str(name);
        let mut marked = pointers.remove(name).unwrap_or_default();
        for (field, path) in fields {
            let path: Vec<String> = path.iter().map(ToString::to_string).collect();
            let mark = if marked.remove(field) { "?" } else { "" };
            write!(text, " {field}={}{mark}", path.join("."))?;
        }
        ensure!(marked.is_empty(), "the pointers {marked:?} of {name} are not in the schema table");
        text.push('\n');
    }
    ensure!(
        pointers.is_empty(),
        "the definitions {:?} of the pointers are not in the schema table",
        pointers.keys()
    );
    Ok(text)
}

fn read_pointers(text: &str) -> Result<BTreeMap<&str, BTreeSet<&str>>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        ensure!(
            found.insert(name, words.collect()).is_none(),
            "{name} is twice in the list of pointers"
        );
    }
    Ok(found)
}

/// The numbers that lead to each field of a line of the table.
fn definition<'a>(line: &'a Value, messages: &Messages) -> Result<BTreeMap<&'a str, Vec<u32>>> {
    let name = line["definition"].as_str().unwrap_or_default();
    let message = messages.find(name)?;
    let fields = line["fields"].as_object().context("has no fields")?;
    let mut found = BTreeMap::new();
    let mut left = Vec::new();
    for (field, declared) in fields {
        // `TypeMeta` goes over the wire beside the object, once.
        if matches!(field.as_str(), "apiVersion" | "kind") && line.get("kind").is_some() {
            continue;
        }
        let wanted = declared["type"].as_str().with_context(|| format!("field {field} has no type"))?;
        match message.field(field) {
            Some(sent) => {
                same_type(wanted, &sent.sent, messages).with_context(|| format!("field {field}"))?;
                found.insert(field.as_str(), vec![sent.number]);
            }
            None => left.push((field.as_str(), wanted)),
        }
    }
    for (field, wanted) in left {
        found.insert(field, embedded(field, wanted, message, fields, messages)?);
    }
    Ok(found)
}

/// The path to a field of a struct that Go embeds: the message is one of the
/// outer one's fields, under a name JSON does not show.
fn embedded(field: &str, wanted: &str, outer: &Message, shown: &serde_json::Map<String, Value>, messages: &Messages) -> Result<Vec<u32>> {
    let mut found = None;
    for (holder, sent) in &outer.fields {
        let Sent::Message(inner) = &sent.sent else { continue };
        if shown.keys().any(|name| messages::folded(name) == *holder) {
            continue;
        }
        let Some(inner) = messages.find(inner)?.field(field) else {
            continue;
        };
        same_type(wanted, &inner.sent, messages).with_context(|| format!("field {field} of the embedded {holder}"))?;
        ensure!(found.is_none(), "field {field} is in two embedded messages");
        found = Some(vec![sent.number, inner.number]);
    }
    found.with_context(|| format!("field {field} has no number in {CRATE} {VERSION}"))
}

/// The wire must carry what the decoder will expect from the table's type.
fn same_type(wanted: &str, sent: &Sent, messages: &Messages) -> Result<()> {
    let same = match (wanted.split_at_checked(2), sent) {
        (Some(("[]", items)), Sent::Repeated(sent)) => return same_type(items, sent, messages),
        // A map's value cannot be repeated: a message with the list as field 1 stands for it.
        (Some(("{}", values)), Sent::Map(sent)) => match (values.strip_prefix("[]"), sent.as_ref()) {
            (Some(items), Sent::Message(wrapper)) => {
                let wrapper = messages.find(wrapper)?;
                let inner: Vec<&Field> = wrapper.fields.values().collect();
                let [
                    Field {
                        number: 1,
                        sent: Sent::Repeated(sent),
                    },
                ] = inner[..]
                else {
                    bail!("its values are not wrapped lists");
                };
                return same_type(items, sent, messages);
            }
            _ => return same_type(values, sent, messages),
        },
        (_, Sent::Scalar(sent)) => match sent.as_str() {
            "double" => wanted == "number",
            "bool" => wanted == "boolean",
            same => wanted == same,
        },
        (_, Sent::Message(sent)) => match SCALARS.iter().find(|(scalar, _)| *scalar == wanted) {
            Some((_, definitions)) => definitions.iter().any(|definition| messages::same(definition, sent)),
            None => messages::same(wanted, sent),
        },
        _ => false,
    };
    ensure!(same, "the schema table has {wanted} where the wire has {sent:?}");
    Ok(())
}

#[cfg(test)]
mod tests;
