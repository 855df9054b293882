//! Node selectors: does a node have the labels a pod asks for.
//!
//! Source: "Assigning Pods to Nodes" page; upstream
//! `component-helpers/scheduling/corev1/nodeaffinity`.

use api::typed::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};

use super::snapshot::{NodeFacts, PodFacts};

/// Whether `nodeSelector` and the required node affinity let the pod run there.
#[must_use]
pub fn required(pod: &PodFacts, node: &NodeFacts) -> bool {
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affinity = pod
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && affinity.is_none_or(|selector| selects(selector, node))
}

/// Whether a node matches a selector of nodes, such as a volume's.
#[must_use]
pub fn selects(selector: &NodeSelector, node: &NodeFacts) -> bool {
    selector.node_selector_terms.iter().any(|term| matches(term, node))
}

/// Sum of the weights of the preferred terms a node matches.
#[must_use]
pub fn preferred(pod: &PodFacts, node: &NodeFacts) -> i64 {
    let terms = pod
        .node_affinity
        .iter()
        .filter_map(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref())
        .flatten();
    terms
        .filter(|term| matches(&term.preference, node))
        .map(|term| i64::from(term.weight))
        .sum()
}

/// A term without requirements matches nothing.
fn matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    if expressions.clone().next().is_none() && fields.clone().next().is_none() {
        return false;
    }
    // The only field there is.
    let field = |requirement: &NodeSelectorRequirement| (requirement.key == "metadata.name").then_some(node.name.as_str());
    expressions
        .into_iter()
        .all(|requirement| holds(requirement, node.labels.get(&requirement.key).map(String::as_str)))
        && fields.into_iter().all(|requirement| holds(requirement, field(requirement)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.iter().any(|v| v == value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(have, bound)| have > bound),
        "Lt" => numbers().is_some_and(|(have, bound)| have < bound),
        _ => false, // the API server admits no others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeFacts {
        let labels = [("zone", "a"), ("cores", "8")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        NodeFacts {
            name: "n1".to_owned(),
            labels,
            ..NodeFacts::default()
        }
    }

    fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
        NodeSelectorRequirement {
            key: key.to_owned(),
            operator: operator.to_owned(),
            values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
        }
    }

    #[test]
    fn every_operator_does_as_the_page_says() {
        for (key, operator, values, want) in [
            ("zone", "In", &["a", "b"][..], true),
            ("zone", "In", &["b"], false),
            ("rack", "In", &["a"], false),
            ("zone", "NotIn", &["b"], true),
            ("zone", "NotIn", &["a"], false),
            ("rack", "NotIn", &["a"], true),
            ("zone", "Exists", &[], true),
            ("rack", "Exists", &[], false),
            ("zone", "DoesNotExist", &[], false),
            ("rack", "DoesNotExist", &[], true),
            ("cores", "Gt", &["7"], true),
            ("cores", "Gt", &["8"], false),
            ("cores", "Lt", &["9"], true),
            ("zone", "Gt", &["1"], false),
            ("rack", "Lt", &["1"], false),
        ] {
            let term = NodeSelectorTerm {
                match_expressions: Some(vec![requirement(key, operator, values)]),
                ..NodeSelectorTerm::default()
            };
            assert_eq!(matches(&term, &node()), want, "{key} {operator} {values:?}");
        }
    }

    #[test]
    fn an_empty_term_matches_nothing_and_fields_know_the_name() {
        assert!(!matches(&NodeSelectorTerm::default(), &node()));
        let by = |key: &str, name: &str| NodeSelectorTerm {
            match_fields: Some(vec![requirement(key, "In", &[name])]),
            ..NodeSelectorTerm::default()
        };
        assert!(matches(&by("metadata.name", "n1"), &node()));
        assert!(!matches(&by("metadata.name", "n2"), &node()));
        assert!(!matches(&by("metadata.uid", "n1"), &node()));
    }
}
