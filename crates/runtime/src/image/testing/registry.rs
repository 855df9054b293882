//! Registries to pull from: Debian's `docker-registry`, one that misbehaves on
//! demand, and a proxy that cuts connections. All on loopback, all gone with
//! the value that started them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::super::Digest;
use super::TestImage;

pub(crate) const USER: &str = "someone";
pub(crate) const PASSWORD: &str = "s3cret";
/// bcrypt of [`PASSWORD`], the only kind that registry takes.
const PASSWORD_HASH: &str = "$2b$04$iDIUJyViJbdsLkw9wcDFzuj/1UroWuaWWIg5I80bzOC4dEJKwRbWO";

/// A `docker-registry` process.
pub(crate) struct Registry {
    child: Child,
    dir: tempfile::TempDir,
    pub(crate) host: String,
    auth: RegistryAuth,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_with(false)
    }

    /// One that wants [`USER`] and [`PASSWORD`].
    pub(crate) fn start_private() -> Self {
        Self::start_with(true)
    }

    fn start_with(private: bool) -> Self {
        // The port is free when chosen, not held: another process may take it first.
        for _ in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let port = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let htpasswd = dir.path().join("htpasswd");
            fs::write(&htpasswd, format!("{USER}:{PASSWORD_HASH}\n")).unwrap();
            let mut config = serde_json::json!({
                "version": 0.1,
                "log": { "level": "error", "accesslog": { "disabled": true } },
                "storage": { "filesystem": { "rootdirectory": dir.path() } },
                "http": { "addr": format!("127.0.0.1:{port}") },
            });
            if private {
                config["auth"] = serde_json::json!({ "htpasswd": { "realm": "test", "path": htpasswd } });
            }
            let path = dir.path().join("config.yml");
            fs::write(&path, config.to_string()).unwrap();
            let mut child = Command::new("docker-registry")
                .arg("serve")
                .arg(&path)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry of Debian's package docker-registry");
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(10) && child.try_wait().unwrap().is_none() {
                if std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                    let auth = if private {
                        RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned())
                    } else {
                        RegistryAuth::Anonymous
                    };
                    return Self {
                        child,
                        dir,
                        host: format!("127.0.0.1:{port}"),
                        auth,
                    };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not listen");
    }

    fn client() -> Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: ClientProtocol::Http,
            accept_invalid_certificates: true,
            http_proxy: Some("http://127.0.0.1:9".to_owned()),
            no_proxy: Some("*,0.0.0.0/0,::/0".to_owned()),
            ..ClientConfig::default()
        };
        Client::try_from(config).unwrap()
    }

    /// Pushes an image; `name` is `repository:tag`.
    pub(crate) async fn push(&self, name: &str, image: &TestImage) {
        for blob in image.layers.iter().chain([&image.config]) {
            self.push_blob(name, blob).await;
        }
        self.push_manifest(name, &image.manifest).await;
    }

    /// A client that may push to `name`, which it also gives in full.
    async fn pusher(&self, name: &str) -> (Client, oci_client::Reference) {
        let client = Self::client();
        let reference = format!("{}/{name}", self.host).parse().unwrap();
        client
            .auth(&reference, &self.auth, oci_client::RegistryOperation::Push)
            .await
            .unwrap();
        (client, reference)
    }

    pub(crate) async fn push_blob(&self, name: &str, blob: &[u8]) {
        let (client, reference) = self.pusher(name).await;
        client
            .push_blob(&reference, blob.to_vec(), Digest::of(blob).as_str())
            .await
            .unwrap();
    }

    pub(crate) async fn push_manifest(&self, name: &str, manifest: &[u8]) {
        let (client, reference) = self.pusher(name).await;
        let media_type = serde_json::from_slice::<serde_json::Value>(manifest).unwrap()["mediaType"]
            .as_str()
            .unwrap()
            .to_owned();
        client
            .push_manifest_raw(&reference, manifest.to_vec(), media_type.parse().unwrap())
            .await
            .unwrap();
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob_file(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir
            .path()
            .join(Path::new("docker/registry/v2/blobs/sha256"))
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy before a registry, which ends its first connections early.
pub(crate) struct CuttingProxy {
    pub(crate) host: String,
    /// Requests for a part of a blob seen so far.
    pub(crate) ranges: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl CuttingProxy {
    /// Ends each of the first `cuts` connections after `bytes` of answers.
    pub(crate) async fn before(upstream: &str, cuts: usize, bytes: usize) -> Self {
        let upstream: SocketAddr = upstream.parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let ranges = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&ranges);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            for n in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let budget = if n < cuts { bytes } else { usize::MAX };
                connections.spawn(relay(client, upstream, budget, Arc::clone(&seen)));
            }
        });
        Self {
            host,
            ranges,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn relay(client: TcpStream, upstream: SocketAddr, mut budget: usize, ranges: Arc<AtomicUsize>) {
    let Ok(server) = TcpStream::connect(upstream).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..n]).to_lowercase();
            ranges.fetch_add(text.matches("range: bytes=").count(), Ordering::SeqCst);
            if to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let answers = async {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
            let pass = n.min(budget);
            if to_client.write_all(&buffer[..pass]).await.is_err() || pass < n {
                return;
            }
            budget -= pass;
        }
    };
    tokio::select! { () = requests => {}, () = answers => {} }
}

/// What a scripted registry answers.
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self {
            status: "200 OK",
            headers: Vec::new(),
            body: body.to_vec(),
        }
    }

    pub(crate) fn status(status: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }
}

/// A registry whose every answer a test decides. `None` never answers.
pub(crate) struct Scripted {
    pub(crate) host: String,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    /// `script` gets its own host, the path with its query, and the whole head of the request.
    pub(crate) async fn start(script: impl Fn(&str, &str, &str) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (script, own) = (Arc::new(script), host.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let (script, own) = (Arc::clone(&script), own.clone());
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let Ok(byte) = client.read_u8().await else { return };
                        head.push(byte);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default();
                    let Some(answer) = script(&own, path, &head) else {
                        return std::future::pending().await;
                    };
                    let mut text = format!(
                        "HTTP/1.1 {}\r\nconnection: close\r\ncontent-length: {}\r\n",
                        answer.status,
                        answer.body.len()
                    );
                    for (name, value) in &answer.headers {
                        text.push_str(&format!("{name}: {value}\r\n"));
                    }
                    text.push_str("\r\n");
                    let _ = client.write_all(text.as_bytes()).await;
                    let _ = client.write_all(&answer.body).await;
                    let _ = client.shutdown().await;
                });
            }
        });
        Self {
            host,
            _task: AbortOnDropHandle::new(task),
        }
    }
}
