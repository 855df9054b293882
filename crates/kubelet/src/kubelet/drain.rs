//! The end of a node: its pods are stopped by their grace, those that matter
//! most last.
//!
//! What may run again is to run again with the node, so its phase stays; a pod
//! whose containers may not is over, in upstream's words.
//!
//! Source: upstream `pkg/kubelet/nodeshutdown`; KEP-2000.

use std::time::Duration;

use api::typed::Pod;
use lifecycle::{Desired, Eviction, RestartPolicy};
use tokio::time::Instant;

use super::Kubelet;

/// Status of a pod that ends with its node for good.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// A process has so long between its stop signal and its kill, whatever the
/// grace; and the runtime its own time to see to it.
const BEYOND_GRACE: Duration = Duration::from_secs(10);

/// How long pods may take to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// All of it.
    pub grace: Duration,
    /// Of that, for critical pods, which stop after the others.
    pub critical: Duration,
}

/// Who is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Nobody,
    Regular,
    Critical,
}

/// How far it is.
pub(super) struct Draining {
    plan: Drain,
    turn: Turn,
    /// The next turn comes now, whoever still runs.
    until: Instant,
}

impl Draining {
    pub(super) fn new(plan: Drain) -> Self {
        Self {
            plan,
            turn: Turn::Nobody,
            until: Instant::now(),
        }
    }

    /// When it must be looked at again.
    pub(super) fn until(&self) -> Option<Instant> {
        (self.turn > Turn::Nobody).then_some(self.until)
    }
}

/// What a pod is to be now that it must stop within `grace`.
fn stopping(desired: &mut Desired, grace: Duration) {
    desired.drain = Some(grace);
    if desired.restart_policy == RestartPolicy::Never {
        desired.eviction.get_or_insert_with(|| Eviction {
            reason: REASON.to_owned(),
            message: MESSAGE.to_owned(),
            grace: Some(grace),
        });
    }
}

impl Kubelet {
    /// Goes on with the shutdown: the next turn when this one has ended, or
    /// its time is up. True when nobody is left.
    pub(super) fn drain_on(&mut self) -> bool {
        let Some(draining) = &mut self.draining else { return false };
        let critical = |pod: &Pod| lifecycle::evict::is_critical(pod);
        let (mut regular, mut important) = (Vec::new(), Vec::new());
        for worker in self.workers.values() {
            let matters = worker.wanted.borrow().pod.as_deref().is_some_and(critical);
            if matters { &mut important } else { &mut regular }.push(worker);
        }
        let late = Instant::now() >= draining.until;
        let (turn, grace, whom) = match draining.turn {
            Turn::Nobody => (Turn::Regular, draining.plan.grace.saturating_sub(draining.plan.critical), regular),
            Turn::Regular if regular.is_empty() || late => (Turn::Critical, draining.plan.critical, important),
            Turn::Critical if regular.is_empty() && important.is_empty() => return true,
            Turn::Critical if late => {
                tracing::warn!(pods = regular.len() + important.len(), "some pods did not stop in time");
                return true;
            }
            Turn::Regular | Turn::Critical => return false,
        };
        draining.turn = turn;
        draining.until = Instant::now() + grace + BEYOND_GRACE;
        for worker in &whom {
            worker.wanted.send_modify(|wanted| stopping(&mut wanted.desired, grace));
        }
        whom.is_empty() && self.drain_on()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_run_again_is_over() {
        let desired = |policy: RestartPolicy| {
            let mut desired = Desired::orphan("u".parse().unwrap());
            desired.restart_policy = policy;
            stopping(&mut desired, Duration::from_secs(5));
            desired
        };
        for policy in [RestartPolicy::Always, RestartPolicy::OnFailure] {
            let desired = desired(policy);
            assert_eq!((desired.drain, desired.eviction), (Some(Duration::from_secs(5)), None));
        }
        let eviction = desired(RestartPolicy::Never).eviction.unwrap();
        assert_eq!((eviction.reason.as_str(), eviction.message.as_str()), (REASON, MESSAGE));
    }
}
