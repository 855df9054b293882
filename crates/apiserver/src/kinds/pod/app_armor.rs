//! AppArmor profiles of containers: the fields, and the annotations that came
//! before them and are kept in step.
//!
//! Source: upstream `pkg/registry/core/pod/strategy.go`,
//! `applyAppArmorVersionSkew` (v1.33, which writes both ways);
//! `pkg/apis/core/validation/validation.go`,
//! `ValidateAppArmorPodAnnotations`, `ValidatePodSpecificAnnotationUpdates`,
//! `validateAppArmorAnnotationsAndFieldsMatchOnCreate`; KEP-24.

use std::collections::BTreeMap;

use api::Object;
use api::status::Violation;
use api::typed::{AppArmorProfile, Container, PodSpec};
use serde_json::{Value, json};

use super::validate::app_armor_rules;

/// Annotation prefix that names an AppArmor profile of a container.
pub(super) const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
const UNCONFINED: &str = "unconfined";
const RUNTIME_DEFAULT: &str = "runtime/default";
const LOCALHOST: &str = "localhost/";

/// What an annotation says, if it says something.
fn field_of(annotation: &str) -> Option<AppArmorProfile> {
    let (kind, path) = match annotation {
        UNCONFINED => ("Unconfined", None),
        RUNTIME_DEFAULT => ("RuntimeDefault", None),
        other => ("Localhost", Some(other.strip_prefix(LOCALHOST)?.to_owned())),
    };
    let profile = AppArmorProfile {
        type_: kind.to_owned(),
        localhost_profile: path,
    };
    app_armor_rules("", Some(&profile)).is_empty().then_some(profile)
}

/// The annotation that says what a field says, if one can.
fn annotation_of(profile: &AppArmorProfile) -> Option<String> {
    match profile.type_.as_str() {
        "Unconfined" => Some(UNCONFINED.to_owned()),
        "RuntimeDefault" => Some(RUNTIME_DEFAULT.to_owned()),
        "Localhost" => profile.localhost_profile.as_ref().map(|path| format!("{LOCALHOST}{path}")),
        _ => None, // an unknown type is refused by the rules of the field
    }
}

fn profile_in(holder: &Value) -> Option<AppArmorProfile> {
    serde_json::from_value(holder["securityContext"]["appArmorProfile"].clone()).ok()
}

/// One container's part in [`sync`].
enum Step {
    Nothing,
    Annotate(String),
    /// The profile, unless the Pod's own says the same.
    Fill(Option<AppArmorProfile>),
    /// The annotation says nothing that could be kept.
    Unreadable,
}

fn step(annotation: Option<&String>, own: Option<&AppArmorProfile>, of_pod: Option<&AppArmorProfile>) -> Step {
    match (annotation, own) {
        (None, _) => own.or(of_pod).and_then(annotation_of).map_or(Step::Nothing, Step::Annotate),
        (Some(_), Some(_)) => Step::Nothing,
        (Some(text), None) => match field_of(text) {
            None => Step::Unreadable,
            Some(profile) => Step::Fill((Some(&profile) != of_pod).then_some(profile)),
        },
    }
}

/// Container lists of a spec, in the order in which they are looked at.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Of every container of a new Pod: its place, its name, and what is missing.
fn steps(pod: &Object) -> Vec<(&'static str, usize, String, Step)> {
    let Some(spec) = pod.at("spec") else { return Vec::new() };
    if spec["os"]["name"] == "windows" {
        return Vec::new();
    }
    let none = BTreeMap::new();
    let annotations = pod.meta.annotations.as_ref().unwrap_or(&none);
    let of_pod = profile_in(spec);
    let mut steps = Vec::new();
    for list in LISTS {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let key = format!("{PREFIX}{}", container["name"].as_str().unwrap_or_default());
            let step = step(annotations.get(&key), profile_in(container).as_ref(), of_pod.as_ref());
            if !matches!(step, Step::Nothing) {
                steps.push((list, index, key, step));
            }
        }
    }
    steps
}

/// Writes the annotations of a new Pod's fields, and the fields of its
/// annotations.
pub(super) fn sync(pod: &mut Object) {
    for (list, index, key, step) in steps(pod) {
        match step {
            Step::Annotate(text) => {
                pod.meta.annotations.get_or_insert_default().insert(key, text);
            }
            Step::Fill(Some(profile)) => {
                let container = pod.body.get_mut("spec").and_then(|spec| spec.get_mut(list)?.get_mut(index));
                if let Some(Value::Object(container)) = container {
                    let context = container.entry("securityContext").or_insert_with(|| json!({}));
                    if context.is_null() {
                        *context = json!({});
                    }
                    context["appArmorProfile"] = json!(profile);
                }
            }
            Step::Fill(None) | Step::Nothing | Step::Unreadable => {}
        }
    }
}

