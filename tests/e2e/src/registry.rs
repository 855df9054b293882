//! A real registry on a host's loopback, with images pushed from archives.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::thread::LinkNameSpaceType;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{Host, run};
use crate::wait;

/// Debian's `docker-registry`, ended when dropped.
#[derive(Debug)]
pub struct Registry {
    address: SocketAddr,
    /// `user:password` of who may use it; anybody where there is none.
    credentials: Option<String>,
    dir: TempDir,
    child: Child,
}

impl Registry {
    /// Starts a registry and waits until it answers.
    ///
    /// # Errors
    /// When the program is missing or does not answer.
    pub fn start(host: &Host, address: &str) -> Result<Self> {
        Self::start_for(host, address, None)
    }

    /// The same, for one user alone: `user:password` and its `htpasswd` line.
    ///
    /// # Errors
    /// When the program is missing or does not answer.
    pub fn start_for(host: &Host, address: &str, user: Option<(&str, &str)>) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let dir = tempfile::Builder::new().prefix("registry-").tempdir()?;
        let mut auth = String::new();
        if let Some((_, line)) = user {
            let file = dir.path().join("htpasswd");
            fs::write(&file, format!("{line}\n"))?;
            auth = format!("auth: {{htpasswd: {{realm: test, path: '{}'}}}}\n", file.display());
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{}'}}}}\nhttp: {{addr: '{address}'}}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config + &auth)?;
        let mut command = host.command("docker-registry");
        command
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().context("cannot start docker-registry")?;
        let registry = Self {
            address,
            credentials: user.map(|(credentials, _)| credentials.to_owned()),
            dir,
            child,
        };
        wait::until("the registry to answer", Duration::from_secs(20), || {
            let asked = registry.curl(host).args(["-sf", "--max-time", "5", &registry.url("")]).output()?;
            Ok(if asked.status.success() {
                Ok(())
            } else {
                Err(format!("curl: {}", asked.status))
            })
        })?;
        Ok(registry)
    }

    fn curl(&self, host: &Host) -> Command {
        let mut command = host.command("curl");
        if let Some(credentials) = &self.credentials {
            command.args(["-u", credentials]);
        }
        command
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/v2/{path}", self.address)
    }

    /// Pushes the first image of an OCI archive as `repository:tag`; gives the
    /// descriptor of its manifest.
    ///
    /// # Errors
    /// When the archive is not of that form or the registry refuses.
    pub fn push(&self, host: &Host, archive: &Path, repository: &str, tag: &str) -> Result<Value> {
        let layout = tempfile::tempdir_in(self.dir.path())?;
        run(std::process::Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(layout.path()))?;
        let blob = |digest: &str| layout.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        let index: Value = serde_json::from_slice(&fs::read(layout.path().join("index.json")).context("the archive has no index.json")?)?;
        let digest = index["manifests"][0]["digest"].as_str().context("the index names no manifest")?;
        let manifest: Value = serde_json::from_slice(&fs::read(blob(digest))?)?;
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for part in layers.chain([&manifest["config"]]) {
            let digest = part["digest"].as_str().context("a blob without a digest")?;
            let begun = run(self
                .curl(host)
                .args(["-sf", "-i", "-X", "POST", &self.url(&format!("{repository}/blobs/uploads/"))]))?;
            let answer = String::from_utf8_lossy(&begun.stdout).into_owned();
            let location = answer
                .lines()
                .find_map(|line| line.strip_prefix("Location: "))
                .context("the registry gave no upload location")?
                .trim();
            let target = format!("{location}{}digest={digest}", if location.contains('?') { "&" } else { "?" });
            let data = format!("@{}", blob(digest).display());
            run(self.curl(host).args([
                "-sf",
                "-X",
                "PUT",
                "-H",
                "Content-Type: application/octet-stream",
                "--data-binary",
                &data,
                &target,
            ]))?;
        }
        let media_type = index["manifests"][0]["mediaType"]
            .as_str()
            .unwrap_or("application/vnd.oci.image.manifest.v1+json");
        self.put_manifest(host, media_type, &blob(digest), repository, tag)?;
        let tags = run(self.curl(host).args(["-sf", &self.url(&format!("{repository}/tags/list"))]))?;
        ensure!(
            String::from_utf8_lossy(&tags.stdout).contains(tag),
            "the registry does not list {repository}:{tag}"
        );
        Ok(json!({ "mediaType": media_type, "digest": digest, "size": fs::metadata(blob(digest))?.len() }))
    }

