//! The table of Event reasons and messages.
//!
//! Source: upstream `pkg/kubelet/events/event.go` and the places that use it,
//! as of v1.33.

use std::time::Duration;

use crate::input::{Download, Failure, FailureClass, Hook, ProbeKind};

/// Type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Something expected.
    Normal,
    /// Something a person may want to mend.
    Warning,
}

impl EventType {
    /// The wire form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// A Kubernetes Event about a pod or one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// Normal or Warning.
    pub event_type: EventType,
    /// Upstream's reason word.
    pub reason: String,
    /// What happened.
    pub message: String,
    /// `involvedObject.fieldPath`, for example `spec.containers{app}`.
    pub field_path: Option<String>,
}

impl PodEvent {
    pub(crate) fn normal(reason: &str, message: impl Into<String>) -> Self {
        Self {
            event_type: EventType::Normal,
            reason: reason.to_owned(),
            message: message.into(),
            field_path: None,
        }
    }

    pub(crate) fn warning(reason: &str, message: impl Into<String>) -> Self {
        Self {
            event_type: EventType::Warning,
            reason: reason.to_owned(),
            message: message.into(),
            field_path: None,
        }
    }

    pub(crate) fn of(mut self, field_path: String) -> Self {
        self.field_path = Some(field_path);
        self
    }
}

/// What is told of a download: its beginning, how far it is, its end.
pub(crate) fn download(image: &str, download: Download) -> PodEvent {
    match download {
        Download::Began => pulling(image),
        Download::Has { done_bytes, total_bytes } => pull_progress(image, done_bytes, total_bytes),
        Download::Ended { took, size_bytes } => pulled(image, took, Duration::ZERO, size_bytes),
    }
}

pub(crate) fn pulling(image: &str) -> PodEvent {
    PodEvent::normal("Pulling", format!("Pulling image \"{image}\""))
}

/// Reason of the event that says how far a download is. Upstream has none; its
/// newest message takes the place of the one before (`client::recorder`).
const PULL_PROGRESS: &str = "PullProgress";

fn pull_progress(image: &str, done_bytes: u64, total_bytes: u64) -> PodEvent {
    PodEvent::normal(
        PULL_PROGRESS,
        format!("Pulling image \"{image}\": {done_bytes} of {total_bytes} bytes"),
    )
}

pub(crate) fn pulled(image: &str, took: Duration, waited: Duration, size_bytes: u64) -> PodEvent {
    let (took, whole) = (duration(truncate_ms(took)), duration(truncate_ms(took + waited)));
    PodEvent::normal(
        "Pulled",
        format!("Successfully pulled image \"{image}\" in {took} ({whole} including waiting). Image size: {size_bytes} bytes."),
    )
}

pub(crate) fn present(image: &str) -> PodEvent {
    PodEvent::normal("Pulled", format!("Container image \"{image}\" already present on machine"))
}

pub(crate) fn failed_pull(image: &str, error: &str) -> PodEvent {
    PodEvent::warning("Failed", format!("Failed to pull image \"{image}\": {error}"))
}

pub(crate) fn failed(error: &str) -> PodEvent {
    PodEvent::warning("Failed", format!("Error: {error}"))
}

pub(crate) fn back_off_pull(image: &str) -> PodEvent {
    PodEvent::normal("BackOff", format!("Back-off pulling image \"{image}\""))
}

pub(crate) fn back_off_restart(container: &str, pod: &str) -> PodEvent {
    PodEvent::warning("BackOff", format!("Back-off restarting failed container {container} in pod {pod}"))
}

pub(crate) fn created(container: &str) -> PodEvent {
    PodEvent::normal("Created", format!("Created container: {container}"))
}

pub(crate) fn started(container: &str) -> PodEvent {
    PodEvent::normal("Started", format!("Started container {container}"))
}

/// Upstream tells this of its node, from the kernel's log, where
/// node-problem-detector runs; the reason and the first words are the same.
pub(crate) fn oom_killing(container: &str, killed: u64) -> PodEvent {
    let processes = if killed == 1 {
        "1 process".to_owned()
    } else {
        format!("{killed} processes")
    };
    PodEvent::warning(
        "OOMKilling",
        format!("Memory cgroup out of memory: Killed {processes} of container {container}, and not its first"),
    )
}

pub(crate) fn killing(message: String) -> PodEvent {
    PodEvent::normal("Killing", message)
}

pub(crate) fn hook_failed(hook: Hook) -> PodEvent {
    match hook {
        Hook::PostStart => PodEvent::warning("FailedPostStartHook", "PostStartHook failed"),
        Hook::PreStop => PodEvent::warning("FailedPreStopHook", "PreStopHook failed"),
    }
}

pub(crate) fn hook_fell_back(address: &str) -> PodEvent {
    PodEvent::warning(
        "LifecycleHTTPFallback",
        format!("request to HTTPS lifecycle hook {address} got HTTP response, retry with HTTP succeeded"),
    )
}

pub(crate) fn unhealthy(kind: ProbeKind, output: &str) -> PodEvent {
    PodEvent::warning("Unhealthy", format!("{} probe failed: {output}", kind.title()))
}

