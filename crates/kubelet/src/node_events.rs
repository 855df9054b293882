//! The node's own events.
//!
//! Source: upstream `kubelet_node_status.go`, `nodestatus/setters.go`.

use std::sync::Arc;

use api::typed::{Node, ObjectReference};
use client::{RecordedEvent, Recorder};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Tells what happens to the node.
#[derive(Clone)]
pub(crate) struct NodeEvents {
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    name: String,
}

impl NodeEvents {
    pub(crate) fn new(recorder: Recorder, clock: Arc<dyn Clock>, name: String) -> Self {
        Self { recorder, clock, name }
    }

    fn record(&self, kind: &'static str, reason: &str, message: String) {
        self.recorder.record(RecordedEvent {
            involved: reference(&self.name),
            kind,
            reason: reason.to_owned(),
            message,
            at: self.clock.now(),
        });
    }

    /// A change of the node's status, in the one form upstream has for them.
    pub(crate) fn status_is(&self, reason: &str) {
        self.record("Normal", reason, format!("Node {} status is now: {reason}", self.name));
    }

    /// What nobody but a person can mend.
    pub(crate) fn warn(&self, reason: &str, message: String) {
        self.record("Warning", reason, message);
    }

    /// The kubelet is at work; `rebooted` with the new boot id if the machine
    /// was started anew since the node last told of itself.
    pub(crate) fn started(&self, rebooted: Option<&str>, shutting_down: bool) {
        self.record("Normal", "Starting", "Starting kubelet.".to_owned());
        if let Some(boot_id) = rebooted {
            self.warn("Rebooted", format!("Node {} has been rebooted, boot id: {boot_id}", self.name));
        }
        if shutting_down {
            self.record("Normal", "NodeShutdown", "Shutdown manager detected shutdown event".to_owned());
        }
        for reason in ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"] {
            self.status_is(reason);
        }
        self.status_is(if shutting_down { "NodeNotReady" } else { "NodeReady" });
    }

    /// Tells of every cordon and uncordon until `shutdown`.
    pub(crate) async fn follow_cordons(self, mut node: watch::Receiver<Node>, shutdown: CancellationToken) {
        let mut cordoned = false;
        loop {
            let now = node
                .borrow_and_update()
                .spec
                .as_ref()
                .and_then(|spec| spec.unschedulable)
                .unwrap_or(false);
            if std::mem::replace(&mut cordoned, now) != now {
                self.status_is(if now { "NodeNotSchedulable" } else { "NodeSchedulable" });
            }
            tokio::select! {
                changed = node.changed() => if changed.is_err() { return },
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// The node, as its events name it. Upstream's kubelet uses the name where the
/// UID belongs; so do clients that look these events up.
fn reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".to_owned()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..ObjectReference::default()
    }
}
