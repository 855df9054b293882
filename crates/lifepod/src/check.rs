//! `lifepod check -f FILE`: what becomes of each field a manifest uses, told
//! from the tables by which the API server refuses. Nobody is asked.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use apiserver::kinds::{SchemaField, Standing, UsedField, builtin, examine, schema_fields};
use serde::Serialize;
use serde_json::Value;

use crate::flags::{Check, Output};
use crate::run::{parse_documents, read_text};

/// One object of the manifest.
#[derive(Debug, Serialize)]
struct Examined {
    kind: String,
    name: String,
    /// Whether the API server would take it.
    accepted: bool,
    fields: Vec<UsedField>,
}

/// Reports on every object of a manifest; fails when one would be refused.
pub(crate) fn run(flags: &Check) -> Result<ExitCode> {
    let Some(file) = &flags.file else {
        print!("{}", every_field(flags.output, &schema_fields())?);
        return Ok(ExitCode::SUCCESS);
    };
    let objects = examined(&read_text(file)?).with_context(|| manifest(file))?;
    match flags.output {
        Output::Text => print!("{}", objects.iter().map(render).collect::<Vec<_>>().join("\n")),
        Output::Json => println!("{}", serde_json::to_string_pretty(&objects)?),
    }
    let accepted = objects.iter().all(|object| object.accepted);
    Ok(if accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn manifest(file: &Path) -> String {
    format!("the manifest {}", file.display())
}

fn examined(text: &str) -> Result<Vec<Examined>> {
    let registry = builtin();
    let documents = parse_documents(text)?;
    anyhow::ensure!(!documents.is_empty(), "holds no object, so there is nothing to check");
    let examine_one = |document: Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &document["metadata"];
        let name = if meta["name"].is_null() {
            &meta["generateName"]
        } else {
            &meta["name"]
        };
        let fields = examine(&registry, &document);
        Examined {
            kind: text(&document["kind"]),
            name: text(name),
            accepted: fields.iter().all(|field| field.standing != Standing::Refused),
            fields,
        }
    };
    Ok(documents.into_iter().map(examine_one).collect())
}

fn render(object: &Examined) -> String {
    let mut out = String::new();
    let count = |refused: bool| {
        object
            .fields
            .iter()
            .filter(|field| (field.standing == Standing::Refused) == refused)
            .count()
    };
    // Writing to a string cannot fail.
    let _ = match (object.accepted, count(false)) {
        (true, 0) => writeln!(out, "{} {}: nothing of it is refused", object.kind, object.name),
        (true, fields) => writeln!(out, "{} {}: accepted; {fields} fields", object.kind, object.name),
        (false, _) => writeln!(out, "{} {}: refused, for {} of its fields", object.kind, object.name, count(true)),
    };
    for field in &object.fields {
        let _ = writeln!(out, "  {:<9} {}", word(field.standing), field.path);
        if !field.reason.is_empty() {
            let _ = writeln!(out, "            {}", field.reason);
        }
        if !field.instead.is_empty() {
            let _ = writeln!(out, "            instead: {}", field.instead.replace('`', ""));
        }
    }
    out
}

fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Honoured => "honoured",
        Standing::HonouredInPart => "in part",
        Standing::Refused => "REFUSED",
        Standing::Kept => "kept",
        Standing::Written | Standing::NotWritten => "dropped", // the server's own
    }
}

fn every_field(output: Output, fields: &[SchemaField]) -> Result<String> {
    if output == Output::Json {
        return Ok(serde_json::to_string_pretty(fields)? + "\n");
    }
    let mut out = String::new();
    for field in fields {
        let word = match field.standing {
            Standing::Written => "written",
            Standing::NotWritten => "unwritten",
            other => word(other),
        };
        let note = if field.note.is_empty() {
            String::new()
        } else {
            format!("  ({})", field.note.replace('`', ""))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{word:<9} {}{note}", field.path);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "
apiVersion: v1
kind: Pod
metadata: {name: good}
spec:
  containers: [{name: a, image: x:1}]
---
apiVersion: v1
kind: Pod
metadata: {generateName: bad-}
spec:
  os: {name: windows}
  containers: [{name: a, image: x:1}]
---
";

    #[test]
    fn each_document_is_told_of() {
        let objects = examined(TWO).unwrap();
        let accepted: Vec<_> = objects.iter().map(|object| (object.name.as_str(), object.accepted)).collect();
        assert_eq!(accepted, [("good", true), ("bad-", false)]);
        let text = render(&objects[1]);
        assert!(text.starts_with("Pod bad-: refused, for 1 of its fields\n"), "{text}");
        assert!(text.contains("  REFUSED   spec.os.name\n            Forbidden: Lifepod "), "{text}");
        assert!(text.contains("\n            instead: an image for Linux"), "{text}");
        assert!(text.contains("  honoured  spec.containers[0].image\n"), "{text}");
    }

    #[test]
    fn a_list_is_its_items_and_nothing_is_an_error() {
        let list = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}]\n";
        let objects = examined(list).unwrap();
        assert_eq!(render(&objects[0]), "ConfigMap c: nothing of it is refused\n");
        assert!(examined("---\n---\n").is_err());
        assert!(examined("a: [").is_err());
    }

    #[test]
    fn every_field_has_a_line() {
        let fields = schema_fields();
        let text = every_field(Output::Text, &fields).unwrap();
        assert_eq!(text.lines().count(), fields.len());
        assert!(text.contains("\nhonoured  spec.containers[].image\n"));
    }
}
