//! What hooks and probes do: one handler each, with its defaults filled in.

use std::fmt;
use std::time::Duration;

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
        port: u16,
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
        port: u16,
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
            Self::TcpSocket { port, .. } => write!(f, "TCP lifecycle hook ({port})"),
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
