//! The paths of a row with their operations, from the verbs discovery tells.
//!
//! Source: upstream `apiserver/pkg/endpoints/installer.go`
//! (`registerResourceHandlers`), `apiserver/pkg/endpoints/openapi/openapi.go`
//! (`GetOperationIDAndTags`).

use api::Scope;
use serde_json::{Map, Value, json};

use super::parameters::{self, In};
use super::shapes::{Dialect, PATCH};
use crate::registry::{Resource, Subresource};
use crate::{discovery, patch};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What an operation is about.
struct Subject<'a> {
    row: &'a Resource,
    dialect: Dialect,
    subresource: Option<Subresource>,
    /// The path has a namespace in it.
    namespaced: bool,
}

/// The paths of a row: of its collections, objects and subresources.
pub(super) fn of_row(row: &Resource, dialect: Dialect) -> Vec<(String, Value)> {
    let id = &row.id;
    let root = if id.group.is_empty() {
        format!("/api/{}", id.version)
    } else {
        format!("/apis/{}/{}", id.group, id.version)
    };
    let subject = |namespaced, subresource| Subject {
        row,
        dialect,
        subresource,
        namespaced,
    };
    let verbs = discovery::row_verbs(row);
    let mut paths = Vec::new();
    let namespaced = row.scope == Scope::Namespaced;
    let base = if namespaced {
        let lists: Vec<&str> = verbs.iter().copied().filter(|verb| *verb == "list").collect();
        paths.extend(subject(false, None).item(format!("{root}/{}", id.plural), &lists));
        format!("{root}/namespaces/{{namespace}}/{}", id.plural)
    } else {
        format!("{root}/{}", id.plural)
    };
    let (of_object, of_collection): (Vec<&str>, Vec<&str>) = verbs
        .iter()
        .filter(|verb| **verb != "watch")
        .partition(|verb| matches!(**verb, "get" | "update" | "patch" | "delete"));
    paths.extend(subject(namespaced, None).item(base.clone(), &of_collection));
    paths.extend(subject(namespaced, None).item(format!("{base}/{{name}}"), &of_object));
    for subresource in &row.subresources {
        let path = format!("{base}/{{name}}/{}", subresource.name());
        paths.extend(subject(namespaced, Some(*subresource)).item(path, discovery::verbs(*subresource)));
    }
    paths
}

