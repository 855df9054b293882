//! How fast an API server answers, over HTTPS with a client certificate:
//!
//! ```text
//! cargo run --release -p apiserver --example serve -- DIRECTORY 127.0.0.1:PORT &
//! cargo run --release -p apiserver --example load -- DIRECTORY 127.0.0.1:PORT [SECONDS] [PHASE ...]
//! ```
//!
//! `DIRECTORY` is the server's: its authority signs this client's certificate.
//! Prints one JSON document. The load is made on the same machine, so the
//! rates are of both together. Everything is made in a namespace of its own,
//! which is left behind.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use apiserver::pki;
use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

type Failure = Box<dyn Error + Send + Sync>;

/// Objects of the list that is measured, and the bytes of each one's data.
const LISTED: usize = 500;
const OBJECT_BYTES: usize = 1_024;
/// Creates of the two phases that go one by one.
const SINGLE: usize = 300;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: load DIRECTORY ADDRESS [SECONDS] [fsync|create|creates|gets|lists|watch ...]";
    let directory = PathBuf::from(arguments.next().ok_or(usage)?);
    let address = arguments.next().ok_or(usage)?;
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let wanted: Vec<String> = arguments.collect();
    let runs = |phase: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == phase);
    let server = Arc::new(Server::new(&directory, address)?);
    let span = Duration::from_secs(seconds);

    let namespace = format!("load-{}", std::process::id());
    let mut client = server.connect().await?;
    let manifest = json!({"metadata": {"name": namespace}});
    client
        .expect(Method::POST, "/api/v1/namespaces", Some(&manifest), StatusCode::CREATED)
        .await?;
    let maps = format!("/api/v1/namespaces/{namespace}/configmaps");
    let mut report = json!({"objectBytes": OBJECT_BYTES, "seconds": seconds});
    if runs("fsync") {
        report["fsync"] = fsync(&directory)?;
    }
    if runs("create") {
        report["createOneClient"] = one_by_one(&mut client, &maps).await?;
    }
    if runs("watch") {
        report["watch"] = watch(&server, &mut client, &maps).await?;
    }
    for index in 0..LISTED {
        let name = format!("listed-{index}");
        client
            .expect(Method::POST, &maps, Some(&config_map(&name, "listed")), StatusCode::CREATED)
            .await?;
    }
    if runs("gets") {
        let path = format!("{maps}/listed-7");
        report["gets32Clients"] = rate(&server, 32, span, move |_| (Method::GET, path.clone(), None)).await?;
    }
    if runs("lists") {
        let path = format!("{maps}?labelSelector=set%3Dlisted");
        report["lists500Of1KiB4Clients"] = rate(&server, 4, span, move |_| (Method::GET, path.clone(), None)).await?;
    }
    if runs("creates") {
        let maps = maps.clone();
        let create = move |index| (Method::POST, maps.clone(), Some(config_map(&format!("created-{index}"), "created")));
        report["creates32Clients"] = rate(&server, 32, span, create).await?;
    }
    println!("{report:#}");
    Ok(())
}

fn config_map(name: &str, set: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": set}}, "data": {"text": "x".repeat(OBJECT_BYTES)}})
}

/// How to reach the server as an administrator.
struct Server {
    address: String,
    tls: TlsConnector,
}

impl Server {
    fn new(directory: &Path, address: String) -> Result<Self, Failure> {
        let now = jiff::Timestamp::now().into();
        let authority = pki::Authority::open_or_create(&directory.join("pki"), now)?;
        let own = authority.client("load", &["system:masters"], now)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes())?)?;
        let chain = vec![CertificateDer::from_pem_slice(own.certificate_pem.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes())?;
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        Ok(Self {
            address,
            tls: TlsConnector::from(Arc::new(tls)),
        })
    }

    async fn connect(&self) -> Result<Client, Failure> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                eprintln!("a connection ended: {error}");
            }
        });
        Ok(Client { sender, _tasks: tasks })
    }
}

/// One connection, one request at a time.
struct Client {
    sender: SendRequest<Full<Bytes>>,
    _tasks: JoinSet<()>,
}

impl Client {
    async fn send(&mut self, method: Method, path: &str, body: Option<&Value>) -> Result<http::Response<Incoming>, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Sends a request, reads the whole answer, and says how long it is.
    async fn expect(&mut self, method: Method, path: &str, body: Option<&Value>, code: StatusCode) -> Result<usize, Failure> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let mut text = BytesMut::new();
        let mut length = 0;
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                length += data.len();
                if status != code {
                    text.extend_from_slice(&data);
                }
            }
        }
        if status == code {
            Ok(length)
        } else {
            Err(format!("{path}: {status} {}", String::from_utf8_lossy(&text)).into())
        }
    }
}

