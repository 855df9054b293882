//! Writes OCI image archives, byte for byte the same for the same content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Every file's time: the week nginx 1.17.1 was released.
const MTIME_S: u64 = 1_561_420_800;
const CREATED: &str = "2019-06-25T00:00:00Z";

/// One entry of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    owner: u32,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Node {
    pub(super) fn directory(mode: u32) -> Self {
        Self {
            owner: 0,
            kind: Kind::Directory { mode },
        }
    }

    pub(super) fn file(mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self {
            owner: 0,
            kind: Kind::File {
                mode,
                content: content.into(),
            },
        }
    }

    pub(super) fn link(target: &str) -> Self {
        Self {
            owner: 0,
            kind: Kind::Link { target: target.to_owned() },
        }
    }

    /// The same, owned by a user and the group of that number.
    pub(super) fn owned(self, owner: u32) -> Self {
        Self { owner, ..self }
    }
}

/// A file system by relative paths. Sorted, so a directory precedes its content.
#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    pub(super) fn add(&mut self, path: &str, node: Node) {
        self.nodes.insert(path.to_owned(), node);
    }

    pub(super) fn has(&self, path: &str) -> bool {
        self.nodes.contains_key(path)
    }

    /// The tree as a compressed layer.
    pub(super) fn to_layer(&self) -> Result<Layer> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, node) in &self.nodes {
            let mut header = tar::Header::new_ustar();
            header.set_mtime(MTIME_S);
            header.set_uid(node.owner.into());
            header.set_gid(node.owner.into());
            let written = match &node.kind {
                Kind::Directory { mode } => {
                    header.set_entry_type(tar::EntryType::Directory);
                    header.set_mode(*mode);
                    header.set_size(0);
                    builder.append_data(&mut header, format!("{path}/"), std::io::empty())
                }
                Kind::File { mode, content } => {
                    header.set_entry_type(tar::EntryType::Regular);
                    header.set_mode(*mode);
                    header.set_size(content.len() as u64);
                    builder.append_data(&mut header, path, content.as_slice())
                }
                Kind::Link { target } => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    builder.append_link(&mut header, path, target)
                }
            };
            written.with_context(|| format!("adding {path} to a layer"))?;
        }
        let plain = builder.into_inner().context("finishing a layer")?;
        let diff_id = digest(&plain);
        // The default header carries no time and no name.
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        gzip.write_all(&plain).context("compressing a layer")?;
        Ok(Layer {
            diff_id,
            blob: gzip.finish().context("compressing a layer")?,
        })
    }
}

/// A compressed layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    /// Digest of the archive inside.
    diff_id: String,
    blob: Vec<u8>,
}

/// An image to write.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) name: &'a str,
    pub(super) architecture: &'a str,
    pub(super) layers: Vec<Layer>,
    pub(super) config: Value,
}

impl Image<'_> {
    /// Writes the image as an OCI archive, as a whole or not at all, and
    /// returns the digest of its manifest.
    pub(super) fn write(&self, path: &Path) -> Result<String> {
        let config = encode(&json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": CREATED,
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.layers.iter().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
            "history": self.layers.iter().map(|_| json!({ "created": CREATED, "created_by": "cargo xtask images" })).collect::<Vec<_>>(),
        }))?;
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.blob))
            .collect();
        let manifest = encode(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        }))?;
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["platform"] = json!({ "os": "linux", "architecture": self.architecture });
        let tag = self.name.rsplit(':').next().unwrap_or(self.name);
        entry["annotations"] = json!({ "io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag });
        let index = encode(&json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry] }))?;

        let mut files: BTreeMap<String, &[u8]> = BTreeMap::new();
        let layout = encode(&json!({ "imageLayoutVersion": "1.0.0" }))?;
        files.insert("oci-layout".to_owned(), &layout);
        files.insert("index.json".to_owned(), &index);
        for blob in self
            .layers
            .iter()
            .map(|layer| layer.blob.as_slice())
            .chain([config.as_slice(), manifest.as_slice()])
        {
            files.insert(format!("blobs/sha256/{}", hex(blob)), blob);
        }
        let partial = path.with_extension("partial");
        write_archive(&partial, &files).with_context(|| format!("writing {}", partial.display()))?;
        fs::rename(&partial, path).with_context(|| format!("renaming {} to {}", partial.display(), path.display()))?;
        Ok(digest(&manifest))
    }
}

fn write_archive(path: &Path, files: &BTreeMap<String, &[u8]>) -> Result<()> {
    let mut builder = tar::Builder::new(BufWriter::new(File::create(path)?));
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(MTIME_S);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, name, *content)?;
    }
    builder.into_inner()?.into_inner()?.sync_all()?;
    Ok(())
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

fn encode(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("encoding JSON")
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tree_gives_the_same_layer_in_any_order() {
        let mut one = Tree::default();
        one.add("etc", Node::directory(0o755));
        one.add("etc/a", Node::file(0o600, "x"));
        one.add("bin", Node::link("usr/bin"));
        let mut other = Tree::default();
        other.add("bin", Node::link("usr/bin"));
        other.add("etc/a", Node::file(0o600, "x"));
        other.add("etc", Node::directory(0o755));
        assert_eq!(one.to_layer().unwrap().blob, other.to_layer().unwrap().blob);
    }

    #[test]
    fn modes_owners_and_links_are_kept() {
        let mut tree = Tree::default();
        tree.add("tmp", Node::directory(0o1777));
        tree.add("data", Node::directory(0o755).owned(101));
        tree.add("log", Node::link("/dev/stdout"));
        let layer = tree.to_layer().unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(layer.blob.as_slice()));
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let header = entry.header();
                (
                    entry.path().unwrap().display().to_string(),
                    header.mode().unwrap(),
                    header.uid().unwrap(),
                    entry.link_name().unwrap().map(|l| l.display().to_string()),
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("data/".to_owned(), 0o755, 101, None),
                ("log".to_owned(), 0o777, 0, Some("/dev/stdout".to_owned())),
                ("tmp/".to_owned(), 0o1777, 0, None),
            ]
        );
    }
}
