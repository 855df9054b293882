//! One pod: what is known of it, and the connection to its shim.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ContainerView, Exit, ExitCause, Observation, RunState, SandboxView, Uid};
use shim::cgroup::pod_group;
use shim::protocol::{Answer, ContainerStatus, Request, State, Status};
use shim::record::{self, Cause, EXIT_FILE, ExitRecord, RUN_FILE, RunRecord, now_ns};
use tokio::time::Instant;

use super::client::{Client, ClientError};
use super::files::{AttemptRecord, Phase, PodDir, SHIM_LOG_FILE, SandboxRecord};
use crate::{CgroupParent, RuntimeError};

/// A shim answers at once: what takes time it leaves to others.
pub(super) const PROMPT: Duration = Duration::from_secs(10);

/// Enough of a shim's log for its last line.
const LAST_WORDS_BYTES: usize = 2048;

/// Exit code of an attempt whose exit status was lost.
/// Source: containerd CRI server, `unknownExitCode`.
const CODE_LOST: i32 = 255;

/// An attempt and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) record: AttemptRecord,
    pub(super) notes: BTreeMap<String, String>,
    /// Read once; exits do not change.
    pub(super) exit: Option<ExitRecord>,
    /// Its creation has not succeeded yet; not shown.
    pub(super) making: bool,
}

/// A container that is being stopped.
#[derive(Debug)]
pub(super) struct Stopping {
    /// Until when it may live; calls can only shorten it.
    pub(super) deadline: tokio::sync::watch::Sender<Instant>,
    /// The signal has been sent. It is sent once, as containerd does.
    pub(super) signalled: bool,
}

/// What is known of a pod. Never locked across a wait.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) sandbox: Option<SandboxRecord>,
    /// Oldest first.
    pub(super) attempts: Vec<Attempt>,
    pub(super) client: Option<Arc<Client>>,
    pub(super) sequence: u64,
    pub(super) stopping: HashMap<String, Stopping>,
    /// Attempts an earlier agent wrote down, of which the shim has not yet said
    /// whether they were made.
    pub(super) unsettled: Vec<String>,
}

/// One pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) uid: Uid,
    pub(super) dir: PodDir,
    /// The cgroup of all pods.
    cgroup_root: PathBuf,
    /// Held by whoever makes or ends the sandbox.
    pub(super) gate: Arc<tokio::sync::Mutex<()>>,
    /// Held while a snapshot is taken, so that their order is that of their numbers.
    snapshot: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

impl Pod {
    pub(super) fn new(uid: Uid, dir: PodDir, cgroup_root: PathBuf, first_sequence: u64) -> Self {
        let known = Known {
            sequence: first_sequence,
            ..Known::default()
        };
        Self {
            uid,
            dir,
            cgroup_root,
            gate: Arc::default(),
            snapshot: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
        }
    }

    /// The pod's cgroup.
    pub(super) fn group(&self) -> PathBuf {
        let parent = self.known().sandbox.as_ref().map(|sandbox| sandbox.config.cgroup_parent);
        self.group_in(parent.unwrap_or_default())
    }

