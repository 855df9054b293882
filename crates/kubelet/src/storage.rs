//! What a pod keeps on the node's disk, against what it may.
//!
//! Source: upstream `eviction/eviction_manager.go`, `localStorageEviction`.

use std::path::PathBuf;

use api::Uid;
use api::node::{DiskUsage, PodUsage};
use api::pods;
use api::typed::Pod;
use lifecycle::Eviction;

use crate::execute::Ports;
use crate::volumes::{Volumes, directory};

const RESOURCE: &str = "ephemeral-storage";

/// The eviction of a pod that keeps more than it may, if it does: in one of
/// its volumes, as a whole, or in one of its containers.
pub(crate) async fn exceeding(ports: &Ports, uid: &Uid, pod: &Pod) -> Option<Eviction> {
    let in_volume = ports.volumes.overfull(uid, pod).await;
    if in_volume.is_some() || !is_limited(pod) {
        return in_volume;
    }
    let usage = match ports.runtime.usage_of(uid).await {
        Ok(usage) => usage,
        Err(error) => {
            tracing::debug!(uid = %uid, error = %error, "what the pod keeps on disk is not known");
            return None;
        }
    };
    let volumes = volumes_on_disk(&ports.volumes, uid, pod).await;
    verdict(pod, &usage, volumes)
}

/// A limit of an init container alone bounds the pod too.
fn is_limited(pod: &Pod) -> bool {
    pods::limits(pod).contains_key(RESOURCE)
}

/// What a pod keeps in volumes of its own on the node's disk.
pub(crate) async fn volumes_on_disk(volumes: &Volumes, uid: &Uid, pod: &Pod) -> u64 {
    let all = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let on_disk = all.filter(|volume| {
        let empty = volume.empty_dir.as_ref();
        empty.is_some_and(|empty| empty.medium.as_deref().unwrap_or_default().is_empty())
    });
    let places: Vec<PathBuf> = on_disk.filter_map(|volume| volumes.place(uid, volume)).collect();
    if places.is_empty() {
        return 0;
    }
    let counted = tokio::task::spawn_blocking(move || places.iter().filter_map(|place| directory::usage_bytes(place).ok()).sum());
    counted.await.unwrap_or(0)
}

/// Source of the texts: upstream `eviction/helpers.go`.
fn verdict(pod: &Pod, usage: &PodUsage, volume_bytes: u64) -> Option<Eviction> {
    let evicted = |message: String| {
        Some(Eviction {
            reason: "Evicted".to_owned(),
            message,
            grace: None,
        })
    };
    let of_containers = usage.containers.values().map(|container| container.disk());
    let total: u64 = of_containers
        .map(|DiskUsage { bytes, .. }| bytes)
        .sum::<u64>()
        .saturating_add(volume_bytes);
    let limit = pods::limits(pod).get(RESOURCE).copied();
    if let Some(limit) = limit.filter(|limit| i128::from(total) > i128::from(limit.bytes())) {
        return evicted(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    for container in pod.spec.iter().flat_map(pods::long_running) {
        let limit = pods::container_limits(container).get(RESOURCE).copied();
        let used = usage.containers.get(&container.name).map(|container| container.disk().bytes);
        if let (Some(limit), Some(used)) = (limit, used)
            && i128::from(used) > i128::from(limit.bytes())
        {
            let limit = limit.to_string();
            return evicted(format!(
                "Container {} exceeded its local ephemeral storage limit {limit:?}. ",
                container.name
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use api::node::{ContainerId, ContainerUsage, Counters};
    use serde_json::json;

    use super::*;

    /// Source: upstream `podEphemeralStorageLimitEviction`: the limit of the pod,
    /// where init containers count by the largest, is asked of all it has.
    #[test]
    fn an_init_containers_limit_bounds_its_pod() {
        let pod = |main: serde_json::Value| -> Pod {
            serde_json::from_value(json!({ "metadata": {}, "spec": {
                "initContainers": [{ "name": "i", "resources": { "limits": { "ephemeral-storage": "1Mi" } } }],
                "containers": [{ "name": "c", "resources": main }],
            } }))
            .unwrap()
        };
        let written = ContainerUsage {
            id: ContainerId(String::new()),
            running: true,
            counters: Counters::default(),
            written: DiskUsage { bytes: 2 << 20, inodes: 1 },
            logs: DiskUsage::default(),
        };
        let usage = PodUsage {
            containers: [("i".to_owned(), written)].into(),
            ..PodUsage::default()
        };
        let alone = pod(json!({}));
        assert!(is_limited(&alone));
        assert_eq!(
            verdict(&alone, &usage, 0).unwrap().message,
            "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "
        );
        assert_eq!(verdict(&pod(json!({ "limits": { "ephemeral-storage": "3Mi" } })), &usage, 0), None);
    }

    #[test]
    fn a_pod_keeps_what_it_may_as_a_whole_and_in_each_container() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {},
            "spec": { "containers": [
                { "name": "a", "resources": { "limits": { "ephemeral-storage": "1Mi" } } },
                { "name": "b", "resources": { "limits": { "ephemeral-storage": "3Mi" } } },
            ] }
        }))
        .unwrap();
        let said = |a: u64, b: u64, volumes: u64| {
            let of = |bytes: u64| ContainerUsage {
                id: ContainerId(String::new()),
                running: true,
                counters: Counters::default(),
                written: DiskUsage {
                    bytes: bytes / 2,
                    inodes: 1,
                },
                logs: DiskUsage {
                    bytes: bytes / 2,
                    inodes: 1,
                },
            };
            let usage = PodUsage {
                containers: [("a".to_owned(), of(a)), ("b".to_owned(), of(b))].into(),
                ..PodUsage::default()
            };
            verdict(&pod, &usage, volumes).map(|eviction| eviction.message)
        };
        const MIB: u64 = 1 << 20;
        assert_eq!(said(MIB, 3 * MIB, 0), None);
        assert_eq!(
            said(2 * MIB, MIB, 0).as_deref(),
            Some("Container a exceeded its local ephemeral storage limit \"1Mi\". ")
        );
        assert_eq!(
            said(MIB, MIB, 3 * MIB).as_deref(),
            Some("Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ")
        );
    }
}
