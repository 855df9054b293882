//! Generates what people read of the built-in kinds: descriptions of
//! definitions and fields, and the closed sets of values some have.
//!
//! One definition a line, in the schema table's order, and the scalar types
//! that have a name of their own:
//!
//! ```text
//! {"definition":"io.k8s.api.core.v1.Taint","description":"...","fields":{"effect":"..."},"enums":{"effect":["NoExecute",...]}}
//! ```
//!
//! The sets come from `enums.txt`. As a server of the pinned version does, a
//! field's description lists what each value means.
//!
//! Source: upstream `kube-openapi/pkg/generators/enum.go`.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

pub(super) const ENUMS: &str = include_str!("enums.txt");
/// Descriptions of scalar types the source replaced by alternatives.
const LOST: &str = include_str!("scalars.json");

/// Values of a field in order, each with what it means, or nothing.
type Values<'a> = Vec<(&'a str, &'a str)>;

/// The lines for `names` of the document's definitions.
pub(super) fn generate<'a>(names: impl Iterator<Item = &'a str>, document: &Map<String, Value>, enums: &str) -> Result<String> {
    let lost: Map<String, Value> = serde_json::from_str(LOST).context("the descriptions of scalars are not JSON")?;
    let mut enums = read_enums(enums)?;
    let mut text = String::new();
    for name in names {
        let body = document.get(name).with_context(|| format!("{name} is not defined"))?;
        let mut line = json!({ "definition": name });
        if let Some(description) = lost.get(name).or_else(|| body.get("description")) {
            line["description"] = description.clone();
        }
        let mut fields = Map::new();
        let mut sets = Map::new();
        for (field, node) in body.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let mut description = node.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
            let path = format!("{name}.{field}");
            if let Some(values) = enums.remove(&path) {
                list(&values, &mut description)?;
                sets.insert(field.clone(), values.iter().map(|(value, _)| *value).collect());
            }
            if let Some(values) = enums.remove(&format!("{path}[]")) {
                sets.insert(format!("{field}[]"), values.iter().map(|(value, _)| *value).collect());
            }
            if !description.is_empty() {
                fields.insert(field.clone(), Value::from(description));
            }
        }
        for (key, map) in [("fields", fields), ("enums", sets)] {
            if !map.is_empty() {
                line[key] = Value::Object(map);
            }
        }
        writeln!(text, "{line}")?;
    }
    ensure!(
        enums.is_empty(),
        "enums.txt names fields that are not in the schema table: {:?}",
        enums.keys()
    );
    Ok(text)
}

/// Appends what each value means.
fn list(values: &Values<'_>, description: &mut String) -> Result<()> {
    if !description.is_empty() {
        description.push_str("\n\n");
    }
    description.push_str("Possible enum values:");
    for (value, meaning) in values {
        write!(description, "\n - `\"{value}\"`")?;
        if !meaning.is_empty() {
            write!(description, " {meaning}")?;
        }
    }
    Ok(())
}

fn read_enums(text: &str) -> Result<BTreeMap<String, Values<'_>>> {
    let mut found = BTreeMap::new();
    let mut fields: Vec<&str> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(names) = line.strip_prefix("= ") {
            fields = names.split(' ').collect();
            for field in &fields {
                let again = found.insert((*field).to_owned(), Vec::new());
                ensure!(again.is_none(), "{field} is twice in enums.txt");
            }
            continue;
        }
        let rest = line
            .strip_prefix('"')
            .with_context(|| format!("{line:?} in enums.txt is no value"))?;
        let (value, meaning) = rest
            .split_once('"')
            .with_context(|| format!("{line:?} in enums.txt does not end its value"))?;
        for field in &fields {
            let values: &mut Values<'_> = found.entry((*field).to_owned()).or_default();
            ensure!(
                values.last().is_none_or(|(last, _)| *last < value),
                "the values of {field} in enums.txt are not in order at {value:?}"
            );
            values.push((value, meaning.trim_start()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_listed_after_the_description() {
        let document = json!({ "a.Thing": { "description": "A thing.", "properties": {
            "mode": { "description": "How it is." }, "modes": { "items": {} }, "name": {},
        }}});
        let enums = "# set\n= a.Thing.mode a.Thing.modes[]\n\"Off\" means off.\n\"On\"\n";
        let text = generate(["a.Thing"].into_iter(), document.as_object().unwrap(), enums).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({
                "definition": "a.Thing",
                "description": "A thing.",
                "fields": { "mode": "How it is.\n\nPossible enum values:\n - `\"Off\"` means off.\n - `\"On\"`" },
                "enums": { "mode": ["Off", "On"], "modes[]": ["Off", "On"] },
            })
        );
    }

    #[test]
    fn a_set_that_is_out_of_order_or_of_no_field_is_refused() {
        let document = json!({ "a.Thing": {} });
        let refused = |enums: &str| {
            let names = ["a.Thing"].into_iter();
            format!("{:#}", generate(names, document.as_object().unwrap(), enums).unwrap_err())
        };
        assert!(refused("= a.Thing.x\n\"b\"\n\"a\"\n").contains("not in order at \"a\""));
        assert!(refused("= a.Thing.x\n\"b\"\n").contains("not in the schema table: [\"a.Thing.x\"]"));
        assert!(refused("= a.Thing.x\nb\n").contains("is no value"));
    }
}
