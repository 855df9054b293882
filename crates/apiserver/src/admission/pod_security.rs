//! Pod Security Standards: which Pods a namespace takes, by its labels.
//!
//! Reading order: this file (levels, versions, what is done about a Pod),
//! `checks.rs` (the checks of each level).
//!
//! Source: Kubernetes "Pod Security Admission", KEP-2579; upstream
//! `staging/src/k8s.io/pod-security-admission/admission/admission.go`.

mod checks;

use std::collections::BTreeMap;

use api::status::Violation;
use api::typed::{Pod, PodTemplateSpec};
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;

use self::checks::Finding;
use super::{Attributes, Operation, Plugin};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Most Pods of a namespace that are looked at when it asks for more.
///
/// Source: upstream `defaultNamespaceMaxPodsToCheck`.
const PODS_MAX: usize = 3_000;
/// The minor version of Kubernetes this server serves.
const MINOR: u32 = 33;

/// How much a namespace takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Everything.
    Privileged,
    /// What is not known to lead to more privileges.
    Baseline,
    /// What hardening recommends.
    Restricted,
}

/// A level as of a version of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Policy {
    level: Level,
    /// Minor version; `None` is the latest.
    minor: Option<u32>,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

impl Policy {
    /// What the labels ask for in a mode such as `enforce`. A value that is
    /// none counts as the strictest there is, as upstream fails closed.
    fn of(namespace: &Object, mode: &str) -> Self {
        let label = |name: &str| {
            namespace
                .meta
                .labels
                .as_ref()
                .and_then(|labels| labels.get(name))
                .map(String::as_str)
        };
        let level = label(&format!("{PREFIX}{mode}"));
        let version = label(&format!("{PREFIX}{mode}-version"));
        Self {
            level: level.map_or(Level::Privileged, |text| Level::parse(text).unwrap_or(Level::Restricted)),
            minor: version.and_then(|text| minor(text).unwrap_or(None)),
        }
    }

    /// `baseline:latest`.
    fn shown(self) -> String {
        match self.minor {
            None => format!("{}:latest", self.level.name()),
            Some(minor) => format!("{}:v1.{minor}", self.level.name()),
        }
    }

    fn findings(self, pod: &PodTemplateSpec) -> Vec<Finding> {
        checks::findings(self.level, self.minor.unwrap_or(MINOR), pod)
    }
}

/// `latest` or `v1.N`; the error is upstream's text.
fn minor(text: &str) -> Result<Option<u32>, &'static str> {
    if text == "latest" {
        return Ok(None);
    }
    let digits = text
        .strip_prefix("v1.")
        .filter(|digits| !digits.is_empty() && (digits.len() == 1 || !digits.starts_with('0')));
    let parsed = digits.and_then(|digits| digits.parse().ok());
    parsed.map(Some).ok_or(r#"must be "latest" or "v1.x""#)
}

/// `privileged (container "c" must not ...), host namespaces (...)`.
fn details(findings: &[Finding]) -> String {
    let texts: Vec<String> = findings
        .iter()
        .map(|finding| format!("{} ({})", finding.reason, finding.detail))
        .collect();
    texts.join(", ")
}

/// What the checks of a level say of a Pod.
#[cfg(test)]
pub(super) fn said(level: Level, minor: u32, pod: &Object) -> String {
    let policy = Policy { level, minor: Some(minor) };
    pod_template(pod)
        .map(|template| details(&policy.findings(&template)))
        .unwrap_or_default()
}

/// The plugin `PodSecurity`.
pub(super) struct PodSecurity;

#[async_trait]
impl Plugin for PodSecurity {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        let pods = asked.row.id.plural == "pods" && asked.row.id.group.is_empty();
        pods && matches!(asked.subresource, "" | "ephemeralcontainers") || asked.is("", "namespaces") || template_path(asked).is_some()
    }

    /// Where that was asked for, new namespaces are baseline; the system's own
    /// are not.
    async fn admit(&self, asked: &Attributes<'_>, object: &mut Object) -> Result<(), Status> {
        let label = format!("{PREFIX}enforce");
        if asked.lookup.core.baseline_namespaces && asked.creates("", "namespaces") && asked.identity.user != "system:apiserver" {
            let labels = object.meta.labels.get_or_insert_default();
            labels.entry(label).or_insert_with(|| Level::Baseline.name().to_owned());
        }
        Ok(())
    }

    async fn validate(&self, asked: &Attributes<'_>, object: &Object, warnings: &mut Vec<String>) -> Result<(), Status> {
        if asked.row.id.plural == "namespaces" {
            return namespace(asked, object, warnings).await;
        }
        let Some(namespace) = asked.lookup.object("", "namespaces", "", asked.namespace).await? else {
            return Ok(());
        };
        let (enforce, warn) = (Policy::of(&namespace, "enforce"), Policy::of(&namespace, "warn"));
        if enforce.level == Level::Privileged && warn.level == Level::Privileged {
            return Ok(());
        }
        let template = match template_path(asked) {
            Some(path) => object
                .at(path)
                .cloned()
                .map(serde_json::from_value::<PodTemplateSpec>)
                .and_then(Result::ok),
            None if !is_significant(asked, object) => None,
            None => pod_template(object),
        };
        let Some(template) = template else { return Ok(()) };
        if template_path(asked).is_none() {
            let broken = enforce.findings(&template);
            if !broken.is_empty() {
                let why = format!("violates PodSecurity {:?}: {}", enforce.shown(), details(&broken));
                return Err(asked.forbidden(object, &why));
            }
        }
        let broken = warn.findings(&template);
        if !broken.is_empty() {
            warnings.push(format!("would violate PodSecurity {:?}: {}", warn.shown(), details(&broken)));
        }
        Ok(())
    }
}