/// What is told of annotations that stand alone. Asked before [`sync`].
pub(super) fn warnings(pod: &Object) -> Vec<String> {
    steps(pod)
        .into_iter()
        .filter(|(.., step)| matches!(step, Step::Fill(Some(_)) | Step::Unreadable))
        .map(|(_, _, key, _)| deprecated(&format!("metadata.annotations[{key}]")))
        .collect()
}

/// Of an annotation without its field.
pub(super) fn deprecated(annotation: &str) -> String {
    format!(r#"{annotation}: deprecated since v1.30; use the "appArmorProfile" field instead"#)
}

/// Containers of every kind with their paths below `spec`.
fn containers(spec: &PodSpec) -> Vec<(String, Container)> {
    let listed = |list: &'static str, containers: Vec<Container>| {
        let numbered = containers.into_iter().enumerate();
        numbered.map(move |(index, container)| (format!("spec.{list}[{index}]"), container))
    };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(api::pods::as_container);
    listed("initContainers", spec.init_containers.clone().unwrap_or_default())
        .chain(listed("containers", spec.containers.clone()))
        .chain(listed("ephemeralContainers", ephemeral.collect()))
        .collect()
}

/// The annotations about AppArmor alone.
fn ours(annotations: Option<&BTreeMap<String, String>>) -> impl Iterator<Item = (&String, &String)> {
    annotations.into_iter().flatten().filter(|(key, _)| key.starts_with(PREFIX))
}

/// Every broken rule of the annotations of a Pod or template at `field`.
pub(super) fn annotations(field: &str, annotations: Option<&BTreeMap<String, String>>, spec: &PodSpec) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (key, text) in ours(annotations) {
        let field = format!("{field}[{key}]");
        let name = &key[PREFIX.len()..];
        if !containers(spec).iter().any(|(_, container)| container.name == name) {
            broken.push(Violation::invalid(field.clone(), &Value::from(name), "container not found"));
        }
        if !(matches!(text.as_str(), "" | RUNTIME_DEFAULT | UNCONFINED) || text.starts_with(LOCALHOST)) {
            let rule = format!("invalid AppArmor profile name: {text:?}");
            broken.push(Violation::invalid(field, &Value::from(text.as_str()), &rule));
        }
    }
    broken
}

/// What contradicts itself: an annotation and the field it is about.
pub(super) fn contradictions(annotations: Option<&BTreeMap<String, String>>, spec: &PodSpec) -> Vec<Violation> {
    if ours(annotations).next().is_none() || spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return Vec::new();
    }
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.app_armor_profile.as_ref());
    let mut broken = Vec::new();
    for (path, container) in containers(spec) {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.app_armor_profile.as_ref());
        let annotation = annotations.and_then(|all| all.get(&format!("{PREFIX}{}", container.name)));
        let (Some(profile), Some(text)) = (own.or(of_pod), annotation) else {
            continue;
        };
        let same = match profile.type_.as_str() {
            "Unconfined" => text == UNCONFINED,
            "RuntimeDefault" => text == RUNTIME_DEFAULT,
            "Localhost" => text.starts_with(LOCALHOST),
            _ => true, // refused by the rules of the field
        };
        let field = format!("{path}.securityContext.appArmorProfile");
        if !same {
            let rule = "apparmor type in annotation and field must match";
            broken.push(Violation::forbidden(format!("{field}.type"), rule));
        } else if profile.type_ == "Localhost" && text.strip_prefix(LOCALHOST) != profile.localhost_profile.as_deref() {
            let rule = "apparmor profile in annotation and field must match";
            broken.push(Violation::forbidden(format!("{field}.localhostProfile"), rule));
        }
    }
    broken
}

/// Annotations that were changed: they are about containers that exist.
pub(super) fn changed(new: Option<&BTreeMap<String, String>>, old: Option<&BTreeMap<String, String>>) -> Vec<Violation> {
    let field = |key: &String| format!("metadata.annotations[{key}]");
    let (new_of, old_of) = (
        |key: &String| new.and_then(|all| all.get(key)),
        |key: &String| old.and_then(|all| all.get(key)),
    );
    let gone = ours(old).filter(|(key, text)| new_of(key) != Some(*text));
    let gone = gone.map(|(key, _)| Violation::forbidden(field(key), "may not remove or update AppArmor annotations"));
    let added = ours(new).filter(|(key, _)| old_of(key).is_none());
    gone.chain(added.map(|(key, _)| Violation::forbidden(field(key), "may not add AppArmor annotations")))
        .collect()
}

#[cfg(test)]
mod tests;
