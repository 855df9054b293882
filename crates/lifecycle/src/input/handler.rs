//! What hooks and probes do: one handler each, with its defaults filled in.

use std::fmt;
use std::time::Duration;

/// A port; if the one named does not exist, why, in upstream's words: only
/// whoever asks for it fails.
pub type Port = Result<u16, String>;

/// One thing a hook or a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    /// Run a command in the container.
    Exec {
        /// Program and arguments, as written.
        command: Vec<String>,
    },
    /// GET a page.
    HttpGet {
        /// Host to ask; the pod's address when absent.
        host: Option<String>,
        /// Port.
        port: Port,
        /// Path, with query.
        path: String,
        /// `HTTPS` instead of `HTTP`; certificates are not verified.
        https: bool,
        /// Headers, in order.
        headers: Vec<(String, String)>,
    },
    /// Open a connection.
    TcpSocket {
        /// Host to connect to; the pod's address when absent.
        host: Option<String>,
        /// Port.
        port: Port,
    },
    /// Ask the gRPC health service. Of probes alone.
    Grpc {
        /// Port.
        port: u16,
        /// Service asked about; empty for the whole server.
        service: String,
    },
    /// Wait. Of hooks alone.
    Sleep {
        /// For so long.
        time: Duration,
    },
}

/// The word for the handler, as waiting messages begin.
impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { command } => write!(f, "Exec lifecycle hook ([{}])", command.join(" ")),
            Self::HttpGet { path, .. } => write!(f, "HTTP lifecycle hook ({path})"),
            Self::TcpSocket { port, .. } => write!(f, "TCP lifecycle hook ({})", port.clone().unwrap_or_default()),
            Self::Grpc { port, .. } => write!(f, "gRPC lifecycle hook ({port})"),
            Self::Sleep { time } => write!(f, "Sleep lifecycle hook ({})", time.as_secs()),
        }
    }
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Right after the process was started.
    PostStart,
    /// Before the process is told to stop.
    PreStop,
}

impl Hook {
    /// The field's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
        }
    }
}

/// The hooks of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// `lifecycle.postStart`.
    pub post_start: Option<Handler>,
    /// `lifecycle.preStop`.
    pub pre_stop: Option<Handler>,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Restarts a container that does not work any more.
    Liveness,
    /// Says whether a container can be asked.
    Readiness,
    /// Holds the other two back until the container has started.
    Startup,
}

impl ProbeKind {
    /// Every kind, startup first: it decides whether the others run.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];

    /// As in actions and notes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }

    /// As events begin.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// A probe, its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What one attempt does.
    pub handler: Handler,
    /// Between the container's start and the first attempt.
    pub initial_delay: Duration,
    /// Of one attempt.
    pub timeout: Duration,
    /// From attempt to attempt.
    pub period: Duration,
    /// Successes in a row that make a result.
    pub success_threshold: u32,
    /// Failures in a row that make a result.
    pub failure_threshold: u32,
    /// Instead of the pod's, for a kill this probe causes.
    pub grace: Option<Duration>,
}

/// The probes of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// `livenessProbe`.
    pub liveness: Option<Probe>,
    /// `readinessProbe`.
    pub readiness: Option<Probe>,
    /// `startupProbe`.
    pub startup: Option<Probe>,
}

impl Probes {
    /// The probe of a kind.
    #[must_use]
    pub fn get(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Startup => self.startup.as_ref(),
        }
    }
}

/// How one attempt of a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// Well.
    Success,
    /// Well, though a redirect to another host was not followed; its body.
    Warning(String),
    /// Badly; the output.
    Failure(String),
    /// Nobody knows; the error. It counts neither way.
    Error(String),
}
