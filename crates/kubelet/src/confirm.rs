//! The kubelet's last word about a pod: nothing of it is left on the node.

use api::Uid;
use api::typed::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use lifecycle::{Failure, FailureClass, Outcome};

use crate::status_writer::{StatusWriter, is_another};

/// Deletes the pod from the API, and no other one of its name. The last status
/// goes first, so that watchers see how the pod ended.
pub(crate) async fn deletion(client: &kube::Client, pod: &Pod, uid: &Uid, status: &StatusWriter) -> Result<Outcome, Failure> {
    status.flush().await;
    let name = pod.metadata.name.clone().unwrap_or_default();
    let api = Api::<Pod>::namespaced(client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let preconditions = Preconditions {
        uid: Some(uid.to_string()),
        resource_version: None,
    };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    match api.delete(&name, &params).await {
        Ok(_) => Ok(Outcome::Done),
        // Gone already, or another pod of that name now.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Done),
        Err(kube::Error::Api(status)) if status.code == 409 && is_another(&api, &name, uid).await => Ok(Outcome::Done),
        Err(error) => Err(Failure::new(FailureClass::Api, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::Status;
    use apiserver::{ApiServer, Body, Config, Identity, Limits, NodeAddress, NodeProxy, Version};
    use http::{Request, Response};
    use http_body_util::BodyExt;
    use kube::api::PostParams;
    use serde_json::json;
    use tokio_util::sync::CancellationToken;

    use super::*;

    struct NoNodes;

    #[async_trait::async_trait]
    impl NodeProxy for NoNodes {
        async fn call(&self, node: &NodeAddress, _: Request<Body>) -> Result<Response<Body>, Status> {
            Err(Status::unavailable(format!("node {} does not exist", node.node)))
        }
    }

    async fn server(dir: &std::path::Path) -> ApiServer {
        use apiserver::tokens::{DEFAULT_ISSUER, Tokens, key::SigningKey};
        let config = Config {
            baseline_namespaces: false,
            store: Arc::new(store::Embedded::open(dir, store::Options::default()).unwrap()),
            rows: apiserver::kinds::rows(),
            nodes: Arc::new(NoNodes),
            tokens: Arc::new(Tokens::new(DEFAULT_ISSUER, "", SigningKey::ephemeral().unwrap())),
            audit: None,
            ranges: apiserver::Ranges::default(),
            limits: Limits::default(),
            version: Version::default(),
            clock: Arc::new(|| jiff::Timestamp::now().into()),
        };
        ApiServer::start(config).await.unwrap()
    }

    fn client(server: &ApiServer, user: &str, group: &str) -> kube::Client {
        let (server, identity) = (server.clone(), Identity::new(user, &[group]));
        client::in_process(move |request: Request<kube::client::Body>| {
            let (server, identity) = (server.clone(), identity.clone());
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                server.handle(Some(identity), request).await
            }
        })
    }

    /// The server is the real one, and so is the pod that has come in the
    /// place of the one this kubelet stopped.
    ///
    /// Shows: 14.3.10
    #[tokio::test(flavor = "multi_thread")]
    async fn the_pod_that_is_deleted_in_the_end_is_the_one_that_was_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let server = server(dir.path()).await;
        let admin = client(&server, "admin", "system:masters");
        let account = json!({ "metadata": { "name": "default" } });
        let accounts = Api::<api::typed::ServiceAccount>::namespaced(admin.clone(), "default");
        accounts
            .create(&PostParams::default(), &serde_json::from_value(account).unwrap())
            .await
            .unwrap();
        let pods = Api::<Pod>::namespaced(admin.clone(), "default");
        let manifest =
            json!({ "metadata": { "name": "web" }, "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "busybox" }] } });
        let manifest: Pod = serde_json::from_value(manifest).unwrap();
        let first = pods.create(&PostParams::default(), &manifest).await.unwrap();
        pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
        let second = pods.create(&PostParams::default(), &manifest).await.unwrap();
        assert_ne!(first.metadata.uid, second.metadata.uid);

        let node = client(&server, "system:node:n1", "system:nodes");
        for (pod, left) in [(&first, true), (&second, false)] {
            let uid: Uid = pod.metadata.uid.as_deref().unwrap().parse().unwrap();
            let names = ("default".to_owned(), "web".to_owned());
            let (status, writer) = StatusWriter::new(node.clone(), names.0, names.1, uid.clone(), CancellationToken::new());
            let writer = tokio::spawn(writer);
            assert_eq!(deletion(&node, pod, &uid, &status).await, Ok(Outcome::Done));
            writer.abort();
            let found = pods.get_opt("web").await.unwrap();
            assert_eq!(found.is_some(), left);
            assert!(
                found.is_none_or(|pod| pod.metadata.deletion_timestamp.is_none()),
                "nobody asked for it"
            );
        }
    }
}
