//! Every Pod acts as a ServiceAccount of its namespace, which must exist.
//!
//! Source: upstream `plugin/pkg/admission/serviceaccount/admission.go`.

mod token;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api::typed::{Container, EnvFromSource, EnvVar, Pod, PodSpec};
use api::{Object, ResourceId, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{Attributes, Lookup, Plugin};
use crate::hub::{From, Message};

/// The account of Pods that name none; a controller makes one in every
/// namespace.
const DEFAULT_ACCOUNT: &str = "default";
/// How long a new namespace may take to get its account. Upstream asks ten
/// times, 100 to 200 ms apart.
const DEFAULT_ACCOUNT_WAIT: Duration = Duration::from_millis(1_500);
/// Annotation of a Pod that a node runs from a file of its own.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Annotation of an account whose Pods may use its Secrets only.
const ENFORCE_ANNOTATION: &str = "kubernetes.io/enforce-mountable-secrets";

/// The plugin `ServiceAccount`.
pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn handles(&self, asked: &Attributes<'_>) -> bool {
        asked.creates("", "pods")
    }

    async fn admit(&self, asked: &Attributes<'_>, pod: &mut Object) -> Result<(), Status> {
        if is_mirror(pod) {
            return Ok(());
        }
        name_account(pod);
        let account = account_of(asked, pod).await?;
        token::mount(pod, &account);
        inherit_pull_secrets(pod, &account);
        Ok(())
    }

    async fn validate(&self, asked: &Attributes<'_>, pod: &Object, _warnings: &mut Vec<String>) -> Result<(), Status> {
        let Ok(typed) = pod.view::<Pod>() else { return Ok(()) };
        let spec = typed.spec.unwrap_or_default();
        if is_mirror(pod) {
            return mirror_rules(&spec).map_err(|why| asked.forbidden(pod, why));
        }
        let account = account_of(asked, pod).await?;
        if enforces(&account) {
            secret_rules(&spec, &account).map_err(|why| asked.forbidden(pod, &why))?;
        }
        Ok(())
    }
}

fn is_mirror(pod: &Object) -> bool {
    pod.meta.annotations.as_ref().is_some_and(|map| map.contains_key(MIRROR_ANNOTATION))
}

/// `default` unless the Pod names one; the field's old name says the same.
fn name_account(pod: &mut Object) {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    for field in ["serviceAccountName", "serviceAccount"] {
        if spec.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
            spec.insert(field.to_owned(), Value::from(DEFAULT_ACCOUNT));
        }
    }
}

async fn account_of(asked: &Attributes<'_>, pod: &Object) -> Result<Arc<Object>, Status> {
    let name = pod.str_at("spec.serviceAccountName");
    let found = account(asked.lookup, asked.namespace, name).await?;
    found.ok_or_else(|| {
        // Upstream's own spelling of the resource.
        let missing = Status::not_found(&ResourceId::new("", "v1", "ServiceAccount", "serviceaccount"), name);
        let why = format!("error looking up service account {}/{name}: {}", asked.namespace, missing.message);
        asked.forbidden(pod, &why)
    })
}

/// The account, if it is there or, for `default`, comes soon.
async fn account(lookup: Lookup<'_>, namespace: &str, name: &str) -> Result<Option<Arc<Object>>, Status> {
    let find = || lookup.object("", "serviceaccounts", namespace, name);
    if let Some(found) = find().await? {
        return Ok(Some(found));
    }
    let Some(row) = lookup.row("", "serviceaccounts").filter(|_| name == DEFAULT_ACCOUNT) else {
        return Ok(None);
    };
    let key = row.key(namespace, name);
    let hub = row.hub();
    let appears = async {
        let Ok(mut news) = hub.subscribe(&key, &From::Now, false) else {
            return;
        };
        if news.objects.iter().any(|entry| entry.key == key) {
            return;
        }
        while let Some(message) = news.changes.recv().await {
            if matches!(message, Message::Change(change) if change.key == key && change.new.is_some()) {
                return;
            }
        }
    };
    // Whether it came or not is then read again.
    let _ = tokio::time::timeout(DEFAULT_ACCOUNT_WAIT, appears).await;
    find().await
}

