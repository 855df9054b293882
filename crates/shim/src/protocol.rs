//! What an agent may ask a shim, and what it is told.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON: an
//! [`Envelope`] whose `id` pairs an answer with its request. Id 0 is an event,
//! pushed to every connection. A shim outlives the agent that started it, so
//! both sides ignore fields they do not know, and a request a shim does not
//! know is answered with [`Refusal::Unsupported`]: new fields need defaults,
//! and variants are never renamed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Spoken by this build. Raised when a request changes its meaning.
pub const VERSION: u32 = 1;

/// Longest frame either side accepts.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

/// Most output of an executed command that is kept.
pub const EXEC_OUTPUT_BYTES_MAX: usize = 16 << 10;

/// A body and the request it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the asking side, not 0; repeated in the answer. 0 is an event.
    pub id: u64,
    /// The request or the answer.
    pub body: T,
}

/// What an agent may ask. All may be repeated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Which protocol do you speak? The first request of a connection.
    Hello {
        /// The agent's version.
        version: u32,
    },
    /// Make the namespaces and the pod's cgroup.
    RunSandbox(SandboxSpec),
    /// Tell the state of every attempt.
    Status,
    /// Make one attempt, not started.
    Create(Box<CreateSpec>),
    /// Start its process.
    Start {
        /// Identity of the attempt.
        id: String,
    },
    /// Send a signal to its first process.
    Signal {
        /// Identity of the attempt.
        id: String,
        /// Signal number.
        signal: i32,
    },
    /// Kill everything in its cgroup.
    Kill {
        /// Identity of the attempt.
        id: String,
    },
    /// Run a command in it.
    Exec(ExecSpec),
    /// Run a command whose streams the asking side holds. Their other ends
    /// come with the first byte of the frame; see [`ExecStreamSpec`]. Answered
    /// when the command has ended. It is killed when the connection closes, so
    /// each such command has a connection of its own.
    ExecStream(ExecStreamSpec),
    /// Join the streams of a container; see [`AttachSpec`]. Answered when the
    /// container has ended and everything it wrote is delivered. The
    /// connection's end detaches.
    Attach(AttachSpec),
    /// Whoever is attached by this connection has no more input: closes the
    /// container's standard input if that is to be done once.
    CloseStdin {
        /// Identity of the attempt.
        id: String,
    },
    /// Kill the command an earlier request of this connection started.
    CancelExec {
        /// Id of that request.
        request: u64,
    },
    /// Forget an attempt that has ended.
    Remove {
        /// Identity of the attempt.
        id: String,
    },
    /// Kill everything, remove the pod's cgroup, answer, exit.
    Shutdown,
}

/// What a shim answers or, with id 0, tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// The shim's version.
        version: u32,
        /// The shim's process id; its `/proc/<pid>/ns/net` is the pod's.
        pid: i32,
    },
    /// To [`Request::Status`].
    Status(Status),
    /// It is done.
    Done,
    /// To [`Request::Exec`].
    Exec {
        /// Exit code; 128 + signal when a signal ended it.
        code: i32,
        /// The start of standard output and error together.
        output: String,
        /// It was killed because its time was up.
        timed_out: bool,
    },
    /// It could not be done.
    Refused {
        /// What kind of trouble.
        kind: Refusal,
        /// For people, with what to do where that is known.
        message: String,
    },
    /// Event: the state of an attempt changed.
    Changed {
        /// Identity of the attempt.
        id: String,
    },
}

/// What kind of trouble a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No such attempt.
    NotFound,
    /// The configuration cannot be run; trying again will not help.
    Config,
    /// The process could not be started.
    Start,
    /// The request is unknown to this shim, or came in the wrong state.
    Unsupported,
    /// A system call failed.
    System,
    /// The pod's cgroup could not be made.
    PodCgroup,
}

/// What the pod's containers share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// New network and UTS namespaces; otherwise the node's.
    pub own_network: bool,
    /// New IPC namespace; otherwise the node's.
    pub own_ipc: bool,
    /// One process-id namespace for all containers.
    pub shared_pid: bool,
    /// Hostname in the new UTS namespace.
    pub hostname: String,
    /// Kernel parameters of the new namespaces: dotted names and values.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Limits of the whole pod.
    pub limits: Limits,
    /// A user namespace of its own, with these of the node's ids in it;
    /// otherwise the node's.
    #[serde(default)]
    pub ids: Option<IdRange>,
}

/// Users and groups of the node that are a pod's 0, 1, 2 and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The node's number of the pod's 0.
    pub first: u32,
    /// How many there are.
    pub length: u32,
}

impl IdRange {
    /// The node's number of one of the pod's, if the pod has it.
    #[must_use]
    pub fn on_node(&self, id: u32) -> Option<u32> {
        self.first.checked_add(id).filter(|_| id < self.length)
    }
}

