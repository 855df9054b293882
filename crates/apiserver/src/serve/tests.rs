use std::sync::Arc;

use http::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use super::*;
use crate::body;
use crate::pki::{Authority, KeyedCertificate, provider};
use crate::testing::Rig;

mod hostile;

struct Front {
    rig: Rig,
    authority: Authority,
    address: SocketAddr,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

fn now() -> api::Time {
    jiff::Timestamp::now().into()
}

async fn front() -> Front {
    front_with(Rig::new().await, ConnectionLimits::default()).await
}

async fn front_with(rig: Rig, limits: ConnectionLimits) -> Front {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(directory.path(), now()).unwrap();
    let serving = authority.serving("apiserver", &["127.0.0.1".to_owned()], now()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(
        listener,
        authority.tls(&serving).unwrap(),
        rig.server.clone(),
        limits,
        shutdown.clone(),
    ));
    Front {
        rig,
        authority,
        address,
        shutdown,
        tasks,
        _directory: directory,
    }
}

impl Front {
    async fn connect(&self, client: Option<&KeyedCertificate>, protocol: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.authority.certificate_pem().as_bytes()).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let certificate = CertificateDer::from_pem_slice(client.certificate_pem.as_bytes()).unwrap();
                config
                    .with_client_auth_cert(vec![certificate], PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes()).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from("127.0.0.1").unwrap(), stream)
            .await
            .unwrap()
    }

    async fn http2(&mut self, client: Option<&KeyedCertificate>) -> hyper::client::conn::http2::SendRequest<Body> {
        let stream = self.connect(client, b"h2").await;
        let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        sender
    }

    async fn end(mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(20), async { while self.tasks.join_next().await.is_some() {} })
            .await
            .expect("the front ends in time");
    }
}

fn get(path: &str) -> Request<Body> {
    Request::get(format!("https://127.0.0.1{path}")).body(body::empty()).unwrap()
}

async fn text(response: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn http2_clients_are_who_their_certificate_says() {
    let mut front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    let stranger = front.authority.client("x", &[], now()).unwrap();
    for (client, code) in [(Some(&admin), 200), (Some(&stranger), 403), (None, 401)] {
        let mut sender = front.http2(client).await;
        assert_eq!(
            sender.send_request(get("/api/v1/namespaces/default/pods")).await.unwrap().status(),
            code
        );
        assert_eq!(text(sender.send_request(get("/readyz")).await.unwrap()).await, "ok");
    }
    front.end().await;
}

#[tokio::test]
async fn http1_works_too() {
    let mut front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    let stream = front.connect(Some(&admin), b"http/1.1").await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    front.tasks.spawn(async move {
        let _ = connection.await;
    });
    let request = Request::get("/api/v1/namespaces")
        .header("host", "127.0.0.1")
        .body(body::empty())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(text(response).await.contains("kube-system"));
    front.end().await;
}

#[tokio::test]
async fn a_watch_streams_and_ends_with_the_front() {
    let mut front = front().await;
    let admin = front.authority.client("admin", &["system:masters"], now()).unwrap();
    let mut sender = front.http2(Some(&admin)).await;
    let mut watching = sender
        .send_request(get("/api/v1/namespaces/default/configmaps?watch=true"))
        .await
        .unwrap()
        .into_body();
    front.rig.config_map("a", &serde_json::json!({})).await;
    let frame = watching.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(frame.starts_with(b"{\"type\":\"ADDED\""), "{frame:?}");
    front.shutdown.cancel();
    while let Some(frame) = watching.frame().await {
        frame.expect("the stream ends in order");
    }
    front.end().await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let mut front = front().await;
    let directory = tempfile::tempdir().unwrap();
    let other = Authority::open_or_create(directory.path(), now())
        .unwrap()
        .client("admin", &["system:masters"], now())
        .unwrap();
    let stream = front.connect(Some(&other), b"h2").await;
    // TLS 1.3: the client learns of it with the first answer.
    let refused = match hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await {
        Err(_) => true,
        Ok((mut sender, connection)) => {
            front.tasks.spawn(async move {
                let _ = connection.await;
            });
            sender.send_request(get("/readyz")).await.is_err()
        }
    };
    assert!(refused);
    front.end().await;
}
