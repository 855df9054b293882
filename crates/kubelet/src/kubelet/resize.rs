//! Pods whose containers ask for other resources than they have.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Uid;
use api::typed::Pod;
use lifecycle::ResizePending;
use lifecycle::resize::{self, Grant};
use tokio::time::Instant;

use super::Kubelet;

/// How often what does not fit is tried again; a pod that goes is noticed at
/// once.
const AGAIN_EVERY: Duration = Duration::from_secs(5);

/// What pods were granted, and who waits for more.
#[derive(Default)]
pub(super) struct Resizes {
    granted: BTreeMap<Uid, Grant>,
    waiting: BTreeMap<Uid, Pod>,
    again_at: Option<Instant>,
}

impl Resizes {
    /// When those who wait are to be looked at.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Those who wait, as they were last seen; to be applied again.
    pub(super) fn due(&mut self) -> Vec<Pod> {
        self.again_at = None;
        self.waiting.values().cloned().collect()
    }

    /// A pod is gone; its room may be somebody else's.
    pub(super) fn forget(&mut self, uid: &Uid) {
        self.granted.remove(uid);
        self.waiting.remove(uid);
        if !self.waiting.is_empty() {
            self.again_at = Some(Instant::now());
        }
    }
}

impl Kubelet {
    /// The pod with what it is granted, and why that is not what it asks for.
    pub(super) fn grant(&mut self, uid: &Uid, pod: Pod) -> (Pod, Option<ResizePending>) {
        let asked = resize::asked(&pod);
        let granted = self.resizes.granted.entry(uid.clone()).or_insert_with(|| resize::granted(&pod));
        if resize::agrees(&asked, granted) {
            self.resizes.waiting.remove(uid);
            return (pod, None);
        }
        let is_over = api::pods::is_terminal(&pod) || api::pods::is_terminating(&pod);
        let pending = if is_over {
            None
        } else {
            let others = self.others(uid);
            let others: Vec<&Pod> = others.iter().map(|(_, pod)| pod.as_ref()).collect();
            match resize::verdict(&pod, &others, &self.node.borrow()) {
                Ok(()) => {
                    tracing::info!(uid = %uid, action = "resize", because = "asked", "the pod is given other resources");
                    self.resizes.granted.insert(uid.clone(), asked);
                    self.resizes.waiting.remove(uid);
                    // What it gave back may be enough for another.
                    if !self.resizes.waiting.is_empty() {
                        self.resizes.again_at = Some(Instant::now());
                    }
                    return (pod, None);
                }
                Err(pending) => Some(pending),
            }
        };
        if pending.is_some() {
            self.resizes.waiting.insert(uid.clone(), pod.clone());
            self.resizes.again_at.get_or_insert(Instant::now() + AGAIN_EVERY);
        }
        let granted = self.resizes.granted.get(uid).cloned().unwrap_or_default();
        (resize::with_grant(pod, &granted), pending)
    }
}
