//! The way to the API of a node: its address, from the Node object, and HTTPS
//! to it, authenticated both ways.
//!
//! Source: upstream `pkg/kubelet/client/kubelet_client.go`,
//! `NodeConnectionInfoGetter`.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use http::{Request, Response, header};
use rustls::ClientConfig;
use serde_json::Value;

use crate::body::Body;
use crate::pki::{Authority, KeyedCertificate, PkiError};
use crate::server::{Core, NodeProxy};
use crate::subresources::proxy::dial;

/// Which address of a node is used: the first kind it has. Source: kubeadm,
/// `kubelet-preferred-address-types`.
const PREFERRED: [&str; 3] = ["InternalIP", "ExternalIP", "Hostname"];
/// Where a kubelet listens that does not say.
const KUBELET_PORT: u16 = 10_250;

/// Where the API of a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Name of the node.
    pub node: String,
    /// Host and port; `None` for a node that tells no address or is not known.
    pub at: Option<(String, u16)>,
}

impl NodeAddress {
    fn of(node: &str, object: Option<&Object>) -> Self {
        let addresses = object.and_then(|object| object.at("status.addresses")).and_then(Value::as_array);
        let of_kind = |kind: &str| {
            let mut all = addresses.into_iter().flatten().filter(|address| address["type"] == kind);
            all.find_map(|address| address["address"].as_str()).filter(|host| !host.is_empty())
        };
        let host = PREFERRED.into_iter().find_map(of_kind);
        let port = object
            .and_then(|object| object.at("status.daemonEndpoints.kubeletEndpoint.Port"))
            .and_then(Value::as_u64)
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port != 0);
        Self {
            node: node.to_owned(),
            at: host.map(|host| (host.to_owned(), port.unwrap_or(KUBELET_PORT))),
        }
    }
}

impl Core {
    /// Sends a request to the API of a node.
    pub(crate) async fn ask_node(&self, node: &str, request: Request<Body>) -> Result<Response<Body>, Status> {
        let object = match self.row("", "v1", "nodes") {
            Some(row) => self.current(&row, &row.key("", node)).await?,
            None => None,
        };
        let address = NodeAddress::of(node, object.as_ref().map(|current| current.object.as_ref()));
        self.nodes.call(&address, request).await
    }
}

/// Kubelets over HTTPS.
pub struct Kubelets {
    tls: Arc<ClientConfig>,
}

impl Kubelets {
    /// Trusts servers of `authority`, and shows them `client`.
    ///
    /// # Errors
    /// When TLS refuses the certificates.
    pub fn new(authority: &Authority, client: &KeyedCertificate) -> Result<Self, PkiError> {
        Ok(Self {
            tls: authority.client_tls(client)?,
        })
    }
}

#[async_trait]
impl NodeProxy for Kubelets {
    async fn call(&self, node: &NodeAddress, mut request: Request<Body>) -> Result<Response<Body>, Status> {
        let Some((host, port)) = &node.at else {
            return Err(Status::internal(&format!(
                "no preferred addresses found for node {:?}; known addresses: []",
                node.node
            )));
        };
        if let Ok(value) = header::HeaderValue::from_str(&format!("{host}:{port}")) {
            request.headers_mut().insert(header::HOST, value);
        }
        dial::exchange_with(Arc::clone(&self.tls), host, *port, request)
            .await
            .map_err(|error| Status::internal(&format!("error dialing backend: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(status: &Value) -> Object {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "status": status})).unwrap()
    }

    #[test]
    fn a_node_is_reached_where_it_says() {
        let of = |status: Value| NodeAddress::of("n", Some(&object(&status))).at;
        assert_eq!(of(json!({})), None);
        let address = |kind: &str, address: &str| json!({"type": kind, "address": address});
        assert_eq!(
            of(json!({"addresses": [address("Hostname", "n.example"), address("InternalIP", "10.0.0.7")]})),
            Some(("10.0.0.7".to_owned(), 10_250))
        );
        assert_eq!(
            of(json!({"addresses": [address("Hostname", "n.example")], "daemonEndpoints": {"kubeletEndpoint": {"Port": 7}}})),
            Some(("n.example".to_owned(), 7))
        );
        assert_eq!(NodeAddress::of("n", None).at, None);
    }
}
