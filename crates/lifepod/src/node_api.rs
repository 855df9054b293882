//! The node API on a port of its own: who may ask is what the API server says.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use apiserver::authn::Identity;
use apiserver::body::{Body, full};
use apiserver::request::{ResourceRequest, Verb};
use apiserver::serve::Answer;
use apiserver::server::ApiServer;
use http::{Method, Request, Response, StatusCode, header};
use kubelet::NodeApi;
use kubelet::server::access;
use tokio::net::TcpListener;

/// Listens where the node object will say that the node API is.
pub(crate) async fn listen(ip: std::net::IpAddr, port: u16) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind((ip, port)).await.with_context(|| {
        format!("cannot listen on {ip}:{port} for the node API; choose another port with --kubelet-port, or another address with --node-ip")
    })?;
    let listening = listener.local_addr().context("the node API's socket has no address")?;
    Ok((listener, listening))
}

/// Answers for the node whom the API server lets ask.
#[derive(Clone)]
pub(crate) struct NodeFront {
    pub(crate) node: String,
    pub(crate) node_api: NodeApi,
    pub(crate) api: ApiServer,
}

impl NodeFront {
    /// Why not, or `None`. Source of the text: upstream kubelet,
    /// `InstallAuthFilter`.
    fn refusal(&self, identity: &Identity, method: &Method, path: &str) -> Option<String> {
        let verb = match access::verb(method) {
            "create" => Verb::Create,
            "update" => Verb::Update,
            "patch" => Verb::Patch,
            "delete" => Verb::Delete,
            _ => Verb::Get,
        };
        let subresources = access::subresources(path);
        let may = subresources.iter().any(|subresource| {
            let asked = ResourceRequest {
                group: String::new(),
                version: "v1".to_owned(),
                resource: "nodes".to_owned(),
                namespace: String::new(),
                name: self.node.clone(),
                subresource: (*subresource).to_owned(),
                verb,
                fields: Default::default(),
            };
            self.api.allows(identity, &asked).is_ok()
        });
        (!may).then(|| {
            format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
                identity.user,
                verb.name(),
                subresources.join(" ")
            )
        })
    }
}

fn said(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl Answer for NodeFront {
    async fn answer(&self, identity: Option<Identity>, request: Request<Body>) -> Response<Body> {
        let identity = match identity {
            None => self.api.bearer(request.headers().get(header::AUTHORIZATION)).await,
            of_certificate => of_certificate,
        };
        let Some(identity) = identity else {
            return said(StatusCode::UNAUTHORIZED, "Unauthorized\n");
        };
        if let Some(refusal) = self.refusal(&identity, request.method(), request.uri().path()) {
            return said(StatusCode::FORBIDDEN, &refusal);
        }
        self.node_api.handle(request).await
    }
}
