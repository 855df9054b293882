//! The Service under which a pod finds the API server: `kubernetes` in
//! `default`, with the first address of the range of Services.
//!
//! Source: upstream `pkg/controlplane/controller/kubernetesservice` and
//! `pkg/controlplane/reconcilers`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::authn::Identity;
use crate::body::{self, Body};
use crate::hub::{From, Message};
use crate::server::{ApiServer, Core};

/// Its name, and that of its Endpoints and EndpointSlice.
const NAME: &str = "kubernetes";
/// Between attempts to make it anew.
const RETRY: Duration = Duration::from_secs(5);

/// The Service could not be made or brought up to date.
#[derive(Debug, thiserror::Error)]
#[error("making {path}: {message}")]
pub struct OwnServiceError {
    path: String,
    message: String,
}

/// Makes the Service anew when it is deleted, until the server closes.
async fn keep(core: Weak<Core>, reached: SocketAddr, closing: CancellationToken) {
    loop {
        let Some(strong) = core.upgrade() else { return };
        let Some(row) = strong.row("", "v1", "services") else {
            return;
        };
        let key = row.key("default", NAME);
        // What was just written is there only once the hub has read it.
        let (hub, written) = (Arc::clone(row.hub()), strong.store.revision().0);
        drop(strong);
        let seen = tokio::select! {
            () = closing.cancelled() => return,
            seen = hub.reach(written, RETRY) => seen,
        };
        if !seen {
            continue;
        }
        let news = hub.subscribe(&key, &From::Now, false);
        let is_there = |news: &crate::hub::Subscription| news.objects.iter().any(|entry| entry.key == key);
        let deleted = async {
            let Ok(mut news) = news else {
                return tokio::time::sleep(RETRY).await;
            };
            if !is_there(&news) {
                return;
            }
            while let Some(message) = news.changes.recv().await {
                if matches!(message, Message::Change(change) if change.key == key && change.new.is_none()) {
                    return;
                }
            }
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = deleted => {}
        }
        let Some(strong) = core.upgrade() else { return };
        if let Err(error) = ApiServer::of(strong).put_own_service(reached).await {
            tracing::warn!(%error, "the Service of this server was not made anew; it is tried again");
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl ApiServer {
    /// Makes the Service, and again whenever somebody deletes it, until the
    /// server closes. Says in its Endpoints that this server answers at
    /// `reached`; a loopback address is reached from no pod and not told.
    ///
    /// # Errors
    /// When a write is refused the first time.
    pub async fn publish_own_service(&self, reached: SocketAddr) -> Result<(), OwnServiceError> {
        self.put_own_service(reached).await?;
        let core = Arc::downgrade(self.core());
        self.spawn(keep(core, reached, self.core().closing.clone()));
        Ok(())
    }

    async fn put_own_service(&self, reached: SocketAddr) -> Result<(), OwnServiceError> {
        let own = self.core().ranges.api_server();
        let (address, own_port, port) = (own.ip(), own.port(), reached.port());
        let spec = json!({
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "sessionAffinity": "None", "ports": [{ "name": "https", "protocol": "TCP", "port": own_port, "targetPort": port }],
        });
        let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
        self.put_own(
            "/api/v1/namespaces/default/services",
            "v1",
            "Service",
            labels,
            json!({ "spec": spec }),
        )
        .await?;
        let (IpAddr::V4(ip), false) = (reached.ip(), reached.ip().is_loopback() || reached.ip().is_unspecified()) else {
            return Ok(());
        };
        let subsets = json!([{ "addresses": [{ "ip": ip }], "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] }]);
        let mirrored = json!({ "endpointslice.kubernetes.io/skip-mirror": "true" });
        let endpoints = "/api/v1/namespaces/default/endpoints";
        self.put_own(endpoints, "v1", "Endpoints", mirrored, json!({ "subsets": subsets }))
            .await?;
        let slice = json!({
            "addressType": "IPv4", "ports": [{ "name": "https", "port": port, "protocol": "TCP" }],
            "endpoints": [{ "addresses": [ip], "conditions": { "ready": true } }],
        });
        let labels = json!({ "kubernetes.io/service-name": NAME });
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.put_own(slices, "discovery.k8s.io/v1", "EndpointSlice", labels, slice).await
    }

    /// Makes an object, or brings the one an earlier start made up to date.
    async fn put_own(&self, path: &str, version: &str, kind: &str, labels: Value, content: Value) -> Result<(), OwnServiceError> {
        let mut object = content.clone();
        object["apiVersion"] = json!(version);
        object["kind"] = json!(kind);
        object["metadata"] = json!({ "name": NAME, "labels": labels });
        // First as if it were there: made anew, it would be refused the address
        // it has already.
        let own = format!("{path}/{NAME}");
        let patched = self
            .ask_self(Request::patch(own.as_str()), "application/merge-patch+json", &content)
            .await?;
        if patched.status() != StatusCode::NOT_FOUND {
            return accepted(&own, patched).await;
        }
        accepted(path, self.ask_self(Request::post(path), "application/json", &object).await?).await
    }

    async fn ask_self(&self, request: http::request::Builder, kind: &str, content: &Value) -> Result<Response<Body>, OwnServiceError> {
        let request = request.header(header::CONTENT_TYPE, kind).body(body::full(content.to_string()));
        let request = request.map_err(|error| OwnServiceError {
            path: NAME.to_owned(),
            message: error.to_string(),
        })?;
        let identity = Identity::new("system:apiserver", &["system:masters"]);
        Ok(self.handle(Some(identity), request).await)
    }
}

async fn accepted(path: &str, response: Response<Body>) -> Result<(), OwnServiceError> {
    if response.status().is_success() {
        return Ok(());
    }
    let why = body::read(response.into_body(), 1 << 16).await;
    Err(OwnServiceError {
        path: path.to_owned(),
        message: why.map_or_else(|status| status.message, |bytes| String::from_utf8_lossy(&bytes).into_owned()),
    })
}
