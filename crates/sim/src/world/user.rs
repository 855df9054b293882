//! What people, and misfortune, do to a world.

use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ExitCause, RunState, Uid};
use api::typed::{Pod, PodStatus, WireTime};
use lifecycle::{Desired, Eviction, Input, Rejection, Verb};

use crate::world::{Happening, World};

impl World {
    /// A pod is created and bound to the node.
    pub fn create_pod(&mut self, mut pod: Pod) -> Uid {
        let uid: Uid = pod
            .metadata
            .uid
            .clone()
            .unwrap_or_default()
            .parse()
            .expect("worlds name their pods well");
        pod.metadata.generation = Some(1);
        pod.status = Some(PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some("BestEffort".to_owned()),
            ..PodStatus::default()
        });
        self.api.insert(uid.clone(), pod);
        self.after(Duration::ZERO, Happening::Watch { uid: uid.clone() });
        uid
    }

    /// DELETE, as the API server does it: at once with grace zero or a terminal
    /// phase, else marked; a repetition can only shorten.
    pub fn delete(&mut self, uid: &Uid, grace_s: Option<u64>) {
        let Some(pod) = self.api.get_mut(uid) else { return };
        let spec_s = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let mut grace_s = grace_s.unwrap_or(u64::try_from(spec_s).unwrap_or(0));
        let terminal = pod
            .status
            .as_ref()
            .is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        if terminal {
            grace_s = 0;
        }
        let before = pod.metadata.deletion_grace_period_seconds.and_then(|s| u64::try_from(s).ok());
        if grace_s == 0 {
            self.api.remove(uid);
        } else if before.is_none_or(|b| grace_s < b) {
            let asked_at = match (&pod.metadata.deletion_timestamp, before) {
                (Some(at), Some(before)) => Time::from(at) - Duration::from_secs(before),
                _ => self.now, // the first
            };
            pod.metadata.deletion_timestamp = Some(WireTime((asked_at + Duration::from_secs(grace_s)).max(asked_at).wire().0));
            pod.metadata.deletion_grace_period_seconds = i64::try_from(grace_s).ok();
            pod.metadata.generation = pod.metadata.generation.map(|generation| generation + 1);
        }
        let now = self.now;
        self.checker.deletion_asked(now, uid, grace_s);
        self.after(Duration::from_millis(1), Happening::Watch { uid: uid.clone() });
    }

    /// A change of the spec or of conditions.
    pub fn change(&mut self, uid: &Uid, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.api.get_mut(uid) {
            let before = pod.spec.clone();
            change(pod);
            if pod.spec != before {
                pod.metadata.generation = pod.metadata.generation.map(|generation| generation + 1);
            }
            self.after(Duration::from_millis(1), Happening::Watch { uid: uid.clone() });
        }
    }

    /// The kubelet evicts a pod.
    pub fn evict(&mut self, uid: &Uid, eviction: Eviction) {
        if let Some(worker) = self.workers.get(uid) {
            let desired = Desired {
                eviction: Some(eviction),
                ..worker.machine.desired().clone()
            };
            self.tell(uid, Input::Desired(Box::new(desired)));
        }
    }

    /// The node is being shut down; the pod is to stop within `grace`.
    pub fn drain(&mut self, uid: &Uid, grace: Duration) {
        if let Some(worker) = self.workers.get(uid) {
            let desired = Desired {
                drain: Some(grace),
                ..worker.machine.desired().clone()
            };
            self.tell(uid, Input::Desired(Box::new(desired)));
        }
    }

    /// The node will refuse the pod once it sees it.
    pub fn reject(&mut self, uid: &Uid, rejection: Rejection) {
        self.rejections.insert(uid.clone(), rejection);
    }

    /// The newest attempt of a container, if it runs.
    #[must_use]
    pub fn running(&self, uid: &Uid, name: &str) -> Option<ContainerId> {
        let held = self.runtime.held(uid)?;
        let newest = held
            .attempts
            .iter()
            .filter(|a| a.view.name == name)
            .max_by_key(|a| a.view.attempt)?;
        matches!(newest.view.state, RunState::Running { .. }).then(|| newest.view.id.clone())
    }

    /// A process exits by itself; false if the container does not run.
    pub fn exit(&mut self, uid: &Uid, name: &str, code: i32, cause: ExitCause) -> bool {
        let Some(id) = self.running(uid, name) else { return false };
        self.runtime.end(self.now, uid, &id, code, cause);
        self.attempt_ended(uid, &id);
        true
    }

    /// The sandbox and all in it die, and the exit codes with them.
    pub fn sandbox_dies(&mut self, uid: &Uid) {
        self.say("the sandbox dies");
        let ids: Vec<_> = self
            .runtime
            .held(uid)
            .iter()
            .flat_map(|h| &h.attempts)
            .map(|a| a.view.id.clone())
            .collect();
        self.runtime.stop_sandbox(self.now, uid, ExitCause::Lost);
        for id in ids {
            self.attempt_ended(uid, &id);
        }
    }

    /// The agent is gone at once and comes back after a while. What it was
    /// doing either had its effect or never will.
    pub fn agent_dies(&mut self, away: Duration) {
        self.say("the agent dies");
        self.agent_up = false;
        let pending: Vec<_> = self.pending_effects();
        for (uid, action) in pending {
            let tried = !matches!(action.verb, Verb::Pull { .. } | Verb::ConfirmDeletion);
            if tried && !self.checker.cancelled(&uid, action.id) && self.faults.rng.permille(500) {
                let _ = self.apply(&uid, &action); // nobody is there to hear of it
            }
        }
        self.epoch += 1;
        self.runtime.agent_died();
        self.workers.clear();
        self.after(away, Happening::AgentStarts);
    }

    /// Whether the agent runs.
    #[must_use]
    pub fn agent_is_up(&self) -> bool {
        self.agent_up
    }

    pub(crate) fn agent_starts(&mut self) {
        self.say("the agent starts");
        self.agent_up = true;
        let mut uids = self.runtime.list();
        uids.extend(self.api.keys().cloned());
        uids.sort();
        uids.dedup();
        for uid in uids {
            self.adopt(&uid);
        }
    }

    fn pending_effects(&self) -> Vec<(Uid, lifecycle::Action)> {
        let effects = self.heap.values().filter_map(|h| match h {
            Happening::Effect { uid, epoch, action } if *epoch == self.epoch => Some((uid.clone(), action.clone())),
            _ => None, // everything else dies with the agent or goes on without it
        });
        effects.collect()
    }
}