/// The time the disk takes to make 4 KiB durable.
fn fsync(directory: &Path) -> Result<Value, Failure> {
    let path = directory.join("fsync-probe");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&[7; 4_096])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(&path)?;
    Ok(quantiles(times))
}

async fn one_by_one(client: &mut Client, maps: &str) -> Result<Value, Failure> {
    let mut times = Vec::new();
    for index in 0..SINGLE {
        let manifest = config_map(&format!("single-{index}"), "single");
        let started = Instant::now();
        client.expect(Method::POST, maps, Some(&manifest), StatusCode::CREATED).await?;
        times.push(started.elapsed());
    }
    Ok(quantiles(times))
}

/// The time from sending a create to its event, and from its answer.
async fn watch(server: &Server, client: &mut Client, maps: &str) -> Result<Value, Failure> {
    let mut watcher = server.connect().await?;
    let path = format!("{maps}?watch=1&labelSelector=set%3Dwatched");
    let response = watcher.send(Method::GET, &path, None).await?;
    if response.status() != StatusCode::OK {
        return Err(format!("{path}: {}", response.status()).into());
    }
    let (seen, mut arrivals) = tokio::sync::mpsc::channel(SINGLE);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let lines = frame
                .data_ref()
                .map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
            for _ in 0..lines {
                if seen.send(Instant::now()).await.is_err() {
                    return;
                }
            }
        }
    });
    let (mut from_request, mut from_answer) = (Vec::new(), Vec::new());
    for index in 0..SINGLE {
        let manifest = config_map(&format!("watched-{index}"), "watched");
        let started = Instant::now();
        client.expect(Method::POST, maps, Some(&manifest), StatusCode::CREATED).await?;
        let answered = Instant::now();
        let arrived = tokio::time::timeout(Duration::from_secs(10), arrivals.recv())
            .await?
            .ok_or("the watch ended")?;
        from_request.push(arrived.duration_since(started));
        from_answer.push(arrived.saturating_duration_since(answered));
    }
    Ok(json!({"fromRequest": quantiles(from_request), "fromAnswer": quantiles(from_answer)}))
}

/// Requests of many clients at a time, each on a connection of its own.
async fn rate(
    server: &Arc<Server>,
    clients: usize,
    span: Duration,
    make: impl Fn(u64) -> (Method, String, Option<Value>) + Clone + Send + Sync + 'static,
) -> Result<Value, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut running = JoinSet::new();
    let started = Instant::now();
    for _ in 0..clients {
        let (server, next, make) = (Arc::clone(server), Arc::clone(&next), make.clone());
        running.spawn(async move {
            let mut client = server.connect().await?;
            let (mut times, mut bytes) = (Vec::new(), 0);
            while started.elapsed() < span {
                let (method, path, body) = make(next.fetch_add(1, Ordering::Relaxed));
                let code = if method == Method::POST {
                    StatusCode::CREATED
                } else {
                    StatusCode::OK
                };
                let sent = Instant::now();
                bytes += client.expect(method, &path, body.as_ref(), code).await?;
                times.push(sent.elapsed());
            }
            Ok::<_, Failure>((times, bytes))
        });
    }
    let (mut times, mut bytes) = (Vec::new(), 0);
    while let Some(ended) = running.join_next().await {
        let (own_times, own_bytes) = ended??;
        times.extend(own_times);
        bytes += own_bytes;
    }
    let answer_bytes = bytes / times.len().max(1);
    #[allow(clippy::cast_precision_loss)] // a rate, for people
    let per_second = (times.len() as f64 / started.elapsed().as_secs_f64()).round();
    let mut report = quantiles(times);
    report["perSecond"] = json!(per_second);
    report["answerBytes"] = json!(answer_bytes);
    Ok(report)
}

fn quantiles(mut times: Vec<Duration>) -> Value {
    times.sort_unstable();
    let at = |hundredths: usize| times.get((times.len() * hundredths / 100).min(times.len().saturating_sub(1)));
    let micros = |time: Option<&Duration>| time.map_or(0, Duration::as_micros);
    json!({"count": times.len(), "p50_us": micros(at(50)) as u64, "p99_us": micros(at(99)) as u64})
}
