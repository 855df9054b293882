//! Images as volumes: they are on the node before a container of the pod is made.
//!
//! What is wrong with one is told like any volume that cannot be set up, and tried
//! again like it. The runtime mounts an image's files from its own store.
//!
//! Source: Pod API reference, `volumes.image`; KEP-4639.

use api::Uid;
use api::typed::{ImageVolumeSource, Pod};

use super::{MountError, volumes};
use crate::execute::{self, Ports};

/// Makes every image that is a volume of the pod present; gives what failed.
pub(crate) async fn pull_all(ports: &Ports, uid: &Uid, pod: &Pod) -> Vec<MountError> {
    let mut errors = Vec::new();
    for volume in volumes(pod) {
        let Some(image) = &volume.image else { continue };
        if let Err(why) = pull(ports, uid, pod, image).await {
            errors.push(MountError::set_up(&volume.name, &why));
        }
    }
    errors
}

async fn pull(ports: &Ports, uid: &Uid, pod: &Pod, image: &ImageVolumeSource) -> Result<(), String> {
    let reference = image.reference.as_deref().unwrap_or_default();
    let present = ports.runtime.image(reference).await.map_err(|error| error.to_string())?;
    match (image.pull_policy.as_deref(), present) {
        (Some("Never"), None) => Err(format!("Container image {reference:?} is not present with pull policy of Never")),
        (Some("Never"), Some(_)) | (Some("IfNotPresent") | None, Some(_)) => Ok(()),
        // `Always`, or not there.
        _ => {
            let pulled = execute::fetch(ports, uid, Some(pod), reference).await;
            pulled
                .map(drop)
                .map_err(|error| format!("Failed to pull image {reference:?}: {error}"))
        }
    }
}
