//! A runtime whose containers live by a script.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use api::Time;
use api::node::{ContainerId, ContainerView, Exit, ExitCause, Observation, RunState, SandboxView, Uid};
use lifecycle::{Failure, FailureClass};

/// How one attempt of a container lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// It exits by itself after this long; `None` for never.
    pub runs: Option<Duration>,
    /// With this code.
    pub code: i32,
    /// From the stop signal to its exit with 143; `None` if it ignores it.
    pub obeys_after: Option<Duration>,
    /// Its process cannot be started at all.
    pub start_error: bool,
}

impl Life {
    /// Runs until it is told to stop, and then obeys.
    pub const SERVER: Self = Self {
        runs: None,
        code: 0,
        obeys_after: Some(Duration::from_millis(100)),
        start_error: false,
    };
}

/// One attempt in the fake runtime.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What is observed of it.
    pub view: ContainerView,
    /// How it lives.
    pub life: Life,
    /// When it is killed, once it is being stopped.
    pub kill_at: Option<Time>,
}

impl Attempt {
    /// When the process began, if it runs.
    #[must_use]
    pub fn started_at(&self) -> Option<Time> {
        match &self.view.state {
            RunState::Running { started_at } => Some(*started_at),
            RunState::Created | RunState::Exited(_) => None,
        }
    }

    fn exit(&mut self, now: Time, code: i32, cause: ExitCause, message: &str) {
        let started_at = self.started_at();
        self.view.state = RunState::Exited(Exit {
            code,
            started_at,
            finished_at: now,
            cause,
            message: message.to_owned(),
        });
        self.kill_at = None;
    }
}

/// What the fake runtime holds of one pod.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The newest sandbox.
    pub sandbox: Option<SandboxView>,
    /// Attempts in creation order.
    pub attempts: Vec<Attempt>,
}

impl Held {
    /// An attempt by identity.
    #[must_use]
    pub fn attempt(&self, id: &ContainerId) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.view.id == *id)
    }

    fn attempt_mut(&mut self, id: &ContainerId) -> Option<&mut Attempt> {
        self.attempts.iter_mut().find(|a| a.view.id == *id)
    }

    fn ready(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|s| s.ready)
    }

    fn end_all(&mut self, now: Time, cause: ExitCause, code: i32) {
        for attempt in self.attempts.iter_mut().filter(|a| a.started_at().is_some()) {
            attempt.exit(now, code, cause, "");
        }
    }
}

/// The runtime of one node.
#[derive(Clone, Debug, Default)]
pub struct FakeRuntime {
    pods: BTreeMap<Uid, Held>,
    sequence: u64,
    ids: u64,
    addresses: u8,
}

impl FakeRuntime {
    /// A snapshot of one pod.
    pub fn observe(&mut self, uid: &Uid) -> Observation {
        self.sequence += 1;
        let held = self.pods.get(uid).cloned().unwrap_or_default();
        let containers = held.attempts.into_iter().map(|a| a.view).collect();
        Observation {
            sequence: self.sequence,
            sandbox: held.sandbox,
            containers,
        }
    }

    /// What is held of a pod.
    #[must_use]
    pub fn held(&self, uid: &Uid) -> Option<&Held> {
        self.pods.get(uid)
    }

    /// Every pod anything is held of.
    #[must_use]
    pub fn list(&self) -> Vec<Uid> {
        self.pods.keys().cloned().collect()
    }

    /// Makes a sandbox, replacing an older one with all that runs in it.
    pub fn run_sandbox(&mut self, now: Time, uid: &Uid, attempt: u32, host_network: bool) {
        let held = self.pods.entry(uid.clone()).or_default();
        if held.sandbox.as_ref().is_some_and(|s| s.attempt >= attempt && s.ready) {
            return;
        }
        held.end_all(now, ExitCause::Process, 137);
        self.addresses = self.addresses.wrapping_add(1);
        let ip = if host_network {
            Ipv4Addr::new(192, 168, 0, 1)
        } else {
            Ipv4Addr::new(10, 0, 0, self.addresses)
        };
        held.sandbox = Some(SandboxView {
            attempt,
            ready: true,
            ips: vec![IpAddr::V4(ip)],
            created_at: now,
            notes: BTreeMap::new(),
        });
    }

    /// Notes something on a sandbox; an empty value removes the note.
    ///
    /// # Errors
    /// When there is none.
    pub fn note_sandbox(&mut self, uid: &Uid, key: &str, value: &str) -> Result<(), Failure> {
        let sandbox = self.pods.get_mut(uid).and_then(|held| held.sandbox.as_mut());
        let sandbox = sandbox.ok_or_else(|| Failure::new(FailureClass::Unavailable, "no such sandbox"))?;
        if value.is_empty() {
            sandbox.notes.remove(key);
        } else {
            sandbox.notes.insert(key.to_owned(), value.to_owned());
        }
        Ok(())
    }

