//! The entries of the flight recorder, as data.

use api::Time;
use serde::{Deserialize, Serialize};

/// Something about a pod became different.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// When it was known here.
    #[serde(with = "instant")]
    pub at: Time,
    /// The container, if it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Which attempt of the container: 0 is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// What.
    #[serde(flatten)]
    pub change: Change,
    /// Why, where there is more to it than the change itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Cause>,
}

/// What became different.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Change {
    /// This agent took over a pod that was here before it.
    TakenOver,
    /// Deletion was asked for, or a shorter grace for it.
    Deleting {
        /// Until the kill.
        grace_s: u64,
    },
    /// The node wants the pod to end.
    Evicting {
        /// `status.reason`.
        reason: String,
        /// `status.message`.
        message: String,
    },
    /// The node does not take the pod.
    Refused {
        /// `status.reason`.
        reason: String,
        /// What was wrong.
        message: String,
    },
    /// The API no longer knows the pod.
    Vanished,
    /// The spec changed.
    Respecified {
        /// `metadata.generation`.
        generation: i64,
    },
    /// Everything is being stopped.
    Terminating,
    /// Nothing runs any more.
    Terminated,
    /// The sandbox came up or went down.
    Sandbox {
        /// 0 for the first.
        sandbox_attempt: u32,
        /// It is up.
        ready: bool,
    },
    /// An image was downloaded.
    Pulled {
        /// As the spec names it.
        image: String,
        /// Time of the download.
        took_s: f64,
        /// Its size.
        size_bytes: u64,
    },
    /// An attempt was made, not started.
    Created,
    /// A process was started.
    Running,
    /// A process has ended, or never could start.
    Exited {
        /// Exit code; 128 + signal when a signal ended it.
        code: i32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// How long it ran.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran_s: Option<f64>,
        /// Runtime's or termination message.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// A container is kept from starting.
    Waiting {
        /// Upstream's word.
        reason: String,
        /// Its message.
        message: String,
    },
    /// One attempt of a probe failed.
    ProbeFailed {
        /// `liveness`, `readiness` or `startup`.
        probe: String,
        /// What it said.
        output: String,
        /// Failures in a row.
        failures: u32,
        /// So many make the result.
        threshold: u32,
    },
    /// A probe could not be made.
    ProbeErrored {
        /// `liveness`, `readiness` or `startup`.
        probe: String,
        /// Why not.
        error: String,
    },
    /// A threshold was reached.
    ProbeTurned {
        /// `liveness`, `readiness` or `startup`.
        probe: String,
        /// Successes, not failures.
        well: bool,
    },
    /// A hook began.
    HookBegan {
        /// `postStart` or `preStop`.
        hook: String,
        /// It is given up after this long.
        limit_s: f64,
    },
    /// A hook ended.
    HookEnded {
        /// `postStart` or `preStop`.
        hook: String,
        /// How long it ran.
        took_s: f64,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// The stop signal was sent.
    Stopping {
        /// The signal; the image's, else SIGTERM, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Until the kill.
        grace_s: f64,
    },
    /// An action did not do what was asked.
    Failed {
        /// The action.
        action: String,
        /// The runtime's, registry's or network's own words.
        error: String,
        /// When it is tried again, if it is.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "optional_instant")]
        retry_at: Option<Time>,
    },
    /// The phase changed.
    Phase {
        /// The new one.
        phase: String,
        /// `status.reason`.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// The condition `Ready` changed.
    Ready {
        /// It is True.
        ready: bool,
        /// Its message.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
}

/// Why something became different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Cause {
    /// Somebody deleted the pod.
    Deletion {
        /// Who, if it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The pod is no longer in the API.
    Vanished,
    /// The node evicts the pod.
    Eviction {
        /// `status.message`.
        message: String,
    },
    /// The node did not take the pod.
    Refusal,
    /// `activeDeadlineSeconds` has passed.
    Deadline {
        /// Its value.
        after_s: u64,
    },
    /// Every container is finished for good.
    Finished,
    /// A liveness or startup probe failed too often.
    Probe {
        /// Which.
        probe: String,
        /// What its last failure said, if it is known.
        output: String,
    },
    /// The `postStart` hook failed.
    Hook {
        /// How.
        error: String,
    },
    /// The spec names another image.
    ImageChanged,
    /// A newer attempt or a newer sandbox took its place.
    Superseded,
    /// It was given other resources.
    Resized,
    /// The grace period became shorter.
    GraceShortened,
    /// The sandbox does not answer or has no address.
    SandboxLost,
    /// It was its turn.
    ItsTurn,
    /// The attempt before ended, and the policy says again.
    Restart {
        /// Exit code of the attempt before.
        code: i32,
    },
    /// Nobody asked for it.
    Itself,
    /// The kernel, for want of memory within the container's limit.
    OutOfMemory,
    /// The runtime could not start the process.
    NotStarted,
    /// The runtime lost sight of it.
    Lost,
    /// It was told to stop.
    Stopped {
        /// Why.
        why: Box<Cause>,
        /// It did not end within its grace, and was killed.
        killed: bool,
    },
}

/// Instants as RFC 3339 with microseconds.
pub(super) mod instant {
    use api::Time;
    use api::typed::MicroTime;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::flight) fn serialize<S: Serializer>(at: &Time, to: S) -> Result<S::Ok, S::Error> {
        at.wire_micro().serialize(to)
    }

    pub(in crate::flight) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Time, D::Error> {
        MicroTime::deserialize(from).map(|time| time.0.into())
    }
}

/// The same, where there may be none.
pub(super) mod optional_instant {
    use api::Time;
    use api::typed::MicroTime;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option)] // as serde's `with` wants it
    pub(in crate::flight) fn serialize<S: Serializer>(at: &Option<Time>, to: S) -> Result<S::Ok, S::Error> {
        at.map(Time::wire_micro).serialize(to)
    }

    pub(in crate::flight) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Time>, D::Error> {
        Ok(Option::<MicroTime>::deserialize(from)?.map(|time| time.0.into()))
    }
}
