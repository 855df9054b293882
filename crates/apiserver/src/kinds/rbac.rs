//! Role, ClusterRole and their bindings, of `rbac.authorization.k8s.io/v1`.
//!
//! Source: upstream `pkg/apis/rbac/validation/validation.go`,
//! `pkg/apis/rbac/v1/defaults.go`, `pkg/printers/internalversion/printers.go`.

use std::sync::Arc;

use api::status::Violation;
use api::{Object, Scope};
use serde_json::{Map, Value, json};

use super::plain;
use crate::authz::rules::GROUP;
use crate::registry::{Cell, Column, Resource, Rules, Strategy};
use crate::table;
use crate::validate::{invalid_each, names};

pub(super) fn rows() -> [Resource; 4] {
    let created = || {
        Column::computed("Created At", Cell::Text, |role, _| {
            Value::from(role.meta.creation_timestamp.as_ref().map(|time| api::Time::from(time).to_string()))
        })
    };
    let role = |kind: &str, plural: &str, storage, scope, strategy: Arc<dyn Strategy>| Resource {
        scope,
        strategy,
        columns: vec![table::name_column(), created()],
        ..plain(GROUP, kind, plural, storage)
    };
    let binding = |kind: &str, plural: &str, storage, scope, strategy: Arc<dyn Strategy>| Resource {
        scope,
        strategy,
        columns: vec![
            table::name_column(),
            Column::computed("Role", Cell::Text, |binding, _| {
                Value::from(format!("{}/{}", binding.str_at("roleRef.kind"), binding.str_at("roleRef.name")))
            }),
            table::age_column(),
            Column::computed("Users", Cell::Text, |binding, _| named(binding, "User")).wide(),
            Column::computed("Groups", Cell::Text, |binding, _| named(binding, "Group")).wide(),
            Column::computed("ServiceAccounts", Cell::Text, |binding, _| named(binding, "ServiceAccount")).wide(),
        ],
        ..plain(GROUP, kind, plural, storage)
    };
    [
        role("Role", "roles", "roles", Scope::Namespaced, Arc::new(Role { namespaced: true })),
        role(
            "ClusterRole",
            "clusterroles",
            "clusterroles",
            Scope::Cluster,
            Arc::new(Role { namespaced: false }),
        ),
        binding(
            "RoleBinding",
            "rolebindings",
            "rolebindings",
            Scope::Namespaced,
            Arc::new(Binding { namespaced: true }),
        ),
        binding(
            "ClusterRoleBinding",
            "clusterrolebindings",
            "clusterrolebindings",
            Scope::Cluster,
            Arc::new(Binding { namespaced: false }),
        ),
    ]
}

fn subjects(binding: &Object) -> impl Iterator<Item = &Value> {
    binding.body.get("subjects").and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Names of the subjects of a kind, as a cell.
fn named(binding: &Object, kind: &str) -> Value {
    let names: Vec<String> = subjects(binding)
        .filter(|subject| text(subject, "kind") == kind)
        .map(|subject| match text(subject, "namespace") {
            namespace if kind == "ServiceAccount" => format!("{namespace}/{}", text(subject, "name")),
            _ => text(subject, "name").to_owned(),
        })
        .collect();
    Value::from(names.join(", "))
}

struct Role {
    namespaced: bool,
}

impl Strategy for Role {
    fn validate(&self, new: &Object, _old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let rules = new.body.get("rules").and_then(Value::as_array).into_iter().flatten();
        let mut broken: Vec<Violation> = rules
            .enumerate()
            .flat_map(|(at, rule)| self.rule(rule, &format!("rules[{at}]")))
            .collect();
        if let Some(aggregation) = new.body.get("aggregationRule").filter(|rule| !rule.is_null())
            && aggregation
                .get("clusterRoleSelectors")
                .and_then(Value::as_array)
                .is_none_or(Vec::is_empty)
        {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            broken.push(Violation::required("aggregationRule.clusterRoleSelectors", why));
        }
        broken
    }

    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        names::path_segment(name)
    }
}

