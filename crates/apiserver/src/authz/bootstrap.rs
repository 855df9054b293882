//! The roles and bindings every cluster has, and keeping them so at start.
//!
//! What is missing is made; what was taken away from them is given back, what
//! was added is left; an object with the annotation
//! `rbac.authorization.kubernetes.io/autoupdate` other than `true` is left
//! alone.
//!
//! Source: Kubernetes "Using RBAC authorization", "Auto-reconciliation";
//! upstream `pkg/registry/rbac/rest/storage_rbac.go`,
//! `pkg/registry/rbac/reconciliation`.

use api::Object;
use serde_json::{Map, Value, json};

use super::rules::{GROUP, Rule, missing};

mod drive;

pub(crate) use self::drive::drive;

const POLICY: &str = include_str!("bootstrap/policy");
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One object every cluster has: its plural, and what it is.
pub(crate) struct Wanted {
    pub(crate) plural: &'static str,
    pub(crate) object: Value,
}

/// All of them, in an order in which each can be made.
pub(crate) fn wanted() -> Vec<Wanted> {
    let mut all = Vec::new();
    for line in POLICY.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let label = words.last().and_then(|word| word.strip_prefix("to="));
        match words.as_slice() {
            ["clusterrole", name, ..] => all.push(cluster_role(name, label)),
            ["aggregate", name, ..] => {
                let mut role = cluster_role(name, label);
                let selector = json!({"matchLabels": {aggregate_label(name): "true"}});
                role.object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
                all.push(role);
            }
            ["controller", name] => {
                let role = format!("system:controller:{name}");
                all.push(cluster_binding(&role, &[&format!("account=kube-system:{name}")]));
                all.push(cluster_role(&role, None));
            }
            ["own", name] => {
                let role = format!("lifepod:controller:{name}");
                all.push(cluster_binding(&role, &[&format!("account=kube-system:{name}")]));
                all.push(cluster_role(&role, None));
            }
            ["role", namespace, name] => {
                let mut object = object("Role", name);
                object["metadata"]["namespace"] = json!(namespace);
                object["rules"] = json!([]);
                all.push(Wanted { plural: "roles", object });
            }
            ["bind", role, subjects @ ..] => all.push(cluster_binding(role, subjects)),
            ["bindas", name, role, subjects @ ..] => {
                let mut binding = cluster_binding(role, subjects);
                binding.object["metadata"]["name"] = json!(name);
                all.push(binding);
            }
            ["bindrole", namespace, name, role, subjects @ ..] => {
                let mut object = object("RoleBinding", name);
                object["metadata"]["namespace"] = json!(namespace);
                object["roleRef"] = json!({"apiGroup": GROUP, "kind": "Role", "name": role});
                object["subjects"] = self::subjects(subjects);
                all.push(Wanted {
                    plural: "rolebindings",
                    object,
                });
            }
            rule => {
                if let Some(rules) = all.last_mut().and_then(|role| role.object["rules"].as_array_mut()) {
                    rules.push(self::rule(rule));
                }
            }
        }
    }
    aggregate(&mut all);
    all
}

fn object(kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"),
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {AUTO_UPDATE: "true"},
        },
    })
}

fn aggregate_label(to: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{to}")
}

fn cluster_role(name: &str, to: Option<&str>) -> Wanted {
    let mut object = object("ClusterRole", name);
    if let Some(to) = to {
        object["metadata"]["labels"][aggregate_label(to)] = json!("true");
    }
    object["rules"] = json!([]);
    Wanted {
        plural: "clusterroles",
        object,
    }
}

fn cluster_binding(role: &str, subjects: &[&str]) -> Wanted {
    let mut object = object("ClusterRoleBinding", role);
    object["roleRef"] = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
    let subjects = self::subjects(subjects);
    if subjects != json!([]) {
        object["subjects"] = subjects;
    }
    Wanted {
        plural: "clusterrolebindings",
        object,
    }
}

