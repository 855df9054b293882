//! Archives and images made for tests.

pub(crate) mod registry;

use std::io::Write;
use std::path::Path;

use super::reference::Digest;

/// Makes a layer's archive, owned by whoever runs the test unless said otherwise.
pub(crate) struct Tar {
    builder: tar::Builder<Vec<u8>>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
        }
    }

    pub(crate) fn header(kind: tar::EntryType, mode: u32, size: usize) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_600_000_000);
        header.set_size(size as u64);
        header
    }

    /// Appends an entry with any path, however bad.
    pub(crate) fn raw(mut self, mut header: tar::Header, path: &str, link: &str, content: &[u8]) -> Self {
        let old = header.as_old_mut();
        old.name[..path.len()].copy_from_slice(path.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    pub(crate) fn directory(self, path: &str, mode: u32) -> Self {
        self.raw(Self::header(tar::EntryType::Directory, mode, 0), path, "", b"")
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.raw(
            Self::header(tar::EntryType::Regular, 0o644, content.len()),
            path,
            "",
            content.as_bytes(),
        )
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(Self::header(tar::EntryType::Symlink, 0o777, 0), path, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(Self::header(tar::EntryType::Link, 0o644, 0), path, target, b"")
    }

    /// Puts extension records before the next entry.
    pub(crate) fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image's documents and blobs.
pub(crate) struct TestImage {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    /// Compressed.
    pub(crate) layers: Vec<Vec<u8>>,
    /// Archives inside.
    pub(crate) plain: Vec<Vec<u8>>,
}

impl TestImage {
    /// An image for this machine.
    pub(crate) fn new(plain: Vec<Vec<u8>>) -> Self {
        Self::of_architecture(plain, &super::Platform::host().architecture)
    }

    pub(crate) fn of_architecture(plain: Vec<Vec<u8>>, architecture: &str) -> Self {
        let layers: Vec<Vec<u8>> = plain
            .iter()
            .enumerate()
            .map(|(n, layer)| {
                if n % 2 == 0 {
                    gzip(layer)
                } else {
                    zstd::encode_all(layer.as_slice(), 1).unwrap()
                }
            })
            .collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": { "Cmd": ["sh"], "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": plain.iter().map(|layer| Digest::of(layer)).collect::<Vec<_>>() },
        })
        .to_string()
        .into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)).collect::<Vec<_>>(),
        })
        .to_string()
        .into_bytes();
        Self {
            config,
            manifest,
            layers,
            plain,
        }
    }

    pub(crate) fn id(&self) -> String {
        Digest::of(&self.config).to_string()
    }

    /// An OCI archive with this image under `name`.
    pub(crate) fn oci_archive(&self, name: &str) -> Vec<u8> {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest);
        entry["annotations"] = serde_json::json!({ "io.containerd.image.name": name });
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        let mut tar = Tar::new()
            .file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", &index);
        for blob in self.layers.iter().chain([&self.config, &self.manifest]) {
            let path = format!("blobs/sha256/{}", Digest::of(blob).hex());
            tar = tar.raw(Tar::header(tar::EntryType::Regular, 0o644, blob.len()), &path, "", blob);
        }
        tar.finish()
    }

    /// What `docker save` writes.
    pub(crate) fn docker_archive(&self, names: &[&str]) -> Vec<u8> {
        let paths: Vec<String> = (0..self.plain.len()).map(|n| format!("layer{n}/layer.tar")).collect();
        let manifest = serde_json::json!([{ "Config": "config.json", "RepoTags": names, "Layers": paths }]).to_string();
        let config = String::from_utf8(self.config.clone()).unwrap();
        let mut tar = Tar::new().file("config.json", &config).file("manifest.json", &manifest);
        for (path, layer) in paths.iter().zip(&self.plain) {
            tar = tar.raw(Tar::header(tar::EntryType::Regular, 0o644, layer.len()), path, "", layer);
        }
        tar.finish()
    }
}

pub(crate) fn descriptor(media_type: &str, blob: &[u8]) -> serde_json::Value {
    serde_json::json!({ "mediaType": media_type, "digest": Digest::of(blob), "size": blob.len() })
}

/// Every path below `root`, sorted.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, out: &mut Vec<String>) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            out.push(path.strip_prefix(root).unwrap().display().to_string());
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                walk(root, &path, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(root, root, &mut out);
    out.sort();
    out
}
