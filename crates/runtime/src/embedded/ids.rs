//! Which users and groups of the node pods with users of their own get.
//!
//! One range of 65536 ids each, no two pods the same, none of them the node's
//! own. What a pod has stands in its sandbox's record, so it outlives the agent;
//! it is free again when nothing of the sandbox runs. Pure.
//!
//! Source: upstream `pkg/kubelet/userns/userns_manager.go`.

use std::collections::BTreeMap;

use api::node::Uid;
use shim::protocol::IdRange;

/// Ids a pod gets. Source: upstream `DefaultKubeletUserNamespacesIDsPerPod`.
const IDS_PER_POD: u32 = 65_536;

/// Whose subordinate ids pods are given. Source: upstream `kubelet_pods.go`,
/// `kubeletUser`.
const SUBORDINATE_OF: &str = "kubelet";

/// The ids of the node that are for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserIds {
    first: u32,
    pods: u32,
}

impl UserIds {
    /// As many as `max_pods` pods need, from the first after what is usually
    /// given to people and services.
    #[must_use]
    pub fn for_pods(max_pods: u32) -> Self {
        Self {
            first: IDS_PER_POD,
            // No number is greater than what 32 bits hold.
            pods: max_pods.min(u32::MAX / IDS_PER_POD - 1),
        }
    }

    /// Those that `/etc/subuid` and `/etc/subgid`, whose text is given, set
    /// aside for the user `kubelet`; where neither does, those of
    /// [`for_pods`](Self::for_pods).
    ///
    /// # Errors
    /// What upstream refuses to start with, in its words.
    pub fn of_kubelet(subuid: &str, subgid: &str, max_pods: u32) -> Result<Self, String> {
        let (first, count) = match (subordinate(subuid)?, subordinate(subgid)?) {
            (None, None) => return Ok(Self::for_pods(max_pods)),
            (Some(uids), Some(gids)) if uids == gids => uids,
            _ => return Err(format!("mismatched subuids and subgids for user {SUBORDINATE_OF:?}")),
        };
        if first % IDS_PER_POD != 0 {
            return Err(format!("kubelet user assigned ID {first} is not a multiple of {IDS_PER_POD}"));
        }
        if first < IDS_PER_POD {
            return Err(format!(
                "kubelet user assigned ID {first} must be greater or equal to {IDS_PER_POD}"
            ));
        }
        if count % IDS_PER_POD != 0 {
            return Err(format!(
                "kubelet user assigned IDs length {count} is not a multiple of {IDS_PER_POD}"
            ));
        }
        if count / IDS_PER_POD < max_pods {
            return Err(format!("kubelet user assigned IDs are not enough to support {max_pods} pods"));
        }
        if first.checked_add(count).is_none() {
            return Err(format!(
                "kubelet user assigned IDs from {first}, {count} of them, are more than there are"
            ));
        }
        Ok(Self {
            first,
            pods: count / IDS_PER_POD,
        })
    }
}

/// First id and count of the one line for [`SUBORDINATE_OF`]. Source: subuid(5).
fn subordinate(table: &str) -> Result<Option<(u32, u32)>, String> {
    let mut own = table.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        (fields.next()? == SUBORDINATE_OF).then(|| (fields.next().unwrap_or_default(), fields.next().unwrap_or_default()))
    });
    let Some((first, count)) = own.next() else { return Ok(None) };
    if own.next().is_some() {
        return Err(format!(
            "the user {SUBORDINATE_OF:?} has more than one range of subordinate ids; one is needed"
        ));
    }
    match (first.parse(), count.parse()) {
        (Ok(first), Ok(count)) => Ok(Some((first, count))),
        _ => Err(format!(
            "the subordinate ids {first}:{count} of the user {SUBORDINATE_OF:?} are not numbers"
        )),
    }
}

/// Who has which range.
#[derive(Debug)]
pub(super) struct Ranges {
    ids: UserIds,
    /// By first id.
    taken: BTreeMap<u32, Uid>,
}

impl Ranges {
    pub(super) fn new(ids: UserIds) -> Self {
        Self {
            ids,
            taken: BTreeMap::new(),
        }
    }

    /// The lowest range nobody has, from now on `pod`'s; `None` if there is none.
    pub(super) fn take(&mut self, pod: &Uid) -> Option<IdRange> {
        let all = (0..self.ids.pods).map(|n| self.ids.first + n * IDS_PER_POD);
        let first = all.into_iter().find(|first| !self.taken.contains_key(first))?;
        self.taken.insert(first, pod.clone());
        Some(IdRange {
            first,
            length: IDS_PER_POD,
        })
    }

    /// Notes what an earlier agent gave.
    pub(super) fn keep(&mut self, pod: &Uid, range: IdRange) {
        self.taken.insert(range.first, pod.clone());
    }

    /// Takes back what `pod` has.
    pub(super) fn give_back(&mut self, pod: &Uid) {
        self.taken.retain(|_, owner| owner != pod);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> Uid {
        name.parse().unwrap()
    }

    #[test]
    fn pods_have_ranges_of_their_own_until_they_are_over() {
        let mut ranges = Ranges::new(UserIds::for_pods(3));
        let first = ranges.take(&uid("a")).unwrap();
        assert_eq!((first.first, first.length), (65_536, 65_536));
        ranges.keep(
            &uid("kept"),
            IdRange {
                first: 131_072,
                length: 65_536,
            },
        );
        assert_eq!(ranges.take(&uid("b")).unwrap().first, 196_608);
        assert_eq!(ranges.take(&uid("c")), None, "three pods, three ranges");
        ranges.give_back(&uid("kept"));
        assert_eq!(ranges.take(&uid("c")).unwrap().first, 131_072);
    }

    #[test]
    fn the_last_range_ends_within_what_a_number_holds() {
        let ids = UserIds::for_pods(u32::MAX);
        assert!(
            ids.first
                .checked_add((ids.pods - 1) * IDS_PER_POD)
                .unwrap()
                .checked_add(IDS_PER_POD - 1)
                .is_some()
        );
    }

    #[test]
    fn ids_set_aside_for_the_kubelet_are_used() {
        let of = |subuid: &str, subgid: &str| UserIds::of_kubelet(subuid, subgid, 2);
        assert_eq!(of("", "# none\nme:1:2"), Ok(UserIds::for_pods(2)));
        let two = "me:100000:65536\nkubelet:131072:131072\n";
        assert_eq!(of(two, two), Ok(UserIds { first: 131_072, pods: 2 }));
        for (table, why) in [
            (
                "kubelet:131073:131072",
                "kubelet user assigned ID 131073 is not a multiple of 65536",
            ),
            ("kubelet:0:131072", "kubelet user assigned ID 0 must be greater or equal to 65536"),
            (
                "kubelet:65536:131073",
                "kubelet user assigned IDs length 131073 is not a multiple of 65536",
            ),
            ("kubelet:65536:65536", "kubelet user assigned IDs are not enough to support 2 pods"),
            (
                "kubelet:65536:4294901760",
                "kubelet user assigned IDs from 65536, 4294901760 of them, are more than there are",
            ),
        ] {
            assert_eq!(of(table, table).unwrap_err(), why);
        }
        assert_eq!(of(two, "").unwrap_err(), "mismatched subuids and subgids for user \"kubelet\"");
        assert!(of("kubelet:a:b", "").unwrap_err().contains("are not numbers"));
        assert!(of("kubelet:1:2\nkubelet:3:4", "").unwrap_err().contains("more than one range"));
    }
}
