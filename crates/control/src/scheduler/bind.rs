//! Writes a binding.

use std::time::Duration;

use api::typed::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use super::snapshot::PodFacts;

/// A binding that takes longer is tried again.
const TIMEOUT: Duration = Duration::from_secs(10);

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
