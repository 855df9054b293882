//! What the backend asks of the image store.

use async_trait::async_trait;

use crate::image::{ImageError, ImageStore, Puller, StoredImage};
use crate::{Auth, Image, RuntimeError};

/// Images on this node, and a way to get more.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image a reference names, if it is here.
    ///
    /// # Errors
    /// A bad reference or a damaged store.
    fn lookup(&self, reference: &str) -> Result<Option<StoredImage>, ImageError>;
    /// Fetches an image.
    ///
    /// # Errors
    /// [`RuntimeError::InvalidImageName`] and [`RuntimeError::Pull`].
    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError>;
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

    async fn pull(&self, reference: &str, auth: Option<&Auth>) -> Result<Image, RuntimeError> {
        let pulled = self.puller.pull(reference, auth).await;
        pulled.map(|stored| stored.image).map_err(|error| trouble(&error))
    }
}

/// An image operation that failed, as the port tells it.
pub(super) fn trouble(error: &ImageError) -> RuntimeError {
    match error {
        ImageError::InvalidReference { reference, .. } => RuntimeError::InvalidImageName(reference.clone()),
        other => RuntimeError::Pull(other.to_string()),
    }
}
