//! Writes a binding.

use std::time::Duration;

use api::typed::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use kube_runtime::wait::await_condition;
use serde_json::{Value, json};

use super::snapshot::PodFacts;
use super::volumes::{How, Wanted};
use crate::storage;

/// A binding that takes longer is tried again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Volumes that take longer are waited for by the next attempt: upstream waits
/// ten minutes, and this scheduler has few bindings under way at a time.
const VOLUMES_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
pub(super) enum BindError {
    /// The API server refused, or could not be reached.
    #[error("binding rejected: running Bind plugin \"DefaultBinder\": {0}")]
    Refused(Box<kube::Error>),
    /// No answer came; the binding may have been written all the same, in
    /// which case the watch will show it.
    #[error("binding rejected: no answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    /// The volumes of the pod could not be asked for.
    #[error("binding volumes: {0}")]
    Volumes(Box<kube::Error>),
    /// They were asked for, and are not there.
    #[error("binding volumes: timed out waiting for the condition")]
    VolumesTimeout,
}

impl BindError {
    /// The pod is no more, or not as it was: the watch will tell, and there is
    /// nothing to report.
    pub(super) fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused(error) if matches!(&**error, kube::Error::Api(status) if matches!(status.code, 404 | 409)))
    }
}

/// Gives the pod its node. The UID goes along, so that a new pod of the same
/// name is not bound in its place.
pub(super) async fn bind(client: &kube::Client, pod: &PodFacts, node: &str) -> Result<(), BindError> {
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": { "name": pod.name, "namespace": pod.namespace, "uid": pod.uid.as_str() },
        "target": { "apiVersion": "v1", "kind": "Node", "name": node },
    });
    let pods: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let params = PostParams::default();
    let post = pods.create_subresource::<Value, Value>("binding", &pod.name, &params, &binding);
    match tokio::time::timeout(TIMEOUT, post).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(BindError::Refused(Box::new(error))),
        Err(_) => Err(BindError::Timeout),
    }
}

/// Has the volumes of a pod made or set aside where its node is, and waits
/// until its claims have them. What was asked for stays asked for: a next
/// attempt finds it done, or goes on waiting.
///
/// Source: upstream scheduler plugin `VolumeBinding`, `PreBind`.
pub(super) async fn provide(client: &kube::Client, pod: &PodFacts, wanted: &[Wanted]) -> Result<(), BindError> {
    let failed = |error| BindError::Volumes(Box::new(error));
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &pod.namespace);
    let providing = async {
        for Wanted { claim, how } in wanted {
            let params = PatchParams::default();
            match how {
                How::SetAside { volume, revision, uid } => {
                    let reference = json!({ "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": pod.namespace, "name": claim, "uid": uid });
                    let patch = json!({
                        "metadata": { "resourceVersion": revision, "annotations": { storage::BOUND_BY_CONTROLLER: "yes" } },
                        "spec": { "claimRef": reference },
                    });
                    let volumes = Api::<PersistentVolume>::all(client.clone());
                    volumes.patch(volume, &params, &Patch::Merge(patch)).await.map_err(failed)?;
                }
                How::Made { node } => {
                    let patch = json!({ "metadata": { "annotations": { storage::SELECTED_NODE: node } } });
                    claims.patch(claim, &params, &Patch::Merge(patch)).await.map_err(failed)?;
                }
                How::Awaited => {}
            }
        }
        for Wanted { claim, .. } in wanted {
            let bound = |claim: Option<&PersistentVolumeClaim>| claim.is_none_or(storage::is_bound);
            // A claim that is gone is no reason to wait; the next look tells.
            let waited = await_condition(claims.clone(), claim, bound).await;
            waited.map_err(|_| BindError::VolumesTimeout)?;
        }
        Ok(())
    };
    match tokio::time::timeout(VOLUMES_TIMEOUT, providing).await {
        Ok(result) => result,
        Err(_) => Err(BindError::VolumesTimeout),
    }
}
