//! The documents of an image: index, manifest, configuration. Pure.
//!
//! Both families are read, OCI's and Docker's (schema 2); they differ only in
//! media types. Absent and null fields are the same, as Go's decoder has it.

use std::fmt;

use serde::{Deserialize, Deserializer};
use sha2::Digest as _;

use super::reference::Digest;

/// Layers beyond this are refused; overlayfs itself takes at most 500.
pub(crate) const LAYERS_MAX: usize = 500;

/// What an image says about how to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, replaced by a container's own.
    pub cmd: Vec<String>,
    /// `NAME=value`, in order.
    pub env: Vec<String>,
    /// Empty for the root.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty for 0.
    pub user: String,
    /// Such as `SIGQUIT` or `3`; `None` for the default.
    pub stop_signal: Option<String>,
}

/// An operating system and processor, in Go's names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `linux`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// `amd64`, `arm64`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// Such as `v8`; empty when not said.
    #[serde(default, deserialize_with = "null_is_default")]
    pub variant: String,
}

impl Platform {
    /// This machine's.
    #[must_use]
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: String::new(),
        }
    }

    /// How well an image for `self` runs on `host`: `None` not at all, else
    /// higher is better. amd64 levels above v1 and other variants may need
    /// instructions the host lacks, so the plain form is preferred.
    fn suits(&self, host: &Self) -> Option<u8> {
        if self.os != host.os || self.architecture != host.architecture {
            return None;
        }
        match (self.architecture.as_str(), self.variant.as_str()) {
            (_, "") | ("amd64", "v1") => Some(2),
            ("arm64", "v8") => Some(2),
            ("amd64" | "arm64", _) => None,
            _ => Some(1),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.variant)
        }
    }
}

/// Names a blob.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Descriptor {
    #[serde(default, rename = "mediaType", deserialize_with = "null_is_default")]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: std::collections::BTreeMap<String, String>,
}

/// The blobs of one image.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) layers: Vec<Descriptor>,
}

/// The images for several platforms.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) manifests: Vec<Descriptor>,
}

/// One of the two.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    /// An image.
    Manifest(Manifest),
    /// A choice of images.
    Index(Index),
}

impl Document {
    /// Reads whichever it is; the error is one sentence without a subject.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default, rename = "schemaVersion")]
            schema_version: u32,
            #[serde(default, rename = "mediaType")]
            media_type: Option<String>,
            #[serde(default)]
            manifests: Option<serde::de::IgnoredAny>,
            #[serde(default)]
            config: Option<serde::de::IgnoredAny>,
        }
        let probe: Probe = serde_json::from_slice(bytes).map_err(|error| format!("is not a manifest: {error}"))?;
        if probe.schema_version != 2 {
            return Err(format!(
                "has schema version {}, only 2 is supported; push the image again with a current tool",
                probe.schema_version
            ));
        }
        let media_type = probe.media_type.unwrap_or_default();
        let index = match media_type.as_str() {
            "application/vnd.oci.image.index.v1+json" | "application/vnd.docker.distribution.manifest.list.v2+json" => true,
            "application/vnd.oci.image.manifest.v1+json" | "application/vnd.docker.distribution.manifest.v2+json" => false,
            // A document with both could be read as either by different tools; containerd refuses it too.
            "" if probe.manifests.is_some() && probe.config.is_some() => return Err("is both an index and a manifest".to_owned()),
            "" => probe.manifests.is_some(),
            other => return Err(format!("has the unknown media type {other:?}")),
        };
        if index {
            serde_json::from_slice(bytes)
                .map(Self::Index)
                .map_err(|error| format!("is not an image index: {error}"))
        } else {
            let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| format!("is not an image manifest: {error}"))?;
            if manifest.layers.len() > LAYERS_MAX {
                return Err(format!("has {} layers, at most {LAYERS_MAX} can be mounted", manifest.layers.len()));
            }
            Ok(Self::Manifest(manifest))
        }
    }
}

