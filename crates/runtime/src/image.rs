//! Images on this node: naming, keeping, pulling, unpacking and importing.
//!
//! Reading order: `reference` (names), `manifest` (the documents of an image),
//! `store` (what is on disk and how it stays whole), `scratch` (work in
//! progress, safe against crashes and other processes), `archive` and `unpack`
//! (a layer's archive becomes an overlayfs directory), `layer` (compression and
//! digests around that), `registries` (mirrors), `registry`, `download`
//! and `pull` (from a registry), `import` (from files).
//!
//! Nothing here knows pods, pull policies or back-off.

mod archive;
mod download;
mod error;
mod import;
mod in_use;
mod layer;
mod manifest;
mod pull;
mod reference;
mod registries;
mod registry;
mod scratch;
mod store;
mod unpack;

#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;

pub use error::ImageError;
pub use in_use::layers_in_use;
pub use manifest::{ImageConfig, Platform};
pub use pull::{LayerState, Progress, PullError, PullOptions, Puller};
pub use reference::{Digest, InvalidReference, Reference, Version};
pub use registries::Registries;
pub use registry::RegistryError;
pub use store::{ImageStore, Removed};
pub use unpack::{Limits, UnpackError};

/// An image that is on this node, ready to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// Its identity, names and size.
    pub image: crate::Image,
    /// Directories for overlayfs, bottom first.
    pub layers: Vec<PathBuf>,
    /// What it says about how to be run.
    pub config: ImageConfig,
    /// It came from a registry, and may be had again.
    pub fetched: bool,
}