/// Cgroup limits; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Relative weight, cgroup v1 scale (2 to 262144).
    pub cpu_shares: Option<u64>,
    /// Hard limit in thousandths of a core.
    pub cpu_milli: Option<u64>,
    /// Hard limit in bytes.
    pub memory_bytes: Option<u64>,
    /// Most processes and threads.
    #[serde(default)]
    pub processes: Option<u64>,
    /// Hard limits in bytes by page size, in the kernel's words such as `2MB`.
    #[serde(default)]
    pub hugepages: Vec<(String, u64)>,
}

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateSpec {
    /// Identity of the attempt; names its directory and its cgroup.
    pub id: String,
    /// OCI runtime spec. The user is filled in by the shim from `user`.
    pub spec: oci_spec::runtime::Spec,
    /// Unpacked image layers, bottom first.
    pub layers: Vec<PathBuf>,
    /// Who it runs as.
    pub user: UserSpec,
    /// Its limits.
    #[serde(default)]
    pub limits: Limits,
    /// Log file; its directory is made.
    pub log_path: PathBuf,
    /// Keep standard input open.
    pub stdin: bool,
    /// Close it when the first who attached to it is done.
    #[serde(default)]
    pub stdin_once: bool,
    /// Give it a terminal, which is then its input and its output.
    #[serde(default)]
    pub tty: bool,
    /// How much of its log is kept.
    #[serde(default)]
    pub log_limits: LogLimits,
    /// Read the end of the log when the message file is empty and it failed.
    pub message_from_log: bool,
    /// The container has a file for its last words.
    pub message_file: bool,
    /// It may use every device of the node.
    #[serde(default)]
    pub all_devices: bool,
    /// What its volumes are mounted from; see [`crate::stage`].
    #[serde(default)]
    pub staged: Vec<Staged>,
    /// Identity of the running attempt whose process-id namespace it joins,
    /// instead of having one of its own.
    #[serde(default)]
    pub pid_namespace_of: Option<String>,
}

/// One volume, or a path in it, to be made ready for a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// The volume on the node.
    pub source: PathBuf,
    /// Layers of an image, bottom first, whose files are the volume in place of
    /// `source`, read-only.
    #[serde(default)]
    pub layers: Option<Vec<PathBuf>>,
    /// A directory nothing of which is mounted, whatever leads there.
    #[serde(default)]
    pub outside: Option<PathBuf>,
    /// A path in it, made where it is missing; no link leads it out.
    #[serde(default)]
    pub sub_path: Option<PathBuf>,
    /// Later mounts of the node are seen.
    #[serde(default)]
    pub slave: bool,
    /// Mounts made in the container are seen on the node, and the other way.
    #[serde(default)]
    pub shared: bool,
    /// What it is for, in messages.
    pub what: String,
}

/// Who a container runs as, before names are looked up in its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserSpec {
    /// The image's `user`, `user:group`, number or name; empty for root.
    pub image: String,
    /// Overrides the user of the image.
    pub uid: Option<u32>,
    /// Overrides the group of the image.
    pub gid: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Leave out those the image's `/etc/group` puts the user in.
    #[serde(default)]
    pub only_these_groups: bool,
}

/// A command to run in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Identity of the attempt.
    pub id: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Kill it after this long.
    pub timeout_ms: Option<u64>,
}

/// When a log is rotated, and how much of it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file of at least this many bytes is put aside.
    pub file_bytes_max: u64,
    /// Files kept, the one being written included; at least 2.
    pub files_max: u32,
}

/// Source: kubelet configuration, `containerLogMaxSize`, `containerLogMaxFiles`.
impl Default for LogLimits {
    fn default() -> Self {
        Self {
            file_bytes_max: 10 << 20,
            files_max: 5,
        }
    }
}

/// A command whose streams the asking side holds.
///
/// With a terminal one descriptor comes along: a socket over which the
/// terminal is handed back, as [`HANDED_TERMINAL`] and its descriptor.
/// Otherwise, in this order, those that are true: the end to read its input
/// from, the ends to write its output and its errors to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecStreamSpec {
    /// Identity of the attempt.
    pub id: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets standard input.
    pub stdin: bool,
    /// Its standard output is wanted.
    pub stdout: bool,
    /// Its standard error is wanted.
    pub stderr: bool,
    /// It gets a terminal of this size instead.
    pub terminal: Option<TerminalSize>,
}

/// Rows and columns of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// Which streams of a container are joined.
///
/// A socket comes along, and after it the ends to write output and errors to,
/// those that are true. Over the socket the shim hands one byte:
/// [`HANDED_TERMINAL`] or [`HANDED_STDIN`] with the descriptor to write input
/// to, or [`HANDED_NOTHING`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachSpec {
    /// Identity of the attempt.
    pub id: String,
    /// Its standard input is wanted.
    pub stdin: bool,
    /// Its standard output is wanted, from now on.
    pub stdout: bool,
    /// Its standard error is wanted, from now on.
    pub stderr: bool,
}

