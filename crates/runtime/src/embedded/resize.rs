//! Other limits for a pod and for an attempt that runs in it.

use std::path::Path;
use std::sync::Arc;

use shim::cgroup::{CgroupError, Trees};
use shim::record;

use super::files::{ATTEMPT_FILE, Phase, doing};
use super::pod::Pod;
use super::sandbox::limits;
use super::{Embedded, blocking};
use crate::{Resize, Resources, RuntimeError};

impl Embedded {
    /// See [`crate::Runtime::resize`]. The kernel first, then what is written
    /// down: an agent that dies in between does it again.
    pub(super) async fn set_limits(&self, pod: &Arc<Pod>, whole: &Resources, one: Option<&Resize>) -> Result<(), RuntimeError> {
        let _one_writer = pod.gate.lock().await;
        let missing = |what| RuntimeError::NotFound {
            what,
            name: pod.uid.to_string(),
        };
        let known = pod.known().sandbox.clone().filter(|sandbox| sandbox.phase == Phase::Ready);
        let mut sandbox = known.ok_or_else(|| missing("sandbox"))?;
        if sandbox.config.resources == *whole && one.is_none() {
            return Ok(());
        }
        let mut attempt = match one {
            Some(one) => Some(pod.attempt(&one.id.0)?.record),
            None => None,
        };
        if let (Some(attempt), Some(one)) = (&mut attempt, one) {
            attempt.resources = Some(one.requirements.clone());
        }
        let before = std::mem::replace(&mut sandbox.config.resources, whole.clone());
        let (pod_, trees, whole, one) = (pod.clone(), self.host.trees.clone(), whole.clone(), one.cloned());
        let attempt = blocking(move || {
            let group = pod_.group();
            set(&trees, &group, &before, &whole, one.as_ref()).map_err(|cause| RuntimeError::Io {
                doing: format!("setting limits of pod {}", pod_.uid),
                source: std::io::Error::other(cause),
            })?;
            if let Some(attempt) = &attempt {
                let path = pod_.dir.attempt_dir(&attempt.id).join(ATTEMPT_FILE);
                record::write(&path, attempt, false).map_err(doing("writing", &path))?;
            }
            pod_.set_sandbox(sandbox)?;
            Ok(attempt)
        })
        .await?;
        if let Some(written) = attempt
            && let Some(known) = pod.known().attempts.iter_mut().find(|known| known.record.id == written.id)
        {
            known.record = written;
        }
        let _ = self.hints.send(pod.uid.clone());
        Ok(())
    }
}

/// The pod has room for what is in it at every moment: it grows before its
/// container does, and shrinks after it.
fn set(trees: &Trees, group: &Path, before: &Resources, whole: &Resources, one: Option<&Resize>) -> Result<(), CgroupError> {
    if let Some(one) = one {
        trees.set(group, &limits(&wider(before, whole)))?;
        trees.set(&group.join(&one.id.0), &limits(&one.resources))?;
    }
    trees.set(group, &limits(whole))
}

/// Limits that hold both; what one of them does not limit stays as it is.
fn wider(one: &Resources, other: &Resources) -> Resources {
    let most = |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one.max(other));
    Resources {
        cpu_limit_milli: most(one.cpu_limit_milli, other.cpu_limit_milli),
        memory_limit_bytes: most(one.memory_limit_bytes, other.memory_limit_bytes),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_wide_enough_for_before_and_after() {
        let of = |milli, bytes| Resources {
            cpu_limit_milli: milli,
            memory_limit_bytes: bytes,
            ..Resources::default()
        };
        assert_eq!(wider(&of(Some(100), Some(7)), &of(Some(200), Some(5))), of(Some(200), Some(7)));
        assert_eq!(wider(&of(None, Some(7)), &of(Some(200), None)), of(None, None));
    }
}
