//! A real registry on a host's loopback, with images pushed from archives.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
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

    /// Pushes the first image of an OCI archive as `repository:tag`.
    ///
    /// # Errors
    /// When the archive is not of that form or the registry refuses.
    pub fn push(&self, host: &Host, archive: &Path, repository: &str, tag: &str) -> Result<()> {
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
        let (header, data) = (format!("Content-Type: {media_type}"), format!("@{}", blob(digest).display()));
        run(self.curl(host).args([
            "-sf",
            "-X",
            "PUT",
            "-H",
            &header,
            "--data-binary",
            &data,
            &self.url(&format!("{repository}/manifests/{tag}")),
        ]))?;
        let tags = run(self.curl(host).args(["-sf", &self.url(&format!("{repository}/tags/list"))]))?;
        ensure!(
            String::from_utf8_lossy(&tags.stdout).contains(tag),
            "the registry does not list {repository}:{tag}"
        );
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