impl Index {
    /// The entry for `host`; the best of several, the first of equals.
    pub(crate) fn choose(&self, host: &Platform) -> Result<&Descriptor, String> {
        let mut best: Option<(u8, &Descriptor)> = None;
        for entry in &self.manifests {
            let fit = match &entry.platform {
                Some(platform) => platform.suits(host),
                // An index made by hand often does not say; the configuration will.
                None => Some(0),
            };
            if let Some(fit) = fit
                && best.is_none_or(|(so_far, _)| fit > so_far)
            {
                best = Some((fit, entry));
            }
        }
        best.map(|(_, entry)| entry).ok_or_else(|| {
            let mut offered: Vec<String> = self
                .manifests
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .map(ToString::to_string)
                .collect();
            // Build attestations ride along as "unknown/unknown".
            offered.retain(|platform| platform != "unknown/unknown");
            offered.dedup();
            if offered.is_empty() {
                "nothing".to_owned()
            } else {
                offered.join(", ")
            }
        })
    }
}

/// An image's configuration, as far as it is used here.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) platform: Platform,
    pub(crate) config: ImageConfig,
    /// Digest of each uncompressed layer, bottom first.
    pub(crate) diff_ids: Vec<Digest>,
}

impl Configuration {
    /// Reads it; the error is one sentence without a subject.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct Run {
            #[serde(rename = "Entrypoint", deserialize_with = "null_is_default")]
            entrypoint: Vec<String>,
            #[serde(rename = "Cmd", deserialize_with = "null_is_default")]
            cmd: Vec<String>,
            #[serde(rename = "Env", deserialize_with = "null_is_default")]
            env: Vec<String>,
            #[serde(rename = "WorkingDir", deserialize_with = "null_is_default")]
            working_dir: String,
            #[serde(rename = "User", deserialize_with = "null_is_default")]
            user: String,
            #[serde(rename = "StopSignal", deserialize_with = "null_is_default")]
            stop_signal: String,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(default, deserialize_with = "null_is_default")]
            diff_ids: Vec<Digest>,
        }
        #[derive(Deserialize)]
        struct Whole {
            #[serde(flatten)]
            platform: Platform,
            #[serde(default, deserialize_with = "null_is_default")]
            config: Run,
            rootfs: RootFs,
        }
        let whole: Whole = serde_json::from_slice(bytes).map_err(|error| format!("is not an image configuration: {error}"))?;
        Ok(Self {
            platform: whole.platform,
            config: ImageConfig {
                entrypoint: whole.config.entrypoint,
                cmd: whole.config.cmd,
                env: whole.config.env,
                working_dir: whole.config.working_dir,
                user: whole.config.user,
                stop_signal: Some(whole.config.stop_signal).filter(|signal| !signal.is_empty()),
            },
            diff_ids: whole.rootfs.diff_ids,
        })
    }

    /// Whether it can run on `host`; an unsaid platform is taken to fit.
    pub(crate) fn suits(&self, host: &Platform) -> bool {
        let said = |text: &str, fits: &str| text.is_empty() || text == fits;
        said(&self.platform.os, &host.os) && said(&self.platform.architecture, &host.architecture)
    }
}

/// The identity of each layer together with all below it, bottom first (OCI
/// image specification, config, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => {
                let mut hasher = sha2::Sha256::new();
                hasher.update(below.as_str());
                hasher.update(" ");
                hasher.update(diff_id.as_str());
                Digest::from_hash(hasher.finalize().into())
            }
        };
        chain.push(id);
    }
    chain
}

/// Refuses a layer that cannot be an ordinary file system archive.
pub(crate) fn check_layer_type(media_type: &str) -> Result<(), String> {
    const KNOWN: [&str; 8] = [
        "",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.diff.tar+zstd",
    ];
    if KNOWN.contains(&media_type) {
        Ok(())
    } else if media_type.contains("nondistributable") || media_type.contains("foreign") {
        Err(format!(
            "has media type {media_type:?}: its content must be fetched from elsewhere, which is not supported"
        ))
    } else if media_type.ends_with("+encrypted") {
        Err(format!("has media type {media_type:?}: encrypted layers are not supported"))
    } else {
        Err(format!("has media type {media_type:?}, which is not a container layer"))
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
