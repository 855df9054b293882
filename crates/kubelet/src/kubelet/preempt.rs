//! Critical pods for which others make room: these stop first, within bounds.
//!
//! Source: upstream `pkg/kubelet/preemption`.

use api::Uid;
use lifecycle::preemption;

use super::Kubelet;
use crate::eviction::stopped;
use crate::pod_worker::Wanted;

impl Kubelet {
    /// Ends `victims`, and keeps the pod until they have stopped.
    pub(super) fn make_room(&mut self, uid: Uid, wanted: Wanted, victims: &[Uid]) {
        let mut stopping = Vec::new();
        for victim in victims {
            let Some(worker) = self.workers.get(victim) else { continue };
            let grace = worker.wanted.borrow().desired.grace;
            tracing::warn!(uid = %victim, critical = %uid, "a pod is stopped to make room for a critical one");
            self.evict(victim, preemption());
            stopping.push((victim.clone(), grace));
        }
        self.held.insert(uid.clone(), wanted);
        let (ports, recorder) = (self.ports.clone(), self.recorder.clone());
        self.rooms.spawn(async move {
            let all = stopping.iter().map(|(victim, grace)| stopped(&ports, &recorder, victim, *grace));
            // Whoever has not stopped in time is being stopped all the same.
            futures::future::join_all(all).await;
            uid
        });
    }

    /// The room is there; the pod may be gone by now.
    pub(super) fn room_made(&mut self, made: Result<Uid, tokio::task::JoinError>) {
        match made {
            Ok(uid) => {
                if let Some(wanted) = self.held.remove(&uid) {
                    self.start(uid, wanted);
                }
            }
            Err(error) => tracing::error!(node = self.name, error = %error, "waiting for room failed; the pod starts with the next agent"),
        }
    }
}
