//! What an `emptyDir` is made of, and who sees what is mounted in it. Pure.
//!
//! Source: upstream `pkg/volume/emptydir/empty_dir.go`.

use std::collections::{BTreeMap, BTreeSet};

use api::Quantity;
use api::pods;
use api::typed::{Container, EmptyDirVolumeSource, Pod, WireQuantity};

use super::directory::Medium;

/// How a medium and a resource of huge pages begin; the size follows.
const HUGE_PAGES: &str = "HugePages";
const HUGE_PAGES_OF: &str = "HugePages-";
const RESOURCE_OF: &str = "hugepages-";

/// What a volume is made of.
///
/// # Errors
/// In upstream's words.
pub(crate) fn medium(pod: &Pod, empty: &EmptyDirVolumeSource, allocatable: &BTreeMap<String, WireQuantity>) -> Result<Medium, String> {
    let limit = empty.size_limit.as_ref();
    match empty.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory {
            bytes: memory_bytes(pod, limit, allocatable),
        }),
        huge if huge == HUGE_PAGES || huge.starts_with(HUGE_PAGES_OF) => Ok(Medium::HugePages {
            page_bytes: page_bytes(huge, pod)?,
            bytes: limit.and_then(positive),
        }),
        other => Err(format!("unknown storage medium {other:?}")),
    }
}

/// The size of the pages: the one the medium names, which some container must ask
/// for, or the only one that containers ask for.
///
/// Source: upstream `getPageSizeMountOption`.
fn page_bytes(medium: &str, pod: &Pod) -> Result<u64, String> {
    let named = match medium.strip_prefix(HUGE_PAGES_OF) {
        None => None,
        Some(size) => Some(pages(size).ok_or_else(|| format!("unknown storage medium {medium:?}"))?),
    };
    let requests = containers(pod).flat_map(|container| pods::container_requests(container).into_keys());
    let asked: BTreeSet<u64> = requests
        .filter_map(|name| pages(name.strip_prefix(RESOURCE_OF)?))
        .filter(|bytes| named.is_none_or(|named| named == *bytes))
        .collect();
    let mut asked = asked.into_iter();
    match (asked.next(), asked.next()) {
        (Some(bytes), None) => Ok(bytes),
        (None, _) => Err("hugePages storage requested, but there is no resource request for huge pages".to_owned()),
        (Some(_), Some(_)) => Err(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        )),
    }
}

fn pages(size: &str) -> Option<u64> {
    let bytes = size.parse::<Quantity>().ok()?.bytes();
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Whether a container makes mounts in a volume that the node is to see.
pub(crate) fn is_shared(pod: &Pod, volume: &str) -> bool {
    let mut mounts = containers(pod).flat_map(|container| container.volume_mounts.iter().flatten());
    mounts.any(|mount| mount.name == volume && mount.mount_propagation.as_deref() == Some("Bidirectional"))
}

fn positive(wire: &WireQuantity) -> Option<u64> {
    Quantity::try_from(wire).ok().map(|q| q.bytes().unsigned_abs()).filter(|b| *b > 0)
}

/// Most a volume in memory may hold: what the node, the containers' limits and
/// the volume's own limit allow. Source: upstream `emptydir.go`,
/// `calculateEmptyDirMemorySize`.
fn memory_bytes(pod: &Pod, limit: Option<&WireQuantity>, allocatable: &BTreeMap<String, WireQuantity>) -> u64 {
    let node = allocatable.get("memory").and_then(positive);
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let limits = containers.map(|c| c.resources.as_ref()?.limits.as_ref()?.get("memory").and_then(positive));
    let of_pod = limits.sum::<Option<u64>>().filter(|sum| *sum > 0);
    [node, of_pod, limit.and_then(positive)]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Source of the texts: upstream `empty_dir_test.go`.
    #[test]
    fn huge_pages_are_of_the_size_that_is_asked_for() {
        let made = |medium: &str, requests: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": [
                { "name": "c", "resources": { "requests": requests } },
            ] } }))
            .unwrap();
            let empty = EmptyDirVolumeSource {
                medium: Some(medium.to_owned()),
                size_limit: Some(WireQuantity("4Mi".to_owned())),
            };
            super::medium(&pod, &empty, &BTreeMap::new())
        };
        let huge = |page_bytes| {
            Ok(Medium::HugePages {
                page_bytes,
                bytes: Some(4 << 20),
            })
        };
        let (small, both) = (
            json!({ "hugepages-2Mi": "4Mi" }),
            json!({ "hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi" }),
        );
        assert_eq!(made("HugePages", small.clone()), huge(2 << 20));
        assert_eq!(made("HugePages-2Mi", small.clone()), huge(2 << 20));
        assert_eq!(made("HugePages-1Gi", both.clone()), huge(1 << 30));
        assert_eq!(
            made("HugePages", both),
            Err("medium: HugePages can't be used if container requests multiple huge page sizes".to_owned())
        );
        let none = Err("hugePages storage requested, but there is no resource request for huge pages".to_owned());
        assert_eq!(made("HugePages-1Gi", small), none);
        assert_eq!(made("HugePages", json!({})), none);
        assert_eq!(
            made("HugePages-x", json!({})),
            Err("unknown storage medium \"HugePages-x\"".to_owned())
        );
        assert_eq!(made("Tape", json!({})), Err("unknown storage medium \"Tape\"".to_owned()));
    }

    #[test]
    fn a_volume_in_memory_is_as_large_as_the_least_limit() {
        let allocatable = BTreeMap::from([("memory".to_owned(), WireQuantity("1Gi".to_owned()))]);
        let pod = |limits: &[Option<&str>]| -> Pod {
            let containers: Vec<_> = limits
                .iter()
                .map(|l| json!({ "name": "c", "resources": { "limits": l.map(|l| json!({ "memory": l })) } }))
                .collect();
            serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": containers } })).unwrap()
        };
        let limit = WireQuantity("1Mi".to_owned());
        assert_eq!(memory_bytes(&pod(&[None]), None, &allocatable), 1 << 30);
        assert_eq!(memory_bytes(&pod(&[Some("2Mi"), Some("1Mi")]), None, &allocatable), 3 << 20);
        assert_eq!(memory_bytes(&pod(&[Some("2Mi"), None]), None, &allocatable), 1 << 30);
        assert_eq!(memory_bytes(&pod(&[Some("2Mi")]), Some(&limit), &allocatable), 1 << 20);
    }
}