impl Role {
    fn rule(&self, rule: &Value, path: &str) -> Vec<Violation> {
        let list = |field: &str| rule.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let field = |name: &str| format!("{path}.{name}");
        let mut broken = Vec::new();
        if list("verbs").is_empty() {
            broken.push(Violation::required(field("verbs"), "verbs must contain at least one value"));
        }
        let urls = list("nonResourceURLs");
        if !urls.is_empty() {
            let shown = Value::Array(urls.to_vec());
            if self.namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                broken.push(Violation::invalid(field("nonResourceURLs"), &shown, why));
            }
            if ["apiGroups", "resources", "resourceNames"]
                .iter()
                .any(|name| !list(name).is_empty())
            {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                broken.push(Violation::invalid(field("nonResourceURLs"), &shown, why));
            }
            return broken;
        }
        if list("apiGroups").is_empty() {
            broken.push(Violation::required(
                field("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if list("resources").is_empty() {
            broken.push(Violation::required(
                field("resources"),
                "resource rules must supply at least one resource",
            ));
        }
        broken
    }
}

struct Binding {
    namespaced: bool,
}

impl Strategy for Binding {
    fn default(&self, binding: &mut Object) {
        let absent = |value: &Map<String, Value>| value.get("apiGroup").and_then(Value::as_str).unwrap_or_default().is_empty();
        if let Some(role) = binding.body.get_mut("roleRef").and_then(Value::as_object_mut)
            && absent(role)
        {
            role.insert("apiGroup".to_owned(), json!(GROUP));
        }
        let subjects = binding.body.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten();
        for subject in subjects.filter_map(Value::as_object_mut) {
            let person = matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group"));
            if person && absent(subject) {
                subject.insert("apiGroup".to_owned(), json!(GROUP));
            }
        }
    }

    fn validate(&self, new: &Object, old: Option<&Object>, _rules: Rules) -> Vec<Violation> {
        let role = |field: &str| new.str_at(&format!("roleRef.{field}"));
        let mut broken = Vec::new();
        if role("apiGroup") != GROUP {
            broken.push(Violation::not_supported("roleRef.apiGroup", role("apiGroup"), &[GROUP]));
        }
        let kinds: &[&str] = if self.namespaced {
            &["Role", "ClusterRole"]
        } else {
            &["ClusterRole"]
        };
        if !kinds.contains(&role("kind")) {
            broken.push(Violation::not_supported("roleRef.kind", role("kind"), kinds));
        }
        if role("name").is_empty() {
            broken.push(Violation::required("roleRef.name", ""));
        } else {
            broken.extend(invalid_each("roleRef.name", role("name"), names::path_segment(role("name"))));
        }
        for (at, subject) in subjects(new).enumerate() {
            broken.extend(self.subject(subject, &format!("subjects[{at}]")));
        }
        if let Some(old) = old
            && old.body.get("roleRef") != new.body.get("roleRef")
        {
            let value = new.body.get("roleRef").cloned().unwrap_or_default();
            broken.push(Violation::invalid("roleRef", &value, "cannot change roleRef"));
        }
        broken
    }

    fn check_name(&self, name: &str) -> Result<(), Vec<String>> {
        names::path_segment(name)
    }
}

impl Binding {
    fn subject(&self, subject: &Value, path: &str) -> Vec<Violation> {
        let field = |name: &str| format!("{path}.{name}");
        let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
        let mut broken = Vec::new();
        if name.is_empty() {
            broken.push(Violation::required(field("name"), ""));
        }
        match kind {
            "ServiceAccount" => {
                if !name.is_empty() {
                    broken.extend(invalid_each(&field("name"), name, names::dns1123_subdomain(name)));
                }
                if !group.is_empty() {
                    broken.push(Violation::not_supported(field("apiGroup"), group, &[""]));
                }
                if !self.namespaced && text(subject, "namespace").is_empty() {
                    broken.push(Violation::required(field("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if name.is_empty() {
                    let why = format!("{} name cannot be empty", kind.to_ascii_lowercase());
                    broken.push(Violation::invalid(field("name"), &json!(name), &why));
                }
                if group != GROUP {
                    broken.push(Violation::not_supported(field("apiGroup"), group, &[GROUP]));
                }
            }
            other => broken.push(Violation::not_supported(field("kind"), other, &["ServiceAccount", "User", "Group"])),
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(broken: &[Violation]) -> Vec<String> {
        broken
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.message))
            .collect()
    }

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rules_of_a_role_name_what_they_are_about() {
        let check =
            |namespaced: bool, rule: Value| texts(&Role { namespaced }.validate(&object(json!({"rules": [rule]})), None, Rules::Create));
        assert_eq!(
            check(true, json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})),
            Vec::<String>::new()
        );
        assert_eq!(
            check(false, json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})),
            Vec::<String>::new()
        );
        assert_eq!(
            check(true, json!({"verbs": [], "nonResourceURLs": ["/x"], "resources": ["pods"]})),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and non-resource URLs",
            ]
        );
        assert_eq!(
            check(true, json!({"verbs": ["get"]})),
            [
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[0].resources: Required value: resource rules must supply at least one resource",
            ]
        );
    }

    #[test]
    fn a_binding_names_a_role_and_subjects() {
        let check = |namespaced: bool, value: Value, old: Option<Value>| {
            let mut new = object(value);
            let strategy = Binding { namespaced };
            strategy.default(&mut new);
            let old = old.map(|old| {
                let mut old = object(old);
                strategy.default(&mut old);
                old
            });
            texts(&strategy.validate(&new, old.as_ref(), Rules::Create))
        };
        let bound = |kind: &str, subject: Value| json!({"roleRef": {"kind": kind, "name": "r"}, "subjects": [subject]});
        let user = json!({"kind": "User", "name": "u"});
        assert_eq!(check(true, bound("Role", user.clone()), None), Vec::<String>::new());
        assert_eq!(
            check(false, bound("Role", user.clone()), None),
            ["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""]
        );
        assert_eq!(
            check(false, bound("ClusterRole", json!({"kind": "ServiceAccount", "name": "a"})), None),
            ["subjects[0].namespace: Required value"]
        );
        assert_eq!(
            check(true, bound("ClusterRole", json!({"kind": "Robot", "name": ""})), None),
            [
                "subjects[0].name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            ]
        );
        let changed = check(true, bound("Role", user.clone()), Some(bound("ClusterRole", user)));
        assert!(
            changed[0].starts_with("roleRef: Invalid value: ") && changed[0].ends_with(": cannot change roleRef"),
            "{changed:?}"
        );
    }
}