    fn put_manifest(&self, host: &Host, media_type: &str, file: &Path, repository: &str, tag: &str) -> Result<()> {
        let (header, data) = (format!("Content-Type: {media_type}"), format!("@{}", file.display()));
        let url = self.url(&format!("{repository}/manifests/{tag}"));
        run(self
            .curl(host)
            .args(["-sf", "-X", "PUT", "-H", &header, "--data-binary", &data, &url]))?;
        Ok(())
    }

    /// Pushes an index of manifests that are in the repository; each descriptor
    /// says of what platform it is.
    ///
    /// # Errors
    /// When the registry refuses.
    pub fn push_index(&self, host: &Host, manifests: &[Value], repository: &str, tag: &str) -> Result<()> {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        let file = self.dir.path().join("index.json");
        fs::write(&file, index.to_string())?;
        self.put_manifest(host, media_type, &file, repository, tag)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A slow way to a registry: what comes through it comes at a rate. Ended when
/// dropped.
#[derive(Debug)]
pub struct SlowLine {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SlowLine {
    /// Takes connections at `listen` on `host` and passes them on to `registry`.
    ///
    /// # Errors
    /// When the address cannot be listened at.
    pub fn start(host: &Host, listen: &str, registry: &Registry, bytes_per_s: u64) -> Result<Self> {
        let (listen, to): (SocketAddr, SocketAddr) = (listen.parse()?, registry.address);
        let namespace = fs::File::open(Path::new("/run/netns").join(host.name()))?;
        let ended = Arc::new(AtomicBool::new(false));
        let (told, begun) = mpsc::channel();
        let is_over = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let entered = rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let listener = entered.map_err(io::Error::from).and_then(|()| TcpListener::bind(listen));
            let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
            let listener = match listener {
                Ok(listener) => {
                    let _ = told.send(Ok(()));
                    listener
                }
                Err(error) => {
                    let _ = told.send(Err(error));
                    return;
                }
            };
            let turn = Arc::new(Mutex::new(()));
            while !is_over.load(Ordering::Relaxed) {
                match listener.accept() {
                    // Its two threads end with their connection.
                    Ok((client, _)) => {
                        if let Err(error) = pass_on(client, to, Arc::clone(&turn), bytes_per_s) {
                            eprintln!("the slow line to {to}: {error}");
                        }
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        });
        begun.recv().context("the slow line did not begin")??;
        Ok(Self {
            ended,
            thread: Some(thread),
        })
    }
}

impl Drop for SlowLine {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pass_on(client: TcpStream, to: SocketAddr, turn: Arc<Mutex<()>>, bytes_per_s: u64) -> io::Result<()> {
    client.set_nonblocking(false)?;
    let server = TcpStream::connect(to)?;
    let (mut asks, mut asked) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut asks, &mut asked);
        let _ = asked.shutdown(std::net::Shutdown::Write);
    });
    std::thread::spawn(move || {
        let (mut from, mut into) = (server, client);
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read) = from.read(&mut buffer) {
            if read == 0 || into.write_all(&buffer[..read]).is_err() {
                break;
            }
            // One at a time: the line has a rate, not each connection.
            let _turn = turn.lock();
            std::thread::sleep(Duration::from_micros(read as u64 * 1_000_000 / bytes_per_s));
        }
        let _ = into.shutdown(std::net::Shutdown::Both);
    });
    Ok(())
}
