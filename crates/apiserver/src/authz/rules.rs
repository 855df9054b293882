//! What one rule of a role allows, and what several cover. Pure.
//!
//! Source: upstream `pkg/apis/rbac/v1/evaluation_helpers.go`,
//! `component-helpers/auth/rbac/validation/policy_comparator.go`,
//! `pkg/registry/rbac/validation/policy_compact.go`.

use api::Object;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Attributes;

/// The API group of roles and bindings.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Rule {
    pub(crate) api_groups: Vec<String>,
    pub(crate) resources: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    pub(crate) urls: Vec<String>,
    pub(crate) resource_names: Vec<String>,
    pub(crate) verbs: Vec<String>,
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == value)
}

fn has_or_all(list: &[String], value: &str) -> bool {
    list.iter().any(|own| own == "*" || own == value)
}

impl Rule {
    /// The rules of a role. What does not have the shape of a rule allows
    /// nothing.
    pub(crate) fn of(role: &Object) -> Vec<Self> {
        let rules = role.body.get("rules").and_then(Value::as_array).into_iter().flatten();
        rules.filter_map(|rule| Self::deserialize(rule).ok()).collect()
    }

    /// As JSON, without empty lists; upstream's field order is alphabetical.
    pub(crate) fn to_json(&self) -> Value {
        let mut value = json!({"verbs": self.verbs});
        for (field, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                value[field] = json!(list);
            }
        }
        value
    }

    /// Whether it allows what is asked.
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        match *asked {
            Attributes::Resource {
                verb,
                group,
                resource,
                subresource,
                name,
                ..
            } => {
                has_or_all(&self.verbs, verb)
                    && has_or_all(&self.api_groups, group)
                    && self.resources.iter().any(|own| names_resource(own, resource, subresource))
                    && (self.resource_names.is_empty() || has(&self.resource_names, name))
            }
            Attributes::Path { verb, path } => has_or_all(&self.verbs, verb) && self.urls.iter().any(|url| names_path(url, path)),
        }
    }

    /// Whether it allows everything another one does.
    fn covers(&self, other: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| has(own, "*") || wanted.iter().all(|value| has(own, value));
        let names = self.resource_names.is_empty()
            || !other.resource_names.is_empty() && other.resource_names.iter().all(|name| has(&self.resource_names, name));
        let resources = all(&self.resources, &other.resources)
            || other.resources.iter().all(|resource| {
                let anywhere = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
                has(&self.resources, resource) || anywhere.is_some_and(|anywhere| has(&self.resources, &anywhere))
            });
        let urls = other.urls.iter().all(|url| {
            let own = |own: &String| own == url || own.strip_suffix('*').is_some_and(|start| url.starts_with(start));
            self.urls.iter().any(own)
        });
        all(&self.verbs, &other.verbs) && all(&self.api_groups, &other.api_groups) && resources && names && urls
    }

    /// The same as rules of one group, resource, verb and name each.
    fn atoms(&self) -> Vec<Self> {
        let one = |value: &String| vec![value.clone()];
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Self {
                        api_groups: one(group),
                        resources: one(resource),
                        verbs: one(verb),
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    atoms.extend(self.resource_names.iter().map(|name| Self {
                        resource_names: one(name),
                        ..atom.clone()
                    }));
                }
            }
        }
        for url in &self.urls {
            atoms.extend(self.verbs.iter().map(|verb| Self {
                urls: one(url),
                verbs: one(verb),
                ..Self::default()
            }));
        }
        atoms
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
    fn shown(&self) -> String {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| format!("{name}:{}", quoted(list)))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// A list as Go prints it with `%q`.
pub(crate) fn quoted(list: &[String]) -> String {
    let list: Vec<String> = list.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", list.join(" "))
}

fn names_resource(own: &str, resource: &str, subresource: &str) -> bool {
    if own == "*" {
        return true;
    }
    if subresource.is_empty() {
        return own == resource;
    }
    own.split_once('/')
        .is_some_and(|(of, part)| part == subresource && (of == "*" || of == resource))
}

fn names_path(own: &str, path: &str) -> bool {
    own == "*"
        || own == path
        || own
            .strip_suffix('*')
            .is_some_and(|start| path.starts_with(start.trim_end_matches('*')))
}

/// What of `wanted` nothing in `owned` allows, as upstream shows it: one rule
/// per group, resource and name, its verbs together.
pub(crate) fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<String> {
    let mut lacking: Vec<Rule> = Vec::new();
    for atom in wanted.iter().flat_map(Rule::atoms) {
        if owned.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        let same = |other: &&mut Rule| {
            atom.urls.is_empty()
                && (&other.api_groups, &other.resources, &other.resource_names) == (&atom.api_groups, &atom.resources, &atom.resource_names)
                && other.urls.is_empty()
        };
        match lacking.iter_mut().find(same) {
            Some(known) if has(&known.verbs, &atom.verbs[0]) => {}
            Some(known) => known.verbs.extend(atom.verbs),
            None => lacking.push(atom),
        }
    }
    let mut shown: Vec<String> = lacking.iter().map(Rule::shown).collect();
    shown.sort();
    shown.dedup();
    shown
}
