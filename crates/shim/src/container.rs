//! One attempt of a container, from being made to its exit record.
//!
//! ```text
//! Creating ──made──► Created ──start──► Starting ──runs──► Running ──┐
//!     │ worker failed    │ killed            │ cannot run            │ ends
//!     ▼                  └───────────────────┴───────────────────────┴─► Exited
//!   (forgotten)
//! ```

mod oom;
mod streams;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::pipe::PipeFlags;

use crate::cgroup::Trees;
use crate::create::{self, Made, Work};
use crate::log;
use crate::process::{StartFailure, exit_code, fork_worker};
use crate::protocol::{ContainerStatus, CreateSpec, Refusal, State};
use crate::record::{self, Cause, EXIT_FILE, ExitRecord, MESSAGE_FILE, RUN_FILE, RunRecord};
use crate::sandbox;
use crate::user_namespace::UserNamespace;

use oom::Oom;
pub(crate) use streams::{SINKS_MAX, Streams};

/// Source: pod API reference, `terminationMessagePath`.
const MESSAGE_BYTES_MAX: usize = 4096;

/// A worker that takes longer has failed.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);

/// What an attempt is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    Creating {
        worker: i32,
        result: OwnedFd,
        told: Vec<u8>,
        deadline: Instant,
    },
    Created,
    Starting,
    Running {
        started_at_ns: i64,
    },
    Exited(ExitRecord),
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) phase: Phase,
    /// First process of the container on the node, once made.
    pub(crate) pid: Option<i32>,
    pub(crate) dir: PathBuf,
    pub(crate) group: PathBuf,
    pub(crate) streams: Streams,
    /// Closes when its program runs; before that, tells why it does not.
    report: Option<OwnedFd>,
    reported: Vec<u8>,
    message_from_log: bool,
    message_file: bool,
    oom: Oom,
    /// Kill it again and again until it is gone.
    pub(crate) killing: bool,
}

/// The end of what happened to a waiting request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to tell.
    None,
    /// It is made.
    Made,
    /// It could not be made; forget it.
    NotMade(Refusal, String),
    /// Its program runs.
    Started,
    /// Its program could not be run; its exit is recorded.
    NotStarted(String),
}

/// What of its pod's a container is made in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Within<'a> {
    /// First process of the process-id namespace it is to share.
    pub(crate) reaper: Option<i32>,
    /// The users the pod has of its own.
    pub(crate) users: Option<&'a UserNamespace>,
}