/// Handed over with a terminal's controlling side.
pub const HANDED_TERMINAL: u8 = b'T';
/// Handed over with a pipe to a container's standard input.
pub const HANDED_STDIN: u8 = b'P';
/// Handed over alone: there is no input.
pub const HANDED_NOTHING: u8 = b'-';

/// Most descriptors that come with a frame.
pub const DESCRIPTORS_MAX: usize = 3;

/// The state of every attempt the shim knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The sandbox was made.
    pub sandbox: bool,
    /// In no particular order.
    pub containers: Vec<ContainerStatus>,
}

/// The state of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Identity of the attempt.
    pub id: String,
    /// What it is doing.
    pub state: State,
    /// Processes other than its first that the kernel killed for want of memory.
    #[serde(default)]
    pub oom_kills: u64,
}

/// What an attempt is doing. Times are nanoseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Being made.
    Creating,
    /// Made, not started.
    Created,
    /// The process runs.
    Running {
        /// When it was started.
        started_at_ns: i64,
    },
    /// It has ended.
    Exited(crate::record::ExitRecord),
}

/// A frame that cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Not the JSON expected. Carries the frame's id where it could be read.
    #[error("frame {id} is not understood: {cause}")]
    Malformed {
        /// The frame's id, 0 if unreadable.
        id: u64,
        /// What the parser said.
        cause: serde_json::Error,
    },
}

/// Encodes one frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the body is too big to be accepted.
pub fn encode<T: Serialize>(id: u64, body: &T) -> Result<Vec<u8>, FrameError> {
    #[derive(Serialize)]
    struct Borrowed<'a, T> {
        id: u64,
        body: &'a T,
    }
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, &Borrowed { id, body }).map_err(|cause| FrameError::Malformed { id, cause })?;
    let length = frame.len() - 4;
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_BYTES_MAX => frame[..4].copy_from_slice(&prefix.to_le_bytes()),
        Ok(_) | Err(_) => return Err(FrameError::TooLong(length)),
    }
    Ok(frame)
}

/// Collects bytes until frames are whole.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one. After [`FrameError::TooLong`]
    /// the stream cannot be followed any further; after
    /// [`FrameError::Malformed`] the next frame may be asked for.
    ///
    /// # Errors
    /// A frame that is too long, or not the JSON expected.
    pub fn take<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<Envelope<T>>, FrameError> {
        #[derive(Deserialize)]
        struct Head {
            id: u64,
        }
        let Some(prefix) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = self.bytes.get(4..4 + length) else {
            return Ok(None);
        };
        let parsed = serde_json::from_slice(body).map_err(|cause| FrameError::Malformed {
            id: serde_json::from_slice::<Head>(body).map_or(0, |head| head.id),
            cause,
        });
        self.bytes.drain(..4 + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new(); // idle connections hold no buffer
        }
        parsed.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = encode(7, &Request::Start { id: "a".into() }).unwrap();
        wire.extend(encode(8, &Request::Status).unwrap());
        for cut in 0..wire.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for part in [&wire[..cut], &wire[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.take::<Request>().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(
                seen,
                [
                    Envelope {
                        id: 7,
                        body: Request::Start { id: "a".into() }
                    },
                    Envelope {
                        id: 8,
                        body: Request::Status
                    }
                ],
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn an_unknown_request_keeps_its_id_and_the_stream() {
        let mut decoder = Decoder::default();
        let unknown = br#"{"id":3,"body":{"Teleport":{"to":"mars"}}}"#;
        decoder.push(&u32::try_from(unknown.len()).unwrap().to_le_bytes());
        decoder.push(unknown);
        decoder.push(&encode(4, &Request::Status).unwrap());
        assert!(matches!(decoder.take::<Request>(), Err(FrameError::Malformed { id: 3, .. })));
        assert_eq!(decoder.take::<Request>().unwrap().unwrap().id, 4);
    }

    #[test]
    fn unknown_fields_of_a_newer_agent_are_ignored() {
        let mut decoder = Decoder::default();
        let newer = br#"{"id":5,"extra":1,"body":{"Start":{"id":"a","when":"soon"}}}"#;
        decoder.push(&u32::try_from(newer.len()).unwrap().to_le_bytes());
        decoder.push(newer);
        assert_eq!(decoder.take::<Request>().unwrap().unwrap().body, Request::Start { id: "a".into() });
    }

    #[test]
    fn a_frame_too_long_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        decoder.push(&u32::MAX.to_le_bytes());
        assert!(matches!(decoder.take::<Request>(), Err(FrameError::TooLong(_))));
    }
}
