//! Images from a registry.

use super::error::ImageError;

/// Why a pull failed; the part after "failed to pull and unpack image".
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Not the registry's doing.
    #[error(transparent)]
    Image(#[from] ImageError),
}
