//! Images as volumes: they are on the node before a container of the pod is made.
//!
//! What is wrong with one is told like any volume that cannot be set up, and tried
//! again like it. The runtime mounts an image's files from its own store.
//!
//! Source: Pod API reference, `volumes.image`; KEP-4639.

use api::Uid;
use api::typed::{ImageVolumeSource, Pod};
use lifecycle::{Download, Progress};

use super::{MountError, volumes};
use crate::execute::{self, Ports, Report};

/// Makes every image that is a volume of the pod present, and reports how far it
/// is; gives what failed. No lock is held meanwhile: the content of the pod's other
/// volumes is kept up to date.
pub(crate) async fn pull_all(ports: &Ports, uid: &Uid, pod: &Pod, report: &Report<'_>) -> Vec<MountError> {
    let mut errors = Vec::new();
    for volume in volumes(pod) {
        let Some(image) = &volume.image else { continue };
        if let Err(why) = pull(ports, uid, pod, image, report).await {
            errors.push(MountError::set_up(&volume.name, &why));
        }
    }
    errors
}

async fn pull(ports: &Ports, uid: &Uid, pod: &Pod, image: &ImageVolumeSource, report: &Report<'_>) -> Result<(), String> {
    let reference = image.reference.as_deref().unwrap_or_default();
    let present = ports.runtime.image(reference).await.map_err(|error| error.to_string())?;
    match (image.pull_policy.as_deref(), present) {
        (Some("Never"), None) => Err(format!("Container image {reference:?} is not present with pull policy of Never")),
        (Some("Never"), Some(_)) | (Some("IfNotPresent") | None, Some(_)) => Ok(()),
        // `Always`, or not there.
        _ => {
            let told = |download| {
                let image = reference.to_owned();
                report.tell(Progress::VolumeImage { image, download })
            };
            let (took, image) = execute::download(ports, uid, Some(pod), reference, told)
                .await
                .map_err(|error| format!("Failed to pull image {reference:?}: {error}"))?;
            let size_bytes = image.size_bytes;
            told(Download::Ended { took, size_bytes }).await;
            Ok(())
        }
    }
}