impl Container {
    /// Forks the worker that makes it.
    pub(crate) fn create(spec: CreateSpec, dir: PathBuf, trees: &Trees, group: PathBuf, within: Within<'_>) -> io::Result<Self> {
        let (streams, ends) = Streams::open(&spec)?;
        let (result, result_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (report, report_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        for ours in [&result, &report] {
            rustix::io::ioctl_fionbio(ours, true)?;
        }
        let mut container = Self {
            id: spec.id.clone(),
            phase: Phase::Created,
            pid: None,
            dir,
            group,
            streams,
            report: Some(report),
            reported: Vec::new(),
            message_from_log: spec.message_from_log,
            message_file: spec.message_file,
            oom: Oom::default(),
            killing: false,
        };
        let mut keep = [&ends.stdin, &ends.stdout, &ends.stderr, &result_end, &report_end]
            .map(AsRawFd::as_raw_fd)
            .to_vec();
        keep.extend(ends.terminal.as_ref().map(AsRawFd::as_raw_fd));
        if spec.staged.iter().any(|staged| staged.shared) {
            keep.extend(sandbox::node_mounts().map(|node| node.as_raw_fd()));
        }
        keep.extend(within.users.map(UserNamespace::number));
        let (result_number, report_number) = (result_end.as_raw_fd(), report_end.as_raw_fd());
        let birthplace = trees.birthplace(&container.group).map_err(io::Error::other)?;
        let worker = fork_worker(birthplace.as_ref(), &keep, || {
            let work = Work {
                spec,
                dir: &container.dir,
                trees,
                group: &container.group,
                reaper: within.reaper,
                users: within.users,
                stdin: ends.stdin,
                stdout: ends.stdout,
                stderr: ends.stderr,
                terminal: ends.terminal.as_ref().map(AsRawFd::as_raw_fd),
                report: report_number,
            };
            let mut line = serde_json::to_vec(&create::make(work)).unwrap_or_default();
            line.push(b'\n');
            i32::from(crate::process::write_all(result_number, &line).is_err())
        })?;
        container.phase = Phase::Creating {
            worker,
            result,
            told: Vec::new(),
            deadline: Instant::now() + CREATE_TIMEOUT,
        };
        Ok(container)
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let state = match &self.phase {
            Phase::Creating { .. } => State::Creating,
            Phase::Created | Phase::Starting => State::Created,
            Phase::Running { started_at_ns } => State::Running {
                started_at_ns: *started_at_ns,
            },
            Phase::Exited(exit) => State::Exited(exit.clone()),
        };
        ContainerStatus {
            id: self.id.clone(),
            state,
            oom_kills: self.oom.of_others(),
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Exited(_))
    }

    /// What the loop should wait for.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (&OwnedFd, Watched)> {
        let result = match &self.phase {
            Phase::Creating { result, .. } => Some((result, Watched::Result)),
            _ => None,
        };
        let report = match &self.phase {
            Phase::Starting => self.report.as_ref().map(|fd| (fd, Watched::Report)),
            _ => None,
        };
        let memory = self.oom.descriptor().filter(|_| !self.has_ended());
        let memory = memory.map(|fd| (fd, Watched::Memory));
        result.into_iter().chain(report).chain(memory).chain(self.streams.descriptors())
    }

    /// When to look again although nothing happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Creating { deadline, .. } => Some(*deadline),
            Phase::Exited(_) => self.streams.deadline(),
            _ => [self.streams.deadline(), self.oom.look_at()].into_iter().flatten().min(),
        }
    }

    /// Looks whether memory ran out and another process than the first was
    /// killed for it; whether there is something new to tell.
    pub(crate) fn look_at_memory(&mut self, now: Instant, trees: &Trees) -> bool {
        match self.pid.filter(|_| !self.has_ended()) {
            Some(pid) => self.oom.look(now, pid, || trees.oom_kills(&self.group)),
            None => false,
        }
    }

    pub(crate) fn oom_flags(&self) -> PollFlags {
        self.oom.flags()
    }

    /// The kernel says that memory ran out, or may have.
    pub(crate) fn on_memory(&mut self, now: Instant) {
        self.oom.on_notice(now);
    }

    /// Kills the worker that makes it, which has not been reaped yet.
    pub(crate) fn kill_worker(&self) {
        if let Phase::Creating { worker, .. } = &self.phase
            && let Some(worker) = rustix::process::Pid::from_raw(*worker)
        {
            let _ = rustix::process::kill_process(worker, rustix::process::Signal::KILL);
        }
    }

    /// Reads what the worker tells. `ended`: it is gone, or out of time.
    pub(crate) fn on_result(&mut self, ended: bool, trees: &Trees) -> Step {
        let Phase::Creating { result, told, .. } = &mut self.phase else {
            return Step::None;
        };
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = rustix::io::read(&*result, &mut buffer) {
            told.extend_from_slice(&buffer[..n]);
        }
        let made = match told.iter().position(|&b| b == b'\n') {
            Some(end) => serde_json::from_slice(&told[..end]).unwrap_or_else(|cause| Made::Refused(Refusal::System, cause.to_string())),
            None if ended => Made::Refused(
                Refusal::System,
                format!("the worker that made the container ended or ran out of {CREATE_TIMEOUT:?}"),
            ),
            None => return Step::None,
        };
        match made {
            Made::Process(pid) => {
                self.pid = Some(pid);
                self.phase = Phase::Created;
                self.oom = Oom::watch(trees, &self.group);
                Step::Made
            }
            Made::Refused(kind, message) => Step::NotMade(kind, message),
        }
    }

    /// Lets its process run the program.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        let socket = create::start_socket(&self.dir, &self.id);
        let parent = File::open(socket.parent().unwrap_or(Path::new("/")))?;
        // Socket addresses are short, directories need not be.
        let short = format!(
            "/proc/self/fd/{}/{}",
            parent.as_raw_fd(),
            socket.file_name().unwrap_or_default().to_string_lossy()
        );
        UnixStream::connect(short)?.write_all(b"start container")?;
        self.phase = Phase::Starting;
        Ok(())
    }

    /// Reads why the program cannot run, or that it does.
    pub(crate) fn on_report(&mut self, now_ns: i64, trees: &Trees) -> Step {
        let (Phase::Starting, Some(report)) = (&self.phase, &self.report) else {
            return Step::None;
        };
        let mut buffer = [0; 1024];
        loop {
            match rustix::io::read(report, &mut buffer) {
                Ok(0) => break,
                Ok(n) => self.reported.extend_from_slice(&buffer[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return Step::None,
            }
        }
        self.report = None;
        self.streams.take_terminal();
        if let Ok(failure) = serde_json::from_slice::<StartFailure>(&self.reported) {
            let exit = ExitRecord {
                code: failure.code,
                signal: None,
                started_at_ns: None,
                finished_at_ns: now_ns,
                cause: Cause::StartError,
                message: failure.message.clone(),
            };
            self.end(exit, trees);
            return Step::NotStarted(failure.message);
        }
        let run = RunRecord {
            pid: self.pid.unwrap_or_default(),
            started_at_ns: now_ns,
        };
        // Only read when the shim has died; the container runs without it.
        let _ = record::write(&self.dir.join(RUN_FILE), &run, false);
        self.phase = Phase::Running { started_at_ns: now_ns };
        Step::Started
    }

    /// Its first process ended: kills the rest, drains its output, records it.
    pub(crate) fn on_exit(&mut self, wait_status: i32, now_ns: i64, trees: &Trees) {
        let started_at_ns = match &self.phase {
            Phase::Running { started_at_ns } => Some(*started_at_ns),
            Phase::Exited(_) => return,
            Phase::Creating { .. } | Phase::Created | Phase::Starting => None,
        };
        let signal = libc::WIFSIGNALED(wait_status).then(|| libc::WTERMSIG(wait_status));
        let code = exit_code(wait_status);
        let out_of_memory = self.oom.ended(signal, trees.oom_kills(&self.group));
        let cause = if out_of_memory { Cause::OutOfMemory } else { Cause::Process };
        self.end(
            ExitRecord {
                code,
                signal,
                started_at_ns,
                finished_at_ns: record::finish_ns(started_at_ns, now_ns),
                cause,
                message: String::new(),
            },
            trees,
        );
    }

    fn end(&mut self, mut exit: ExitRecord, trees: &Trees) {
        trees.kill(&self.group);
        self.streams.end(exit.finished_at_ns, Instant::now());
        if exit.message.is_empty() {
            exit.message = self.last_words(exit.code);
        }
        if let Err(cause) = record::write(&self.dir.join(EXIT_FILE), &exit, true) {
            eprintln!("writing the exit record of {}: {cause}; it is kept in memory only", self.id);
        }
        self.phase = Phase::Exited(exit);
        self.killing = true; // until its group is empty and gone
    }

    fn last_words(&self, code: i32) -> String {
        let file = self.dir.join(MESSAGE_FILE);
        // The container may have made it as long as it likes. One byte more
        // than is kept tells whether the cut is inside a character.
        let written = if self.message_file {
            log::end_of(&file, MESSAGE_BYTES_MAX as u64 + 1).unwrap_or_default()
        } else {
            Vec::new()
        };
        if written.is_empty() && self.message_from_log && code != 0 {
            return log::tail(self.streams.log_path()).unwrap_or_default();
        }
        String::from_utf8_lossy(log::last(&written, MESSAGE_BYTES_MAX)).into_owned()
    }

    /// Kills what is left of it; once nothing is, removes its cgroup.
    pub(crate) fn keep_killing(&mut self, trees: &Trees) {
        self.kill_worker(); // it may not be in the group yet
        trees.kill(&self.group);
        if self.has_ended() && trees.remove(&self.group).is_ok() {
            self.killing = false;
        }
    }
}

/// Which of a container's descriptors is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    Result,
    Report,
    Output(usize),
    /// It hands over its terminal.
    Terminal,
    /// It may be out of memory.
    Memory,
    /// Somebody attached can take more.
    Sinks,
}
