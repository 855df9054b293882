//! The API server behind TLS, with a record of what it was asked.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use api::{Status, Time};
use apiserver::body::BodyError;
use apiserver::{ApiServer, Body, Config, Identity, Limits, NodeProxy, Ranges, Version, kinds, pki, tokens};
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use store::Store;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

struct NoNodes;

#[async_trait::async_trait]
impl NodeProxy for NoNodes {
    async fn call(&self, node: &apiserver::NodeAddress, _request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        Err(Status::unavailable(format!(
            "there is no node {}: this is an API server alone",
            node.node
        )))
    }
}

/// An API server of its own, gone when dropped.
pub struct Server {
    directory: TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    runtime: Option<tokio::runtime::Runtime>,
    api: ApiServer,
    kubeconfig: PathBuf,
}

fn now() -> Time {
    jiff::Timestamp::now().into()
}

impl Server {
    /// Starts a server. Its threads are its own, so that a client may block.
    ///
    /// # Errors
    /// When there is no port, or the store cannot be opened.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir().context("a directory for the server")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("the server's threads")?;
        let asked = Arc::default();
        // On a thread of its own: the caller may be a task of another runtime.
        let opened = std::thread::scope(|scope| scope.spawn(|| runtime.block_on(open(directory.path(), Arc::clone(&asked)))).join());
        let (kubeconfig, api) = opened.map_err(|_| anyhow::anyhow!("starting the server panicked"))??;
        Ok(Self {
            directory,
            asked,
            runtime: Some(runtime),
            api,
            kubeconfig,
        })
    }

    /// An administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A place for files, gone with the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Serves another row, while clients ask.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn add(&self, row: apiserver::registry::Resource) -> Result<()> {
        Ok(self.threads()?.block_on(self.api.add(row))?)
    }

    /// Serves a row no longer; false when it was not served.
    ///
    /// # Errors
    /// When the server is being dropped.
    pub fn remove(&self, group: &str, version: &str, plural: &str) -> Result<bool> {
        Ok(self.threads()?.block_on(self.api.remove(group, version, plural)))
    }

    /// Empties namespaces and collects garbage, as long as the server is there.
    ///
    /// # Errors
    /// When the server is being dropped.
    pub fn collect(&self) -> Result<()> {
        let client = |controller: &str| {
            let (server, identity) = (self.api.clone(), client::Identity::controller(controller));
            let groups: Vec<&str> = identity.groups.iter().map(String::as_str).collect();
            let identity = Identity::new(&identity.user, &groups);
            client::in_process(move |request: http::Request<kube::client::Body>| {
                let (server, identity) = (server.clone(), identity.clone());
                async move {
                    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                    server.handle(Some(identity), request).await
                }
            })
        };
        // They end with the server's threads.
        let threads = self.threads()?;
        let _entered = threads.enter();
        let (namespaces, garbage) = (client("namespace-controller"), client("generic-garbage-collector"));
        threads.spawn(control::namespace::run(namespaces, CancellationToken::new()));
        threads.spawn(control::garbage::run(garbage, CancellationToken::new()));
        Ok(())
    }

    fn threads(&self) -> Result<&tokio::runtime::Runtime> {
        self.runtime.as_ref().context("the server's threads are gone")
    }

    /// What was asked since the last call: method, path and answer, one line
    /// each.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn open(directory: &Path, asked: Arc<Mutex<Vec<String>>>) -> Result<(PathBuf, ApiServer)> {
    let store = store::Embedded::open(&directory.join("store"), store::Options::default()).context("the store")?;
    let key = tokens::key::SigningKey::ephemeral().context("a key for tokens")?;
    let config = Config {
        store: Arc::new(store) as Arc<dyn Store>,
        rows: kinds::rows(),
        nodes: Arc::new(NoNodes),
        tokens: Arc::new(tokens::Tokens::new(tokens::DEFAULT_ISSUER, "", key)),
        audit: None,
        limits: Limits::default(),
        ranges: Ranges::default(),
        baseline_namespaces: false,
        version: Version::default(),
        clock: Arc::new(now),
    };
    let server = ApiServer::start(config).await.context("starting the API server")?;
    // What the controller for ServiceAccounts does in every namespace: without
    // it no pod is admitted.
    let account = http::Request::post("/api/v1/namespaces/default/serviceaccounts")
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(apiserver::body::full(r#"{"metadata":{"name":"default"}}"#))?;
    let made = server.handle(Some(Identity::new("admin", &["system:masters"])), account).await;
    ensure!(
        made.status() == http::StatusCode::CREATED,
        "making a ServiceAccount: {}",
        made.status()
    );
    let authority = pki::Authority::open_or_create(&directory.join("pki"), now())?;
    let serving = authority.serving("apiserver", &["127.0.0.1".to_owned(), "localhost".to_owned()], now())?;
    let admin = authority.client("admin", &["system:masters"], now())?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("a port on loopback")?;
    let url = format!("https://{}", listener.local_addr()?);
    let kubeconfig = directory.join("admin.kubeconfig");
    let text = pki::kubeconfig(&url, authority.certificate_pem(), "admin", &admin);
    pki::write_file(&kubeconfig, text.as_bytes(), 0o600)?;
    let acceptor = TlsAcceptor::from(authority.tls(&serving)?);
    tokio::spawn(accept(listener, acceptor, server.clone(), asked));
    Ok((kubeconfig, server))
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, server: ApiServer, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, server, asked) = (acceptor.clone(), server.clone(), Arc::clone(&asked));
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(stream).await else { return };
            let certificates = tls.get_ref().1.peer_certificates();
            let identity = certificates
                .and_then(|chain| chain.first())
                .and_then(|leaf| apiserver::authn::from_certificate(leaf).ok());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                answer(server.clone(), identity.clone(), Arc::clone(&asked), request)
            });
            // Whoever hangs up ends the connection; that is no failure.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(tls), service)
                .await;
        });
    }
}

async fn answer(
    server: ApiServer,
    identity: Option<Identity>,
    asked: Arc<Mutex<Vec<String>>>,
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<Body>, Infallible> {
    let line = format!(
        "{} {}{}",
        request.method(),
        request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        match request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
        {
            Some(kind) if request.method() == http::Method::PATCH => format!(" ({kind})"),
            _ => String::new(),
        }
    );
    let response = server
        .handle(identity, request.map(|body| body.map_err(BodyError::from).boxed_unsync()))
        .await;
    let line = format!("{line} -> {}", response.status().as_u16());
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    Ok(response)
}
