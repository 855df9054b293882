//! What the pods use of the node.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use api::node::{ContainerUsage, NodeUsage, PodUsage};
use shim::cgroup::Trees;

use super::{Embedded, blocking};
use crate::RuntimeError;

/// Size of the blocks `stat` counts in.
const BLOCK_BYTES: u64 = 512;

/// Where one container's use is found.
struct Place {
    name: String,
    group: PathBuf,
    writable: PathBuf,
    logs: Option<PathBuf>,
}

impl Embedded {
    /// See [`crate::Runtime::usage`].
    pub(super) async fn measure(&self, disk: bool) -> Result<NodeUsage, RuntimeError> {
        let pods: Vec<_> = self.pods().values().cloned().collect();
        let places: Vec<_> = pods
            .iter()
            .map(|pod| {
                let known = pod.known();
                let logs = known.sandbox.as_ref().map(|sandbox| sandbox.config.log_dir.clone());
                // The newest of a name comes last and wins.
                let places = known.attempts.iter().filter(|attempt| !attempt.making).map(|attempt| Place {
                    name: attempt.record.name.clone(),
                    group: pod.group.join(&attempt.record.id),
                    writable: pod.dir.attempt_dir(&attempt.record.id).join("upper"),
                    logs: logs.as_ref().map(|dir| dir.join(&attempt.record.name)),
                });
                (pod.uid.clone(), pod.group.clone(), places.collect::<Vec<_>>())
            })
            .collect();
        let (trees, root) = (self.host.trees.clone(), self.options.cgroup_root.clone());
        blocking(move || {
            let pods = places
                .into_iter()
                .map(|(uid, group, places)| (uid, of_pod(&trees, &group, &places, disk)));
            Ok(NodeUsage {
                memory_limit_bytes: trees.memory_limit_bytes(&root),
                memory_bytes: trees.working_set_bytes(&root).unwrap_or(0),
                pods: pods.collect(),
            })
        })
        .await
    }
}

impl Embedded {
    /// See [`crate::Runtime::reclaim`]. An ended attempt never runs again.
    pub(super) async fn free_ended(&self) -> Result<u64, RuntimeError> {
        let pods: Vec<_> = self.pods().values().cloned().collect();
        let mut dirs = Vec::new();
        for pod in pods {
            // Exits are learnt by looking.
            pod.observe().await?;
            let known = pod.known();
            let ended = known.attempts.iter().filter(|attempt| attempt.exit.is_some());
            dirs.extend(ended.map(|attempt| pod.dir.attempt_dir(&attempt.record.id)));
        }
        blocking(move || {
            let mut freed = ContainerUsage::default();
            for dir in dirs {
                add(&dir.join("upper"), &mut freed);
                for part in ["upper", "work"] {
                    super::files::remove_tree(&dir.join(part))?;
                }
            }
            Ok(freed.disk_bytes)
        })
        .await
    }
}

fn of_pod(trees: &Trees, group: &Path, places: &[Place], disk: bool) -> PodUsage {
    let mut containers = BTreeMap::new();
    for place in places {
        let mut usage = ContainerUsage {
            memory_bytes: trees.working_set_bytes(&place.group).unwrap_or(0),
            ..ContainerUsage::default()
        };
        if disk {
            for dir in [Some(&place.writable), place.logs.as_ref()].into_iter().flatten() {
                add(dir, &mut usage);
            }
        }
        containers.insert(place.name.clone(), usage);
    }
    PodUsage {
        memory_bytes: trees.working_set_bytes(group).unwrap_or(0),
        processes: trees.tasks(group).unwrap_or(0),
        containers,
    }
}

/// Adds what a directory takes of its file system. What vanishes meanwhile
/// takes nothing.
fn add(dir: &Path, usage: &mut ContainerUsage) {
    let mut waiting = vec![dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        for (entry, metadata) in entries.filter_map(|entry: DirEntry| Some((entry.path(), entry.metadata().ok()?))) {
            usage.disk_bytes += metadata.blocks() * BLOCK_BYTES;
            usage.inodes += 1;
            if metadata.is_dir() {
                waiting.push(entry);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_what_its_files_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/file"), vec![1; 100_000]).unwrap();
        let mut usage = ContainerUsage::default();
        add(dir.path(), &mut usage);
        add(&dir.path().join("absent"), &mut usage);
        assert!(usage.inodes == 2 && (100_000..200_000).contains(&usage.disk_bytes), "{usage:?}");
    }
}