fn subjects(words: &[&str]) -> Value {
    let subject = |word: &&str| {
        let (kind, name) = word.split_once('=')?;
        Some(match kind {
            "user" => json!({"apiGroup": GROUP, "kind": "User", "name": name}),
            "group" => json!({"apiGroup": GROUP, "kind": "Group", "name": name}),
            _ => {
                let (namespace, name) = name.split_once(':')?;
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
        })
    };
    words.iter().filter_map(subject).collect()
}

/// `VERBS GROUPS RESOURCES... [name=NAMES]`, or `VERBS url PATHS...`.
fn rule(words: &[&str]) -> Value {
    // Upstream's `PolicyRuleBuilder` sorts every list.
    let sorted = |mut words: Vec<String>| {
        words.sort();
        words
    };
    let list = |text: &str| sorted(text.split(',').map(str::to_owned).collect());
    let [verbs, groups, rest @ ..] = words else { return json!({}) };
    let verbs = match *verbs {
        "read" => list("get,list,watch"),
        "write" => list("create,delete,deletecollection,patch,update"),
        "readwrite" => list("create,delete,deletecollection,get,list,patch,update,watch"),
        verbs => list(verbs),
    };
    let (rest, names) = match rest {
        [rest @ .., last] if last.starts_with("name=") => (rest, list(&last["name=".len()..])),
        rest => (rest, Vec::new()),
    };
    let rest = sorted(rest.iter().map(|word| (*word).to_owned()).collect());
    let rule = if *groups == "url" {
        Rule {
            urls: rest,
            verbs,
            ..Rule::default()
        }
    } else {
        let groups = list(groups).into_iter();
        Rule {
            api_groups: sorted(groups.map(|group| if group == "core" { String::new() } else { group }).collect()),
            resources: rest,
            resource_names: names,
            verbs,
            ..Rule::default()
        }
    };
    rule.to_json()
}

/// Gives the aggregates the rules of what is labelled for them, as the
/// controller would. In the policy, what goes into another comes after it.
fn aggregate(all: &mut [Wanted]) {
    for at in (0..all.len()).rev() {
        if all[at].object.get("aggregationRule").is_none() {
            continue;
        }
        let label = aggregate_label(all[at].object["metadata"]["name"].as_str().unwrap_or_default());
        let mut parts: Vec<&Value> = all.iter().map(|role| &role.object).collect();
        parts.retain(|role| role["metadata"]["labels"][&label] == "true");
        parts.sort_by_key(|role| role["metadata"]["name"].as_str());
        let mut rules: Vec<Value> = Vec::new();
        for rule in parts.iter().filter_map(|role| role["rules"].as_array()).flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        all[at].object["rules"] = Value::Array(rules);
    }
}

/// What is to be done about a stored object.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// It is as it should be, or not to be touched.
    Keep,
    /// It becomes this.
    Update(Box<Object>),
    /// It gives another role: a binding's role cannot change, so that it is
    /// made anew.
    Anew,
}

/// Compares a stored object with what is wanted.
pub(crate) fn reconcile(wanted: &Value, stored: &Object) -> Step {
    let annotation = stored
        .meta
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(AUTO_UPDATE));
    if annotation.is_some_and(|value| value != "true") {
        return Step::Keep;
    }
    if wanted.get("roleRef") != stored.body.get("roleRef") {
        return Step::Anew;
    }
    let mut object = stored.clone();
    let words = |field: &str| wanted["metadata"][field].as_object().cloned().unwrap_or_default();
    for (field, own) in [("labels", &mut object.meta.labels), ("annotations", &mut object.meta.annotations)] {
        let own = own.get_or_insert_default();
        for (key, value) in words(field) {
            own.insert(key, value.as_str().unwrap_or_default().to_owned());
        }
    }
    if let Some(rule) = wanted.get("aggregationRule") {
        // Its rules are the controller's business.
        if object.body.get("aggregationRule") != Some(rule) {
            object.body.insert("aggregationRule".to_owned(), rule.clone());
        }
    } else if let Some(rules) = wanted["rules"].as_array() {
        extend(&mut object.body, "rules", rules, |own, rule| {
            let parse = |value: &Value| serde_json::from_value::<Rule>(value.clone()).ok();
            let own: Vec<Rule> = own.iter().filter_map(parse).collect();
            parse(rule).is_none_or(|rule| missing(&own, &[rule]).is_empty())
        });
    }
    if let Some(subjects) = wanted.get("subjects").and_then(Value::as_array) {
        extend(&mut object.body, "subjects", subjects, |own, subject| own.contains(subject));
    }
    if object == *stored {
        Step::Keep
    } else {
        Step::Update(Box::new(object))
    }
}

/// Adds what a list does not have.
fn extend(body: &mut Map<String, Value>, field: &str, wanted: &[Value], has: impl Fn(&[Value], &Value) -> bool) {
    let list = body.entry(field).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    for value in wanted {
        if !has(list, value) {
            list.push(value.clone());
        }
    }
}

#[cfg(test)]
mod tests;
