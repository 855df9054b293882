//! Reads messages from Rust source that `prost` generated.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What a field carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// `string`, `bytes`, `int32`, `int64`, `bool` or `double`.
    Scalar(String),
    /// The definition of a message, such as `io.k8s.api.core.v1.Pod`.
    Message(String),
    Repeated(Box<Sent>),
    /// With string keys.
    Map(Box<Sent>),
}

pub(super) struct Field {
    pub(super) number: u32,
    pub(super) sent: Sent,
}

/// A message: its fields by [`folded`] name.
#[derive(Default)]
pub(super) struct Message {
    pub(super) fields: BTreeMap<String, Field>,
}

impl Message {
    /// The field of this name in JSON.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(&folded(name))
    }
}

/// Messages by folded definition.
#[derive(Default)]
pub(super) struct Messages(HashMap<String, Message>);

/// A name as both sides spell it: `hostIPs` is `host_ips` in Rust, `HostIP`
/// is `HostIp`.
pub(super) fn folded(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_ascii_lowercase()
}

/// Whether two definitions are the same but for the spelling.
pub(super) fn same(left: &str, right: &str) -> bool {
    folded(left) == folded(right)
}

impl Messages {
    /// All messages below the source directory of the crate.
    pub(super) fn read(src: &Path) -> Result<Self> {
        let mut messages = Self::default();
        messages.read_directory(src, &mut Vec::new())?;
        ensure!(!messages.0.is_empty(), "{} holds no messages", src.display());
        Ok(messages)
    }

    pub(super) fn find(&self, definition: &str) -> Result<&Message> {
        self.0
            .get(&folded(definition))
            .with_context(|| format!("the source has no message {definition}"))
    }

    fn read_directory(&mut self, directory: &Path, module: &mut Vec<String>) -> Result<()> {
        let entries = std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", directory.display()))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                module.push(name.to_owned());
                self.read_directory(&path, module)?;
                module.pop();
            } else if name == "mod.rs" {
                let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                self.read_module(&text, module).with_context(|| format!("in {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The messages of one file; `module` is its path.
    pub(super) fn read_module(&mut self, text: &str, module: &[String]) -> Result<()> {
        let mut current: Option<(String, Message)> = None;
        let mut lines = text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if let Some(name) = line.strip_prefix("pub struct ") {
                let definition = definition(module, name.split([' ', '{', ';', '(']).next().unwrap_or_default());
                if line.ends_with("{}") {
                    self.0.insert(folded(&definition), Message::default());
                } else {
                    current = Some((definition, Message::default()));
                }
            } else if line == "}" {
                if let Some((definition, message)) = current.take() {
                    self.0.insert(folded(&definition), message);
                }
            } else if let Some(attribute) = line.strip_prefix("#[prost(") {
                let attribute = attribute
                    .strip_suffix(")]")
                    .with_context(|| format!("the attribute {line:?} goes on in the next line"))?;
                // A long type goes on in the lines after the name.
                let mut declaration = String::new();
                while !declaration.ends_with(',') || declaration.matches('<').count() > declaration.matches('>').count() {
                    declaration.push_str(lines.next().context("the file ends inside a field")?);
                }
                let (name, field) = field(attribute, &declaration, module)?;
                let (_, message) = current.as_mut().context("a field outside of a message")?;
                let taken = message.fields.insert(folded(name), field);
                ensure!(taken.is_none(), "two fields are called {name}");
            }
        }
        Ok(())
    }
}

/// The definition of a message of a module: `api::core::v1` is `io.k8s.api.core.v1`.
fn definition(module: &[String], name: &str) -> String {
    format!("io.k8s.{}.{name}", module.join("."))
}

/// A field from `message, optional, tag = "3"` and `pub name: Type,`.
fn field<'a>(attribute: &str, declaration: &'a str, module: &[String]) -> Result<(&'a str, Field)> {
    let (name, rust_type) = declaration
        .strip_prefix("pub ")
        .and_then(|rest| rest.split_once(':'))
        .with_context(|| format!("{declaration:?} declares no field"))?;
    let unknown = || format!("the attribute {attribute:?} of {name} is not known");
    let number = attribute
        .rsplit_once("tag = \"")
        .and_then(|(_, tag)| tag.strip_suffix('"'))
        .and_then(|tag| tag.parse().ok())
        .with_context(unknown)?;
    let of = |kind: &str| -> Result<Sent> {
        Ok(match kind {
            "message" => Sent::Message(message(rust_type, module)?),
            "string" | "int32" | "int64" | "bool" | "double" | "bytes" => Sent::Scalar(kind.to_owned()),
            _ => bail!(unknown()),
        })
    };
    let sent = if let Some(map) = attribute.strip_prefix("btree_map = \"string, ") {
        Sent::Map(Box::new(of(map.split('"').next().unwrap_or_default())?))
    } else {
        let mut words = attribute.split(", ");
        let kind = words.next().unwrap_or_default();
        let sent = of(if kind == "bytes = \"vec\"" { "bytes" } else { kind })?;
        match words.next() {
            Some("repeated") => Sent::Repeated(Box::new(sent)),
            Some("optional") => sent,
            _ => bail!(unknown()),
        }
    };
    Ok((name, Field { number, sent }))
}

/// The message a Rust type names, such as
/// `Option<super::super::apimachinery::pkg::runtime::RawExtension>`: the last
/// path of the type.
fn message(rust_type: &str, module: &[String]) -> Result<String> {
    let last = rust_type
        .trim_end_matches([',', '>'])
        .rsplit(['<', ' ', ','])
        .next()
        .with_context(|| format!("{rust_type:?} names no message"))?;
    let mut at = module.to_vec();
    let mut parts: Vec<&str> = last.split("::").collect();
    let name = parts.pop().unwrap_or_default();
    for part in parts {
        if part == "super" {
            at.pop().with_context(|| format!("{rust_type:?} leads out of the crate"))?;
        } else {
            at.push(part.to_owned());
        }
    }
    Ok(definition(&at, name))
}