/// A Pod without pull secrets uses its account's.
fn inherit_pull_secrets(pod: &mut Object, account: &Object) {
    let Some(Value::Object(spec)) = pod.body.get_mut("spec") else {
        return;
    };
    let given = |value: Option<&Value>| value.and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let inherited = account.body.get("imagePullSecrets");
    if !given(spec.get("imagePullSecrets"))
        && given(inherited)
        && let Some(inherited) = inherited
    {
        spec.insert("imagePullSecrets".to_owned(), inherited.clone());
    }
}

/// The annotation, read as Go reads booleans.
fn enforces(account: &Object) -> bool {
    let value = account.meta.annotations.as_ref().and_then(|map| map.get(ENFORCE_ANNOTATION));
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"))
}

/// A Pod of a node's own file has no account to act as.
fn mirror_rules(spec: &PodSpec) -> Result<(), &'static str> {
    if spec.service_account_name.as_ref().is_some_and(|name| !name.is_empty()) {
        return Err("a mirror pod may not reference service accounts");
    }
    let in_volumes = spec.volumes.iter().flatten().any(|volume| {
        let projected = volume.projected.iter().filter_map(|volume| volume.sources.as_ref()).flatten();
        volume.secret.is_some() || projected.clone().any(|source| source.secret.is_some())
    });
    let in_containers = containers(spec).any(|(_, container)| {
        let variables = container.env.iter().flatten().any(|variable| secret_of(variable).is_some());
        variables || container.env_from.iter().flatten().any(|source| source.secret_ref.is_some())
    });
    if in_volumes || in_containers || spec.image_pull_secrets.iter().flatten().next().is_some() {
        return Err("a mirror pod may not reference secrets");
    }
    let tokens = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.projected.as_ref()?.sources.as_ref())
        .flatten();
    if tokens.into_iter().any(|source| source.service_account_token.is_some()) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

/// Init containers, then regular ones, with the word messages have for them.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| ("init container", container));
    init.chain(spec.containers.iter().map(|container| ("container", container)))
}

fn secret_of(variable: &EnvVar) -> Option<&str> {
    Some(variable.value_from.as_ref()?.secret_key_ref.as_ref()?.name.as_str())
}

fn secret_of_all(source: &EnvFromSource) -> Option<&str> {
    Some(source.secret_ref.as_ref()?.name.as_str())
}

/// Only Secrets the account lists may be used.
pub(super) fn secret_rules(spec: &PodSpec, account: &Object) -> Result<(), String> {
    let names = |field: &str| -> BTreeSet<&str> {
        let list = account.body.get(field).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|reference| reference["name"].as_str()).collect()
    };
    let (mountable, pullable) = (names("secrets"), names("imagePullSecrets"));
    let unlisted = format!(
        "is not allowed because service account {} does not reference that secret",
        account.name()
    );
    for volume in spec.volumes.iter().flatten() {
        let name = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
        if let Some(name) = name.filter(|name| !mountable.contains(name)) {
            return Err(format!("volume with secret.secretName={name:?} {unlisted}"));
        }
    }
    for (word, container) in containers(spec) {
        for variable in container.env.iter().flatten() {
            if let Some(name) = secret_of(variable).filter(|name| !mountable.contains(name)) {
                return Err(format!(
                    "{word} {} with envVar {} referencing secret.secretName={name:?} {unlisted}",
                    container.name, variable.name
                ));
            }
        }
        for source in container.env_from.iter().flatten() {
            if let Some(name) = secret_of_all(source).filter(|name| !mountable.contains(name)) {
                return Err(format!(
                    "{word} {} with envFrom referencing secret.secretName={name:?} {unlisted}",
                    container.name
                ));
            }
        }
    }
    for (index, reference) in spec.image_pull_secrets.iter().flatten().enumerate() {
        if !pullable.contains(reference.name.as_str()) {
            return Err(format!(
                "imagePullSecrets[{index}].name={:?} is not allowed because service account {} does not reference that imagePullSecret",
                reference.name,
                account.name()
            ));
        }
    }
    Ok(())
}