impl Subject<'_> {
    /// A path with its operations; nothing when it has none.
    fn item(&self, path: String, verbs: &[&str]) -> Option<(String, Value)> {
        let mut item = Map::new();
        for verb in verbs {
            item.insert(method(verb).to_owned(), self.operation(verb));
        }
        if item.is_empty() {
            return None;
        }
        let mut shared = Vec::new();
        if path.contains("{name}") {
            let description = format!("name of the {}", self.row.id.kind);
            shared.push(parameters::path(self.dialect, "name", &description));
        }
        if self.namespaced {
            shared.push(parameters::path(self.dialect, "namespace", parameters::NAMESPACE));
        }
        shared.push(parameters::query(self.dialect, "pretty"));
        item.insert("parameters".to_owned(), Value::from(shared));
        Some((path, Value::Object(item)))
    }

    fn operation(&self, verb: &str) -> Value {
        let (group, version, kind) = self.kind();
        let mut queries: Vec<Value> = self
            .queries(verb)
            .iter()
            .map(|name| parameters::query(self.dialect, name))
            .collect();
        let mut operation = json!({
            "description": self.description(verb),
            "operationId": self.operation_id(verb),
            "tags": [format!("{}_{}", snake(&self.row.id.group), self.row.id.version)],
            "x-kubernetes-action": self.action(verb),
            "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": version},
        });
        self.add_body(verb, &mut operation, &mut queries);
        self.add_responses(verb, &mut operation);
        operation["parameters"] = Value::from(queries);
        operation
    }

    /// Group, version and kind of what is sent and answered.
    fn kind(&self) -> (&str, &str, &str) {
        let id = &self.row.id;
        let Some(subresource) = self.subresource else {
            return (&id.group, &id.version, &id.kind);
        };
        let (group, version) = discovery::foreign(subresource).unwrap_or((&id.group, &id.version));
        (group, version, discovery::kind(self.row, subresource))
    }

    /// What goes over the connection is no object.
    fn connects(&self) -> bool {
        self.subresource == Some(Subresource::Log) || self.kind().2.ends_with("Options")
    }

    fn action(&self, verb: &str) -> &'static str {
        match verb {
            _ if self.connects() => "connect",
            "create" => "post",
            "update" => "put",
            "patch" => "patch",
            "delete" => "delete",
            "deletecollection" => "deletecollection",
            "list" => "list",
            _ => "get",
        }
    }

    fn queries(&self, verb: &str) -> &'static [&'static str] {
        match (verb, self.subresource) {
            ("get", Some(Subresource::Log)) => parameters::LOG,
            (_, Some(Subresource::Proxy)) => &["path"],
            (_, Some(Subresource::Exec)) => &["command", "container", "stderr", "stdin", "stdout", "tty"],
            (_, Some(Subresource::Attach)) => &["container", "stderr", "stdin", "stdout", "tty"],
            (_, Some(Subresource::PortForward)) => &["ports"],
            ("get", _) => &[],
            _ if self.connects() => &[],
            ("create" | "update", _) => parameters::CREATE,
            ("patch", _) => parameters::PATCH,
            ("delete", _) => parameters::DELETE,
            ("deletecollection", _) => parameters::DELETE_COLLECTION,
            ("list", _) => parameters::LIST,
            _ => &[],
        }
    }

    fn description(&self, verb: &str) -> String {
        let kind = &self.row.id.kind;
        let of = self
            .subresource
            .map_or_else(String::new, |subresource| format!("{} of ", subresource.name()));
        let article = if of.is_empty() && kind.starts_with(['A', 'E', 'I', 'O', 'U']) {
            "an"
        } else {
            "a"
        };
        match verb {
            _ if self.connects() && !of.is_empty() => format!("connect {} requests to {of}{kind}", method(verb).to_ascii_uppercase()),
            "create" => format!("create {of}{article} {kind}"),
            "update" => format!("replace {of}the specified {kind}"),
            "patch" => format!("partially update {of}the specified {kind}"),
            "delete" => format!("delete {article} {kind}"),
            "deletecollection" => format!("delete collection of {kind}"),
            "list" => format!("list or watch objects of kind {kind}"),
            _ => format!("read {of}the specified {kind}"),
        }
    }

    fn operation_id(&self, verb: &str) -> String {
        let group = camel(&self.row.id.group);
        let version = capital(&self.row.id.version);
        let scope = if self.namespaced { "Namespaced" } else { "" };
        let kind = &self.row.id.kind;
        let tail = self.subresource.map_or_else(String::new, |subresource| capital(subresource.name()));
        let every = if self.row.scope == Scope::Namespaced && !self.namespaced {
            "ForAllNamespaces"
        } else {
            ""
        };
        let connect = format!("connect{}", capital(method(verb)));
        let (begin, collection) = match verb {
            _ if self.connects() && self.subresource != Some(Subresource::Log) => (connect.as_str(), ""),
            "create" => ("create", ""),
            "update" => ("replace", ""),
            "deletecollection" => ("delete", "Collection"),
            "get" => ("read", ""),
            other => (other, ""),
        };
        format!("{begin}{group}{version}{collection}{scope}{kind}{tail}{every}")
    }

    fn add_body(&self, verb: &str, operation: &mut Value, queries: &mut Vec<Value>) {
        if self.connects() {
            return;
        }
        let (definition, required) = match verb {
            "create" | "update" => (self.definition(), true),
            "patch" => (Some(PATCH.to_owned()), true),
            "delete" | "deletecollection" => (Some("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned()), false),
            _ => return,
        };
        let Some(definition) = definition else { return };
        let schema = self.dialect.reference(&definition);
        match self.dialect {
            Dialect::V2 => {
                let mut body = json!({"in": In::Body.name(), "name": "body", "schema": schema});
                if required {
                    body["required"] = json!(true);
                }
                queries.insert(0, body);
                operation["consumes"] = json!(self.accepts(verb));
            }
            Dialect::V3 => {
                let types = self.accepts(verb).into_iter();
                let content: Map<String, Value> = types.map(|media| (media.to_owned(), json!({"schema": schema}))).collect();
                operation["requestBody"] = json!({"content": content});
                if required {
                    operation["requestBody"]["required"] = json!(true);
                }
            }
        }
    }

    /// Media types of a body.
    fn accepts(&self, verb: &str) -> Vec<&'static str> {
        if verb != "patch" {
            return self.produces();
        }
        let mut patches = patch::accepted(self.row.schema()).to_vec();
        patches.sort_unstable();
        patches
    }

    /// Media types of an object.
    fn produces(&self) -> Vec<&'static str> {
        if self.row.has_protobuf() {
            vec![JSON, PROTOBUF]
        } else {
            vec![JSON, YAML]
        }
    }

    fn add_responses(&self, verb: &str, operation: &mut Value) {
        let definition = match verb {
            "list" => self.list_definition(),
            "delete" | "deletecollection" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned()),
            _ => self.definition(),
        };
        let text = self.connects();
        let schema = match definition {
            Some(definition) if !text => self.dialect.reference(&definition),
            _ => json!({"type": "string"}),
        };
        let mut types = if self.subresource == Some(Subresource::Log) {
            vec!["text/plain"]
        } else if text {
            vec!["*/*"]
        } else {
            self.produces()
        };
        if verb == "list" {
            types.push("application/json;stream=watch");
            types.extend(
                self.row
                    .has_protobuf()
                    .then_some("application/vnd.kubernetes.protobuf;stream=watch"),
            );
        }
        let codes: &[(&str, &str)] = match verb {
            "create" => &[("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            "update" | "patch" => &[("200", "OK"), ("201", "Created")],
            "delete" => &[("200", "OK"), ("202", "Accepted")],
            _ => &[("200", "OK")],
        };
        let mut responses = json!({"401": {"description": "Unauthorized"}});
        for (code, description) in codes {
            responses[code] = match self.dialect {
                Dialect::V2 => json!({"description": description, "schema": schema}),
                Dialect::V3 => {
                    let content: Map<String, Value> = types.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect();
                    json!({"description": description, "content": content})
                }
            };
        }
        if self.dialect == Dialect::V2 {
            operation["produces"] = json!(types);
        }
        operation["responses"] = responses;
    }

    /// Name of the definition of what is sent and answered.
    fn definition(&self) -> Option<String> {
        let (group, version, kind) = self.kind();
        let schema = if self.subresource.is_none() {
            Some(self.row.schema())
        } else {
            self.row.schema().beside(group, version, kind)
        };
        schema?.name().map(str::to_owned)
    }

    fn list_definition(&self) -> Option<String> {
        let (group, version, kind) = self.kind();
        let list = self.row.schema().beside(group, version, &format!("{kind}List"));
        list?.name().map(str::to_owned)
    }
}

/// The method that means a verb.
fn method(verb: &str) -> &'static str {
    match verb {
        "create" => "post",
        "update" => "put",
        "patch" => "patch",
        "delete" | "deletecollection" => "delete",
        _ => "get",
    }
}

/// `rbac.authorization.k8s.io` is `RbacAuthorization`, no group is `Core`.
fn camel(group: &str) -> String {
    words(group).map(capital).collect()
}

/// `rbac.authorization.k8s.io` is `rbacAuthorization`, no group is `core`.
fn snake(group: &str) -> String {
    let mut words = words(group);
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |joined, word| joined + &capital(word))
}

fn words(group: &str) -> impl Iterator<Item = &str> {
    let name = if group.is_empty() { "core" } else { group };
    name.strip_suffix(".k8s.io").unwrap_or(name).split('.')
}

fn capital(word: &str) -> String {
    let mut characters = word.chars();
    characters
        .next()
        .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + characters.as_str())
}
