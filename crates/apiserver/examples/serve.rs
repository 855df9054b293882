//! An API server alone, on loopback, for trying clients by hand:
//!
//! ```text
//! cargo run -p apiserver --example serve -- DIRECTORY [ADDRESS]
//! kubectl --kubeconfig DIRECTORY/admin.kubeconfig get namespaces
//! ```
//!
//! There are no nodes: pods stay pending, and logs answer 503.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use api::{Status, Time};
use apiserver::serve::{ConnectionLimits, serve};
use apiserver::{ApiServer, Body, Config, Limits, NodeAddress, NodeProxy, Ranges, Version, kinds, pki, tokens};
use store::Store;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

struct NoNodes;

#[async_trait::async_trait]
impl NodeProxy for NoNodes {
    async fn call(&self, node: &NodeAddress, _request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        Err(Status::unavailable(format!(
            "there is no node {}: this is an API server alone",
            node.node
        )))
    }
}

fn now() -> Time {
    jiff::Timestamp::now().into()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve DIRECTORY [ADDRESS]")?);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".to_owned());

    std::fs::create_dir_all(&directory)?;
    let store = Arc::new(store::Embedded::open(&directory.join("store"), store::Options::default())?);
    let config = Config {
        store: Arc::clone(&store) as Arc<dyn Store>,
        rows: kinds::rows(),
        nodes: Arc::new(NoNodes),
        tokens: Arc::new(tokens::Tokens::new(
            tokens::DEFAULT_ISSUER,
            "",
            tokens::key::SigningKey::ephemeral()?,
        )),
        audit: None,
        limits: Limits::default(),
        ranges: Ranges::default(),
        baseline_namespaces: false,
        version: Version::default(),
        clock: Arc::new(now),
    };
    let server = ApiServer::start(config).await?;

    let authority = pki::Authority::open_or_create(&directory.join("pki"), now())?;
    let serving = authority.serving("apiserver", &["127.0.0.1".to_owned(), "localhost".to_owned()], now())?;
    let admin = authority.client("admin", &["system:masters"], now())?;
    let listener = TcpListener::bind(&address).await?;
    let url = format!("https://{}", listener.local_addr()?);
    let kubeconfig = directory.join("admin.kubeconfig");
    pki::write_file(
        &kubeconfig,
        pki::kubeconfig(&url, authority.certificate_pem(), "admin", &admin).as_bytes(),
        0o600,
    )?;
    println!("serving {url}, kubeconfig {}", kubeconfig.display());

    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    let interrupted = async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    };
    tokio::join!(
        serve(
            listener,
            authority.tls(&serving)?,
            server.clone(),
            ConnectionLimits::default(),
            shutdown
        ),
        interrupted
    );
    server.close().await;
    store.close().await?;
    Ok(())
}