    /// Its cgroup, were it there.
    pub(super) fn group_in(&self, parent: CgroupParent) -> PathBuf {
        pod_group(&self.cgroup_root, parent.name(), self.uid.as_str())
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // Each change under it is a single assignment.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if the shim lives.
    pub(super) fn client(&self) -> Option<Arc<Client>> {
        self.known().client.clone().filter(|client| !client.is_gone())
    }

    pub(super) fn need_client(&self) -> Result<Arc<Client>, RuntimeError> {
        self.client().ok_or_else(|| RuntimeError::NotFound {
            what: "sandbox",
            name: self.uid.to_string(),
        })
    }

    pub(super) fn trouble(&self, error: ClientError) -> RuntimeError {
        use shim::protocol::Refusal;
        match error {
            ClientError::Refused(Refusal::NotFound, name) => RuntimeError::NotFound { what: "container", name },
            ClientError::Refused(Refusal::Config, message) => RuntimeError::Config(message),
            ClientError::Refused(Refusal::Start, message) => RuntimeError::Start(message),
            ClientError::Refused(Refusal::PodCgroup, message) => RuntimeError::PodCgroup(message),
            ClientError::Gone => RuntimeError::Shim {
                pod: self.uid.clone(),
                message: self.last_words(),
            },
            other => RuntimeError::Shim {
                pod: self.uid.clone(),
                message: other.to_string(),
            },
        }
    }

    /// Why the shim is gone, as far as it could say.
    fn last_words(&self) -> String {
        let log = std::fs::read(self.dir.file(SHIM_LOG_FILE)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log[log.len().saturating_sub(LAST_WORDS_BYTES)..]);
        log.trim_end()
            .lines()
            .next_back()
            .map_or_else(|| "it is gone without a word".to_owned(), |line| format!("it is gone: {line}"))
    }

    /// Whether the shim should live but does not.
    pub(super) fn has_lost_shim(&self) -> bool {
        let known = self.known();
        let phase = known.sandbox.as_ref().map(|s| s.phase);
        match &known.client {
            Some(client) => client.is_gone() && phase.is_some_and(|p| p != Phase::Stopped),
            None => phase == Some(Phase::Ready),
        }
    }

    /// Changes the sandbox's record, on disk first.
    pub(super) fn set_sandbox(&self, sandbox: SandboxRecord) -> Result<(), RuntimeError> {
        self.dir.write_sandbox(&sandbox)?;
        self.known().sandbox = Some(sandbox);
        Ok(())
    }

    pub(super) fn attempt(&self, id: &str) -> Result<Attempt, RuntimeError> {
        let found = self.known().attempts.iter().find(|a| a.record.id == id).cloned();
        found.ok_or_else(|| RuntimeError::NotFound {
            what: "container",
            name: id.to_owned(),
        })
    }

    /// A whole snapshot; `None` if the shim died while it was taken, for then
    /// it is not whole. Exits are taken from disk once and kept.
    pub(super) async fn observe(&self) -> Result<Option<Observation>, RuntimeError> {
        let _in_order = self.snapshot.lock().await;
        let status = match self.client() {
            Some(client) => match client.ask(&Request::Status, PROMPT).await {
                Ok(Answer::Status(status)) => status,
                Ok(_) => return Err(self.trouble(ClientError::Confused)),
                // It went while we asked; what it wrote is on disk.
                Err(ClientError::Gone) => Status::default(),
                Err(error) => return Err(self.trouble(error)),
            },
            None => Status::default(),
        };
        if self.has_lost_shim() {
            return Ok(None);
        }
        let mut known = self.known();
        known.sequence += 1;
        let sequence = known.sequence;
        let sandbox = known.sandbox.as_ref().map(|s| SandboxView {
            attempt: s.config.attempt,
            ready: s.phase == Phase::Ready,
            ips: s.ips.clone(),
            created_at: Time(s.created_at_ns),
            notes: s.notes.clone(),
        });
        let mut containers = Vec::new();
        for attempt in known.attempts.iter_mut().filter(|a| !a.making) {
            let told = status.containers.iter().find(|c| c.id == attempt.record.id);
            if let Some(view) = view(attempt, told, &self.dir) {
                containers.push(view);
            }
        }
        Ok(Some(Observation {
            sequence,
            sandbox,
            containers,
        }))
    }

    /// Writes down that what ran has been lost with the shim, where no exit is
    /// known. `reason` is for people. Blocks.
    pub(super) fn write_off(&self, reason: &str) -> Result<(), RuntimeError> {
        let attempts: Vec<AttemptRecord> = self.known().attempts.iter().map(|a| a.record.clone()).collect();
        for attempt in attempts {
            let dir = self.dir.attempt_dir(&attempt.id);
            let path = dir.join(EXIT_FILE);
            if matches!(record::read::<ExitRecord>(&path), Ok(Some(_))) {
                continue;
            }
            let ran = record::read::<RunRecord>(&dir.join(RUN_FILE)).ok().flatten();
            let exit = ExitRecord {
                code: CODE_LOST,
                signal: None,
                started_at_ns: ran.map(|r| r.started_at_ns),
                finished_at_ns: now_ns(),
                cause: Cause::Lost,
                message: reason.to_owned(),
            };
            record::write(&path, &exit, true).map_err(super::files::doing("writing", &path))?;
        }
        Ok(())
    }
}

/// An attempt as the agent reports it; `None` while nothing can be said.
fn view(attempt: &mut Attempt, told: Option<&ContainerStatus>, dir: &PodDir) -> Option<ContainerView> {
    let oom_kills = told.map_or(0, |told| told.oom_kills);
    let told = told.map(|told| &told.state);
    if attempt.exit.is_none() {
        attempt.exit = match told {
            Some(State::Exited(exit)) => Some(exit.clone()),
            Some(_) => None,
            None => record::read(&dir.attempt_dir(&attempt.record.id).join(EXIT_FILE)).ok().flatten(),
        };
    }
    let state = match (&attempt.exit, told) {
        (Some(exit), _) => RunState::Exited(exited(exit)),
        (None, Some(State::Running { started_at_ns })) => RunState::Running {
            started_at: Time(*started_at_ns),
        },
        (None, Some(State::Created)) => RunState::Created,
        // Not made yet, and it may come to nothing.
        (None, Some(_) | None) => return None,
    };
    let record = &attempt.record;
    Some(ContainerView {
        id: ContainerId(record.id.clone()),
        name: record.name.clone(),
        attempt: record.attempt,
        image: record.image.clone(),
        image_id: record.image_id.clone(),
        stop_signal: api::signal::name(record.stop_signal).unwrap_or_default(),
        created_at: Time(record.created_at_ns),
        state,
        oom_kills,
        resources: record.resources.clone(),
        notes: attempt.notes.clone(),
    })
}

fn exited(exit: &ExitRecord) -> Exit {
    Exit {
        code: exit.code,
        started_at: exit.started_at_ns.map(Time),
        finished_at: Time(exit.finished_at_ns),
        cause: match exit.cause {
            Cause::Process => ExitCause::Process,
            Cause::OutOfMemory => ExitCause::OutOfMemory,
            Cause::StartError => ExitCause::StartError,
            Cause::Lost => ExitCause::Lost,
        },
        message: exit.message.clone(),
    }
}
