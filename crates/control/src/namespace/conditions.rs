//! What holds up a namespace that is being deleted, as its conditions say it.
//! Pure.
//!
//! Source: upstream `pkg/controller/namespace/deletion/status_condition_utils.go`.

use std::collections::BTreeMap;

use api::Time;
use api::typed::NamespaceCondition;

/// What emptying a namespace has come to.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Why its resources are not known.
    pub(super) discovery: Option<String>,
    /// Why objects were not deleted.
    pub(super) failures: Vec<String>,
    /// Objects left, by `resource.group`.
    pub(super) remaining: BTreeMap<String, usize>,
    /// Objects left that a finalizer holds, by finalizer.
    pub(super) finalizers: BTreeMap<String, usize>,
}

/// Type, reason and message of a condition that nothing is wrong with.
const FINE: [(&str, &str, &str); 5] = [
    (
        "NamespaceDeletionDiscoveryFailure",
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    (
        "NamespaceFinalizersRemaining",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
];

impl Findings {
    /// Reason and message of what is wrong with a condition.
    fn wrong(&self, kind: &str) -> Option<(&'static str, String)> {
        let listed = |counts: &BTreeMap<String, usize>, verb: &str| {
            let texts: Vec<String> = counts
                .iter()
                .map(|(what, count)| format!("{what} {verb} {count} resource instances"))
                .collect();
            texts.join(", ")
        };
        match kind {
            "NamespaceDeletionDiscoveryFailure" => {
                let why = self.discovery.as_ref()?;
                Some(("DiscoveryFailed", format!("Discovery failed for some groups, 1 failing: {why}")))
            }
            "NamespaceDeletionContentFailure" if !self.failures.is_empty() => {
                let message = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    self.failures.len(),
                    self.failures.join(", ")
                );
                Some(("ContentDeletionFailed", message))
            }
            "NamespaceContentRemaining" if !self.remaining.is_empty() => {
                let message = format!("Some resources are remaining: {}", listed(&self.remaining, "has"));
                Some(("SomeResourcesRemain", message))
            }
            "NamespaceFinalizersRemaining" if !self.finalizers.is_empty() => {
                let message = format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    listed(&self.finalizers, "in")
                );
                Some(("SomeFinalizersRemain", message))
            }
            _ => None,
        }
    }

    /// The conditions, if they are not what they were.
    pub(super) fn conditions(&self, before: &[NamespaceCondition], now: Time) -> Option<Vec<NamespaceCondition>> {
        let mut all: Vec<NamespaceCondition> = before
            .iter()
            .filter(|condition| !FINE.iter().any(|(kind, ..)| *kind == condition.type_))
            .cloned()
            .collect();
        for (kind, reason, message) in FINE {
            let (status, reason, message) = match self.wrong(kind) {
                Some((reason, message)) => ("True", reason, message),
                None => ("False", reason, message.to_owned()),
            };
            let known = before.iter().find(|condition| condition.type_ == kind);
            let since = known
                .filter(|known| known.status == status)
                .and_then(|known| known.last_transition_time.clone());
            all.push(NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: Some(since.unwrap_or_else(|| now.wire())),
            });
        }
        (all != before).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conditions: &[NamespaceCondition]) -> Vec<String> {
        conditions
            .iter()
            .filter(|condition| condition.status == "True")
            .map(|condition| {
                format!(
                    "{} {}: {}",
                    condition.type_,
                    condition.reason.as_deref().unwrap_or_default(),
                    condition.message.as_deref().unwrap_or_default()
                )
            })
            .collect()
    }

    #[test]
    fn what_holds_a_namespace_up_is_said_in_upstream_s_words() {
        let findings = Findings {
            discovery: Some("no answer".to_owned()),
            failures: vec!["a".to_owned(), "b".to_owned()],
            remaining: [("pods.".to_owned(), 2), ("leases.coordination.k8s.io".to_owned(), 1)].into(),
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
        };
        let now = Time::from_secs(5);
        let all = findings.conditions(&[], now).unwrap();
        assert_eq!(
            said(&all),
            [
                "NamespaceDeletionDiscoveryFailure DiscoveryFailed: Discovery failed for some groups, 1 failing: no answer",
                "NamespaceDeletionContentFailure ContentDeletionFailed: Failed to delete all resource types, 2 remaining: a, b",
                "NamespaceContentRemaining SomeResourcesRemain: Some resources are remaining: leases.coordination.k8s.io has 1 resource instances, pods. has 2 resource instances",
                "NamespaceFinalizersRemaining SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
            ]
        );
        assert_eq!(findings.conditions(&all, Time::from_secs(9)), None, "nothing new to say");
        let fine = Findings::default().conditions(&all, Time::from_secs(9)).unwrap();
        assert_eq!((said(&fine).len(), fine.len()), (0, 5));
        assert_eq!(
            fine[1].last_transition_time, all[1].last_transition_time,
            "what did not change keeps its time"
        );
    }
}