pub(crate) fn probe_errored(kind: ProbeKind, error: &str) -> PodEvent {
    PodEvent::warning(
        "Unhealthy",
        format!("{} probe errored and resulted in unknown state: {error}", kind.title()),
    )
}

pub(crate) fn probe_warning(kind: ProbeKind, body: &str) -> PodEvent {
    PodEvent::warning(
        "ProbeWarning",
        format!("{} probe warning: Probe terminated redirects, Response body: {body}", kind.title()),
    )
}

pub(crate) fn sandbox_changed() -> PodEvent {
    PodEvent::normal("SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
}

/// Why there is no sandbox. What upstream finds out before it asks for one
/// has words of its own.
///
/// Source: upstream `kubelet.go`, `SyncPod` (network, then the pod's cgroup),
/// and `kuberuntime_manager.go`.
pub(crate) fn no_sandbox(failure: &Failure) -> PodEvent {
    let error = &failure.message;
    match failure.class {
        FailureClass::NetworkNotReady => PodEvent::warning(
            "NetworkNotReady",
            format!(
                "network is not ready: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{error}"
            ),
        ),
        FailureClass::PodCgroup => PodEvent::warning(
            "FailedCreatePodContainer",
            format!("unable to ensure pod container exists: {error}"),
        ),
        FailureClass::PodDirectory => no_directories(error),
        _ => PodEvent::warning("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {error}")), // of the sandbox itself
    }
}

pub(crate) fn dns_omitted(message: &str) -> PodEvent {
    PodEvent::warning("DNSConfigForming", message)
}

pub(crate) fn failed_kill(error: &str) -> PodEvent {
    PodEvent::warning("FailedKillPod", format!("error killing pod: {error}"))
}

/// Why the volumes are not set up.
pub(crate) fn not_mounted(failure: &Failure) -> PodEvent {
    match failure.class {
        FailureClass::PodDirectory => no_directories(&failure.message),
        _ => PodEvent::warning("FailedMount", &failure.message), // of the volumes themselves
    }
}

/// Source: upstream `kubelet.go`, `SyncPod`, `FailedToMakePodDataDirectories`.
fn no_directories(error: &str) -> PodEvent {
    PodEvent::warning("Failed", format!("error making pod data directories: {error}"))
}

pub(crate) fn deadline_exceeded() -> PodEvent {
    PodEvent::normal("DeadlineExceeded", crate::input::DEADLINE_EXCEEDED)
}

fn truncate_ms(d: Duration) -> Duration {
    Duration::from_millis(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// A duration as Go prints it: `1.5s`, `350ms`, `2m40s`, `1h0m5s`, `0s`.
///
/// Source: Go `time.Duration.String`.
#[must_use]
pub fn duration(d: Duration) -> String {
    let trim = |text: String| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    };
    let nanos = d.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => trim(format!("{}.{:03}", nanos / 1_000, nanos % 1_000)) + "µs",
        1_000_000..1_000_000_000 => trim(format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000)) + "ms",
        _ => {
            let (h, m, s) = (d.as_secs() / 3600, d.as_secs() / 60 % 60, d.as_secs() % 60);
            let seconds = trim(format!("{s}.{:09}", d.subsec_nanos()));
            match (h, m) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_in_go() {
        let cases = [
            (0, "0s"),
            (350, "350ms"),
            (1_234, "1.234s"),
            (10_000, "10s"),
            (160_000, "2m40s"),
            (300_000, "5m0s"),
            (3_605_000, "1h0m5s"),
        ];
        for (ms, want) in cases {
            assert_eq!(duration(Duration::from_millis(ms)), want);
        }
        assert_eq!(duration(Duration::from_nanos(1_500)), "1.5µs");
    }

    #[test]
    fn what_keeps_a_sandbox_from_being_has_its_own_words() {
        let told = |class| {
            let event = no_sandbox(&Failure::new(class, "why"));
            format!("{} {}", event.reason, event.message)
        };
        assert_eq!(
            told(FailureClass::NetworkNotReady),
            "NetworkNotReady network is not ready: container runtime network not ready: NetworkReady=false \
             reason:NetworkPluginNotReady message:why"
        );
        assert_eq!(
            told(FailureClass::PodCgroup),
            "FailedCreatePodContainer unable to ensure pod container exists: why"
        );
        assert_eq!(told(FailureClass::PodDirectory), "Failed error making pod data directories: why");
        for class in [FailureClass::Sandbox, FailureClass::Network, FailureClass::Timeout] {
            assert_eq!(told(class), "FailedCreatePodSandBox Failed to create pod sandbox: why");
        }
    }

    #[test]
    fn a_pull_tells_its_time_and_size() {
        let event = pulled("nginx:1.17.1", Duration::from_micros(1_234_567), Duration::from_millis(100), 9);
        assert_eq!(
            event.message,
            "Successfully pulled image \"nginx:1.17.1\" in 1.234s (1.334s including waiting). Image size: 9 bytes."
        );
    }
}
