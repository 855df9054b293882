//! A connection that many requests share, as client-go's do: the client of
//! kube-rs speaks HTTP/1.1, where every watch takes a connection of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::Config;
use kube::client::ConfigExt;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where requests are sent; clones share the connection.
#[derive(Clone)]
pub(crate) struct Connection {
    authority: String,
    requests: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Connects as the kubeconfig's user.
    pub(crate) async fn open(kubeconfig: &Path) -> Result<Self> {
        let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
        let authority = config
            .cluster_url
            .authority()
            .context("the kubeconfig names no server")?
            .to_string();
        let host = config.cluster_url.host().context("the kubeconfig names no host")?.to_owned();
        let mut tls = config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(&authority).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(ServerName::try_from(host)?, stream)
            .await?;
        let (requests, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends with the last request; what breaks it breaks those, too.
        tokio::spawn(connection);
        Ok(Self { authority, requests })
    }

    /// The answer to a GET, as it comes.
    pub(crate) async fn get(&mut self, path: &str) -> Result<hyper::body::Incoming> {
        let request = http::Request::get(format!("https://{}{path}", self.authority)).body(Empty::new())?;
        self.requests.ready().await?;
        let response = self.requests.send_request(request).await?;
        anyhow::ensure!(response.status().is_success(), "{path} was answered {}", response.status());
        Ok(response.into_body())
    }
}