    /// Ends a sandbox. Its record stays.
    pub fn stop_sandbox(&mut self, now: Time, uid: &Uid, cause: ExitCause) {
        if let Some(held) = self.pods.get_mut(uid) {
            held.end_all(now, cause, if cause == ExitCause::Lost { 255 } else { 137 });
            if let Some(sandbox) = &mut held.sandbox {
                sandbox.ready = false;
            }
        }
    }

    /// Forgets a pod.
    pub fn remove_sandbox(&mut self, uid: &Uid) {
        self.pods.remove(uid);
    }

    /// Makes an attempt; one that exists is left as it is.
    pub fn create(&mut self, now: Time, uid: &Uid, name: &str, attempt: u32, image: &str, life: Life) -> Result<(), Failure> {
        let held = self.pods.get_mut(uid).filter(|h| h.ready());
        let held = held.ok_or_else(|| Failure::new(FailureClass::CreateContainerError, "sandbox is not ready"))?;
        if held.attempts.iter().any(|a| a.view.name == name && a.view.attempt == attempt) {
            return Ok(());
        }
        self.ids += 1;
        let view = ContainerView {
            id: ContainerId(format!("{:064x}", self.ids)),
            name: name.to_owned(),
            attempt,
            image: image.to_owned(),
            image_id: format!("sha256:{image}"),
            stop_signal: String::new(),
            created_at: now,
            state: RunState::Created,
            oom_kills: 0,
            resources: None,
            notes: BTreeMap::new(),
        };
        held.attempts.push(Attempt { view, life, kill_at: None });
        Ok(())
    }

    /// Starts a created attempt; true if it runs from now on.
    pub fn start(&mut self, now: Time, uid: &Uid, id: &ContainerId) -> Result<bool, Failure> {
        let failed = |text: &str| Failure::new(FailureClass::RunContainerError, text);
        let held = self
            .pods
            .get_mut(uid)
            .filter(|h| h.ready())
            .ok_or_else(|| failed("sandbox is not ready"))?;
        let attempt = held.attempt_mut(id).ok_or_else(|| failed("no such container"))?;
        if attempt.view.state != RunState::Created {
            return Ok(false);
        }
        if attempt.life.start_error {
            attempt.exit(
                now,
                128,
                ExitCause::StartError,
                "exec: \"nope\": executable file not found in $PATH",
            );
            return Err(failed("exec: \"nope\": executable file not found in $PATH"));
        }
        attempt.view.state = RunState::Running { started_at: now };
        Ok(true)
    }

    /// Notes something on an attempt.
    pub fn note(&mut self, uid: &Uid, id: &ContainerId, key: &str, value: &str) -> Result<(), Failure> {
        let attempt = self.pods.get_mut(uid).and_then(|h| h.attempt_mut(id));
        let attempt = attempt.ok_or_else(|| Failure::new(FailureClass::Unavailable, "no such container"))?;
        attempt.view.notes.insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Signals an attempt; the instant at which it is gone at the latest, or
    /// `None` if it does not run. A shorter grace than before counts.
    pub fn stop(&mut self, now: Time, uid: &Uid, id: &ContainerId, grace: Duration) -> Option<Time> {
        let attempt = self.pods.get_mut(uid)?.attempt_mut(id).filter(|a| a.started_at().is_some())?;
        let kill_at = attempt.kill_at.map_or(now + grace, |before| before.min(now + grace));
        attempt.kill_at = Some(kill_at);
        Some(attempt.life.obeys_after.map_or(kill_at, |d| kill_at.min(now + d)))
    }

    /// From now on nothing in a pod heeds a stop signal.
    pub fn ignore_signals(&mut self, uid: &Uid) {
        let attempts = self.pods.get_mut(uid).into_iter().flat_map(|held| &mut held.attempts);
        attempts.for_each(|attempt| attempt.life.obeys_after = None);
    }

    /// Whoever counted the grace of stops is gone.
    pub fn agent_died(&mut self) {
        self.pods.values_mut().flat_map(|h| &mut h.attempts).for_each(|a| a.kill_at = None);
    }

    /// Ends a running attempt's process; true if it ran.
    pub fn end(&mut self, now: Time, uid: &Uid, id: &ContainerId, code: i32, cause: ExitCause) -> bool {
        let attempt = self
            .pods
            .get_mut(uid)
            .and_then(|h| h.attempt_mut(id))
            .filter(|a| a.started_at().is_some());
        attempt.map(|a| a.exit(now, code, cause, "")).is_some()
    }

    /// Forgets an attempt that does not run.
    pub fn remove(&mut self, uid: &Uid, id: &ContainerId) -> Result<(), Failure> {
        let Some(held) = self.pods.get_mut(uid) else { return Ok(()) };
        if held.attempt(id).is_some_and(|a| a.started_at().is_some()) {
            return Err(Failure::new(FailureClass::Kill, "the container runs"));
        }
        held.attempts.retain(|a| a.view.id != *id);
        Ok(())
    }
}
