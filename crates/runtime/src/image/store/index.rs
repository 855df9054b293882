//! The table of names and images, and how it changes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::image::reference::{Digest, Reference, Version};

/// The format written; readers refuse newer ones.
pub(crate) const FORMAT: u32 = 1;

/// What is kept of one image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Chain ids, bottom first.
    pub(crate) layers: Vec<Digest>,
    /// Bytes of its unpacked layers.
    pub(crate) size_bytes: u64,
    /// It came from a registry, which may give it again. Of what was imported,
    /// and of images of which this is not known, there may be no other copy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) fetched: bool,
    /// The manifests that led to it; their blobs are kept with it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) manifests: BTreeSet<Digest>,
}

/// The whole table, one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) format: u32,
    /// Normalized references to image ids.
    pub(crate) names: BTreeMap<String, Digest>,
    /// Image ids (digests of configurations) to what is kept of them.
    pub(crate) images: BTreeMap<Digest, Record>,
    /// Layers of no image that containers used when their image was removed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) retained: BTreeSet<Digest>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            format: FORMAT,
            names: BTreeMap::new(),
            images: BTreeMap::new(),
            retained: BTreeSet::new(),
        }
    }
}

impl Index {
    /// The image a name or an id means.
    pub(crate) fn find(&self, key: &Key) -> Option<&Digest> {
        match key {
            Key::Id(id) => self.images.get_key_value(id).map(|(id, _)| id),
            Key::Name(reference) => self.names.get(&reference.to_string()),
        }
    }

    /// Adds an image, or further names and manifests to it. Names that meant
    /// another image now mean this one; the other stays, by its id.
    pub(crate) fn add(&mut self, id: Digest, record: Record, names: &[Reference]) {
        for layer in &record.layers {
            self.retained.remove(layer);
        }
        match self.images.get_mut(&id) {
            Some(known) => {
                known.fetched |= record.fetched;
                known.manifests.extend(record.manifests);
            }
            None => {
                self.images.insert(id.clone(), record);
            }
        }
        for name in names {
            self.names.insert(name.to_string(), id.clone());
        }
    }

    /// Takes a name away, or with an id all names. The image goes with its
    /// last name. The digest names of a repository go with its last tag,
    /// since they came with a pull by tag and nobody asked for them.
    /// Returns the names taken away and the image, if it went; `None` when
    /// the key is unknown.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<(Vec<String>, Option<Digest>)> {
        let id = self.find(key)?.clone();
        let mine: Vec<String> = self
            .names
            .iter()
            .filter(|(_, of)| **of == id)
            .map(|(name, _)| name.clone())
            .collect();
        let gone: Vec<String> = match key {
            Key::Id(_) => mine,
            Key::Name(reference) => {
                let name = reference.to_string();
                let tags = format!("{}:", reference.name());
                let digests = format!("{}@", reference.name());
                let last_tag =
                    matches!(reference.version(), Version::Tag(_)) && !mine.iter().any(|other| *other != name && other.starts_with(&tags));
                mine.into_iter()
                    .filter(|other| *other == name || last_tag && other.starts_with(&digests))
                    .collect()
            }
        };
        for name in &gone {
            self.names.remove(name);
        }
        let unnamed = !self.names.values().any(|of| *of == id);
        if unnamed {
            self.images.remove(&id);
        }
        Some((gone, unnamed.then_some(id)))
    }

    /// Layers that some image, or a container once of one, needs.
    pub(crate) fn layers(&self) -> BTreeSet<&Digest> {
        self.images
            .values()
            .flat_map(|record| &record.layers)
            .chain(&self.retained)
            .collect()
    }

    /// Blobs that belong to some image.
    pub(crate) fn blobs(&self) -> BTreeSet<&Digest> {
        self.images
            .iter()
            .flat_map(|(id, record)| record.manifests.iter().chain([id]))
            .collect()
    }
}

/// How an image is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// By the digest of its configuration.
    Id(Digest),
    /// By name.
    Name(Reference),
}
