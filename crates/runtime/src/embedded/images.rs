//! What the backend asks of the image store.

use std::collections::HashSet;

use async_trait::async_trait;

use super::{Embedded, blocking};
use crate::image::{ImageError, ImageStore, Puller, StoredImage, layers_in_use};
use crate::{Auth, Image, NodeImage, PullBytes, RuntimeError};

/// Images on this node, and a way to get more.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image a reference names, if it is here.
    ///
    /// # Errors
    /// A bad reference or a damaged store.
    fn lookup(&self, reference: &str) -> Result<Option<StoredImage>, ImageError>;
    /// Every image.
    ///
    /// # Errors
    /// A damaged store.
    fn list(&self) -> Result<Vec<StoredImage>, ImageError>;
    /// Removes an image and what nothing else needs; gives the bytes. Blocks.
    ///
    /// # Errors
    /// An unknown image, a damaged store, or a file that cannot be removed.
    fn remove(&self, id: &str) -> Result<u64, ImageError>;
    /// Fetches an image.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidImageName`] and [`RuntimeError::Pull`].
    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError>;
    /// How far the download of an image is.
    fn pulling(&self, reference: &str) -> Option<PullBytes>;
}

/// The node's store, filled from registries.
#[derive(Clone)]
pub struct NodeImages {
    /// What is here.
    pub store: ImageStore,
    /// What brings more; into `store`.
    pub puller: Puller,
}

#[async_trait]
impl Images for NodeImages {
    fn lookup(&self, reference: &str) -> Result<Option<StoredImage>, ImageError> {
        self.store.lookup(reference)
    }

    fn list(&self) -> Result<Vec<StoredImage>, ImageError> {
        self.store.list()
    }

    fn remove(&self, id: &str) -> Result<u64, ImageError> {
        let in_use = layers_in_use().map_err(|error| ImageError::io("read which layers are in use".to_owned(), error))?;
        self.store.remove(id, &in_use).map(|removed| removed.freed_bytes)
    }

    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError> {
        let pulled = self.puller.pull(reference, auth).await;
        pulled.map(|stored| stored.image).map_err(|error| trouble(&error))
    }

    fn pulling(&self, reference: &str) -> Option<PullBytes> {
        self.puller.under_way(reference)
    }
}

/// An image operation that failed, as the port tells it.
pub(super) fn trouble(error: &ImageError) -> RuntimeError {
    match error {
        ImageError::InvalidReference { reference, .. } => RuntimeError::InvalidImageName(reference.clone()),
        other => RuntimeError::Pull(other.to_string()),
    }
}

impl Embedded {
    /// See [`crate::Runtime::images`]. An attempt is of the image its
    /// reference means now, and of the one it was made of.
    pub(super) async fn all_images(&self) -> Result<Vec<NodeImage>, RuntimeError> {
        let images = self.options.images.clone();
        let mut references = HashSet::new();
        for pod in self.pods().values() {
            for attempt in &pod.known().attempts {
                references.insert(attempt.record.image.clone());
                references.insert(attempt.record.image_id.clone());
            }
        }
        blocking(move || {
            let used = references.iter().filter_map(|reference| images.lookup(reference).ok().flatten());
            let used: HashSet<String> = used.map(|stored| stored.image.id).collect();
            let all = images.list().map_err(|error| trouble(&error))?;
            Ok(all
                .into_iter()
                .map(|stored| NodeImage {
                    in_use: used.contains(&stored.image.id),
                    fetched: stored.fetched,
                    image: stored.image,
                })
                .collect())
        })
        .await
    }

    /// See [`crate::Runtime::remove_image`].
    pub(super) async fn drop_image(&self, id: &str) -> Result<u64, RuntimeError> {
        let (images, id) = (self.options.images.clone(), id.to_owned());
        blocking(move || match images.remove(&id) {
            Ok(freed_bytes) => Ok(freed_bytes),
            Err(ImageError::NotFound(_)) => Ok(0),
            Err(error) => Err(RuntimeError::Io {
                doing: format!("removing image {id}"),
                source: std::io::Error::other(error),
            }),
        })
        .await
    }
}