/// Where a kind that makes Pods keeps their template.
fn template_path(asked: &Attributes<'_>) -> Option<&'static str> {
    if !asked.subresource.is_empty() {
        return None;
    }
    match (asked.row.id.group.as_str(), asked.row.id.plural.as_str()) {
        ("", "podtemplates") => Some("template"),
        ("", "replicationcontrollers") => Some("spec.template"),
        ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets") | ("batch", "jobs") => Some("spec.template"),
        ("batch", "cronjobs") => Some("spec.jobTemplate.spec.template"),
        _ => None,
    }
}

fn pod_template(object: &Object) -> Option<PodTemplateSpec> {
    let pod = object.view::<Pod>().ok()?;
    Some(PodTemplateSpec {
        metadata: Some(pod.metadata),
        spec: pod.spec,
    })
}

/// Whether a change of a Pod may change what the checks say: anything but
/// metadata and tolerations.
///
/// Source: upstream `isSignificantPodUpdate`.
fn is_significant(asked: &Attributes<'_>, new: &Object) -> bool {
    let Some(old) = asked.old.filter(|_| asked.operation == Operation::Update) else {
        return true;
    };
    let containers = |object: &Object, list: &str, field: &str| -> Vec<Value> {
        let all = object.at(&format!("spec.{list}")).and_then(Value::as_array).into_iter().flatten();
        all.map(|container| container[field].clone()).collect()
    };
    ["containers", "initContainers", "ephemeralContainers"].iter().any(|list| {
        ["name", "securityContext", "ports"]
            .iter()
            .any(|field| containers(new, list, field) != containers(old, list, field))
    })
}

/// A namespace's labels must make sense; one that asks for more is told which
/// of its Pods would not be taken any more.
async fn namespace(asked: &Attributes<'_>, new: &Object, warnings: &mut Vec<String>) -> Result<(), Status> {
    let mut broken = label_rules(new);
    if let Some(old) = asked.old {
        // What was wrong before does not stand in the way of other changes.
        let before = label_rules(old);
        broken.retain(|violation| !before.contains(violation));
    }
    if !broken.is_empty() {
        return Err(Status::invalid(&asked.row.id, new.name(), &broken));
    }
    let Some(old) = asked.old else { return Ok(()) };
    let (before, after) = (Policy::of(old, "enforce"), Policy::of(new, "enforce"));
    if after == before || after.level == Level::Privileged || (after.minor == before.minor && after.level < before.level) {
        return Ok(());
    }
    let pods = asked.lookup.objects("", "pods", new.name()).await?;
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(PODS_MAX) {
        let reasons: Vec<&str> = pod_template(pod)
            .map(|template| after.findings(&template))
            .unwrap_or_default()
            .iter()
            .map(|finding| finding.reason)
            .collect();
        if !reasons.is_empty() {
            by_reason.entry(reasons.join(", ")).or_default().push(pod.name());
        }
    }
    if by_reason.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = by_reason
        .iter()
        .map(|(reasons, names)| format!("{}: {reasons}", grouped(names)))
        .collect();
    lines.sort_unstable();
    warnings.push(format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level {:?}",
        new.name(),
        after.shown()
    ));
    warnings.append(&mut lines);
    Ok(())
}

/// `web (and 2 other pods)`.
fn grouped(names: &[&str]) -> String {
    let first = names.iter().min().copied().unwrap_or_default();
    match names.len() {
        0 | 1 => first.to_owned(),
        2 => format!("{first} (and 1 other pod)"),
        more => format!("{first} (and {} other pods)", more - 1),
    }
}

fn label_rules(namespace: &Object) -> Vec<Violation> {
    let mut broken = Vec::new();
    for mode in ["enforce", "audit", "warn"] {
        for (name, is_version) in [(format!("{PREFIX}{mode}"), false), (format!("{PREFIX}{mode}-version"), true)] {
            let Some(value) = namespace.meta.labels.as_ref().and_then(|labels| labels.get(&name)) else {
                continue;
            };
            let why = if is_version {
                minor(value).err()
            } else {
                Level::parse(value)
                    .is_none()
                    .then_some("must be one of privileged, baseline, restricted")
            };
            broken.extend(why.map(|why| Violation::invalid(format!("metadata.labels[{name}]"), &Value::from(value.as_str()), why)));
        }
    }
    broken
}
