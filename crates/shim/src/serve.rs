//! The shim's one loop: requests, ended processes, output, deadlines.
//!
//! Everything here is quick. What is not (making a container, entering one) is
//! done by a forked worker whose end arrives like any other event.

mod clients;
mod requests;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use clients::Client;

use crate::cgroup::{SHIMS_GROUP, Trees, pod_group};
use crate::container::{Container, Phase, Step, Watched};
use crate::exec::Running;
use crate::process::{exit_code, fork_into};
use crate::protocol::{Answer, Refusal};
use crate::record::now_ns;
use crate::sandbox::{Sandbox, own_mounts};
use crate::user_namespace;

const EXECS_MAX: usize = 64;
/// Ended processes nobody has claimed yet, and how long they are kept: a
/// worker's message is at most this late, and a number is not soon used again.
const UNCLAIMED_MAX: usize = 256;
const UNCLAIMED_FOR: Duration = Duration::from_secs(10);
/// How often a group that will not empty is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(5);

/// Which request to answer: connection and request id.
type Asker = (u64, u64);

struct Shim {
    listener: UnixListener,
    children: SignalFd,
    dir: PathBuf,
    trees: Trees,
    group: PathBuf,
    sandbox: Option<Sandbox>,
    clients: Vec<Client>,
    containers: Vec<Container>,
    /// Who waits for a container to be made or started.
    waiting: Vec<(String, Asker)>,
    execs: Vec<(Asker, String, Running)>,
    /// Process, wait status, and when it was reaped.
    unclaimed: VecDeque<(i32, i32, Instant)>,
    /// Groups of containers that could not be made, until they are empty.
    leftovers: Vec<PathBuf>,
    closing: Option<Asker>,
    next_client: u64,
    buffer: Vec<u8>,
}

/// What became ready.
enum Ready {
    Connection,
    Child,
    Client(u64),
    Container(String, Watched),
    Exec(Asker),
}

/// The first argument of a process that is to be a shim.
pub const ROLE: &str = "shim";

/// An argument in place of all others but a directory: tells by its exit code
/// whether pods can have users of their own who own files in that directory,
/// and on standard error why not. Nothing stays of it.
pub const TRY_USERS: &str = "--try-users";

/// Runs the shim; call it before anything else in a process whose first
/// argument is [`ROLE`]. Standard input is the listening socket; the further
/// arguments are `--dir`, `--uid`, `--cgroup-root` and, if the pod's group is not
/// directly in that, `--cgroup-parent`, each with a value.
#[must_use]
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(2).peekable();
    if args.next_if(|arg| arg == TRY_USERS).is_some() {
        let dir = PathBuf::from(args.next().unwrap_or_default());
        return match user_namespace::try_out(&dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    match Shim::open(args).and_then(|mut shim| shim.serve()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shim: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Shim {
    fn open(mut args: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let (mut dir, mut uid, mut root, mut parent) = (None, None, None, None);
        while let Some(flag) = args.next() {
            let value = args.next();
            match flag.to_str() {
                Some("--dir") => dir = value.map(PathBuf::from),
                Some("--uid") => uid = value.and_then(|v| v.into_string().ok()),
                Some("--cgroup-root") => root = value.map(PathBuf::from),
                Some("--cgroup-parent") => parent = value.and_then(|v| v.into_string().ok()),
                _ => return Err(io::Error::other(format!("unknown argument {}", flag.display()))),
            }
        }
        let (Some(dir), Some(uid), Some(root)) = (dir, uid, root) else {
            return Err(io::Error::other(
                "--dir, --uid and --cgroup-root are needed; shims are started by the agent, not by hand",
            ));
        };
        let mut trees = Trees::detect().map_err(io::Error::other)?;
        // Out of the agent's group, so that stopping its service ends the agent only.
        let group = root.join(SHIMS_GROUP);
        if fork_into(trees.birthplace(&group).map_err(io::Error::other)?.as_ref())?.is_some() {
            std::process::exit(0);
        }
        trees.leave_service(&group).map_err(io::Error::other)?;
        rustix::process::setsid()?;
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))?;
        let _ = rustix::thread::set_name(c"lifepod-shim");
        own_mounts().map_err(io::Error::other)?;
        trees.hide(&dir.join("cgroups"))?;
        std::env::set_current_dir("/")?;
        let mut child_signal = SigSet::empty();
        child_signal.add(Signal::SIGCHLD);
        child_signal.thread_block()?;
        let children = SignalFd::with_flags(&child_signal, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        // SAFETY: standard input was given to us as the listening socket, and
        // nothing else in this process uses it.
        let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).map(into_raw)?) });
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            children,
            dir,
            trees,
            group: pod_group(&root, parent.as_deref(), &uid),
            sandbox: None,
            clients: Vec::new(),
            containers: Vec::new(),
            waiting: Vec::new(),
            execs: Vec::new(),
            unclaimed: VecDeque::new(),
            leftovers: Vec::new(),
            closing: None,
            next_client: 1,
            buffer: vec![0; 16 << 10],
        })
    }

    /// Until [`Request::Shutdown`] is answered.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            for ready in self.wait()? {
                match ready {
                    Ready::Connection => self.accept(),
                    Ready::Child => self.reap(),
                    Ready::Client(serial) => self.read(serial),
                    Ready::Container(id, watched) => self.advance(&id, watched),
                    Ready::Exec(asker) => self.advance_exec(asker),
                }
            }
            self.look_at_clocks();
            if self.closing.is_some() && self.close() {
                return Ok(());
            }
            self.bury_clients();
        }
    }

    fn wait(&self) -> io::Result<Vec<Ready>> {
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags, Ready)> = vec![
            (self.listener.as_fd(), PollFlags::IN, Ready::Connection),
            (self.children.as_fd(), PollFlags::IN, Ready::Child),
        ];
        for client in &self.clients {
            let flags = if client.unsent.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::IN | PollFlags::OUT
            };
            watched.push((client.stream.as_fd(), flags, Ready::Client(client.serial)));
        }
        for container in &self.containers {
            for (fd, what) in container.descriptors() {
                let flags = match what {
                    Watched::Sinks => PollFlags::OUT,
                    // A counter is readable, a file of a group is urgent.
                    Watched::Memory => container.oom_flags(),
                    _ => PollFlags::IN,
                };
                watched.push((fd.as_fd(), flags, Ready::Container(container.id.clone(), what)));
            }
        }
        for (asker, _, exec) in &self.execs {
            for fd in [&exec.output, &exec.report].into_iter().flatten() {
                watched.push((fd.as_fd(), PollFlags::IN, Ready::Exec(*asker)));
            }
        }
        let timeout = self
            .next_deadline()
            .map(|at| at.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        let mut fds: Vec<PollFd<'_>> = watched.iter().map(|(fd, flags, _)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let hit: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        Ok(watched
            .into_iter()
            .zip(hit)
            .filter(|(_, hit)| *hit)
            .map(|((.., ready), _)| ready)
            .collect())
    }

    fn next_deadline(&self) -> Option<Instant> {
        let killing = self.containers.iter().any(|c| c.killing) || !self.leftovers.is_empty() || self.closing.is_some();
        let again = killing.then(|| Instant::now() + KILL_AGAIN);
        let execs = self.execs.iter().filter_map(|(_, _, exec)| exec.deadline);
        self.containers
            .iter()
            .filter_map(Container::deadline)
            .chain(execs)
            .chain(again)
            .min()
    }

    fn look_at_clocks(&mut self) {
        let now = Instant::now();
        for (_, _, exec) in &mut self.execs {
            if exec.deadline.is_some_and(|at| at <= now) {
                exec.timed_out = true;
                exec.deadline = None;
                exec.kill();
            }
        }
        let late: Vec<String> = self
            .containers
            .iter()
            .filter(|c| matches!(c.phase, Phase::Creating { .. }) && c.deadline().is_some_and(|at| at <= now))
            .inspect(|c| c.kill_worker())
            .map(|c| c.id.clone())
            .collect();
        for id in late {
            self.made(&id, true);
        }
        let mut detached = Vec::new();
        for container in &mut self.containers {
            let ended = container.has_ended();
            detached.extend(container.streams.flush(now, ended));
        }
        for asker in detached {
            self.answer(asker, &Answer::Done);
        }
        let trees = &self.trees;
        let killed = self
            .containers
            .iter_mut()
            .filter_map(|c| c.look_at_memory(now, trees).then(|| c.id.clone()));
        for id in killed.collect::<Vec<_>>() {
            self.tell_all(&id);
        }
        for container in self.containers.iter_mut().filter(|c| c.killing) {
            container.keep_killing(&self.trees);
        }
        let trees = &self.trees;
        self.leftovers.retain(|group| {
            trees.kill(group);
            trees.remove(group).is_err()
        });
    }

    /// Takes every process that has ended.
    fn reap(&mut self) {
        while let Ok(Some(_)) = self.children.read_signal() {}
        // What workers told before they ended comes first.
        let making: Vec<String> = self
            .containers
            .iter()
            .filter(|c| matches!(c.phase, Phase::Creating { .. }))
            .map(|c| c.id.clone())
            .collect();
        for id in making {
            self.made(&id, false);
        }
        loop {
            let mut status = 0;
            // SAFETY: `status` is ours to be written.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if self.unclaimed.len() >= UNCLAIMED_MAX {
                self.unclaimed.pop_front();
            }
            self.unclaimed.push_back((pid, status, Instant::now()));
        }
        self.claim();
    }

    /// Gives ended processes to whom they belong. A worker's message may still
    /// be on its way, so what belongs to nobody is kept a while.
    fn claim(&mut self) {
        self.unclaimed.retain(|(.., reaped)| reaped.elapsed() < UNCLAIMED_FOR);
        for (pid, status, reaped) in std::mem::take(&mut self.unclaimed) {
            let is_worker = |c: &Container| matches!(c.phase, Phase::Creating { worker, .. } if worker == pid);
            if let Some(id) = self.containers.iter().find(|c| is_worker(c)).map(|c| c.id.clone()) {
                self.made(&id, true);
            } else if let Some(id) = self.containers.iter().find(|c| c.pid == Some(pid)).map(|c| c.id.clone()) {
                self.started(&id);
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id && !c.has_ended()) {
                    container.on_exit(status, now_ns(), &self.trees);
                    self.settle(&id, &Answer::Done);
                    self.tell_all(&id);
                }
            } else if let Some((asker, _, exec)) = self.execs.iter_mut().find(|(_, _, e)| e.pid == Some(pid)) {
                exec.code = Some(exit_code(status));
                let asker = *asker;
                self.advance_exec(asker);
            } else {
                self.unclaimed.push_back((pid, status, reaped));
            }
        }
        if self.execs.is_empty() && !self.containers.iter().any(|c| matches!(c.phase, Phase::Creating { .. })) {
            self.unclaimed = VecDeque::new(); // orphans we only had to reap
        }
    }

    fn advance(&mut self, id: &str, watched: Watched) {
        match watched {
            Watched::Result => {
                self.made(id, false);
                self.claim();
            }
            Watched::Report => self.started(id),
            Watched::Output(which) => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
                    container.streams.on_output(which, now_ns(), Instant::now());
                }
            }
            Watched::Terminal => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
                    container.streams.take_terminal();
                }
            }
            Watched::Memory => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
                    container.on_memory(Instant::now());
                }
            }
            Watched::Sinks => {} // flushed with the clocks
        }
    }

    fn made(&mut self, id: &str, ended: bool) {
        let Some(at) = self.containers.iter().position(|c| c.id == id) else {
            return;
        };
        match self.containers[at].on_result(ended, &self.trees) {
            Step::Made => self.settle(id, &Answer::Done),
            Step::NotMade(kind, message) => {
                let container = self.containers.remove(at);
                self.leftovers.push(container.group);
                self.settle(id, &Answer::Refused { kind, message });
            }
            _ => return,
        }
        self.tell_all(id);
    }

    fn started(&mut self, id: &str) {
        let Some(container) = self.containers.iter_mut().find(|c| c.id == id) else {
            return;
        };
        match container.on_report(now_ns(), &self.trees) {
            Step::Started => self.settle(id, &Answer::Done),
            Step::NotStarted(message) => self.settle(
                id,
                &Answer::Refused {
                    kind: Refusal::Start,
                    message,
                },
            ),
            _ => return,
        }
        self.tell_all(id);
    }

    fn advance_exec(&mut self, asker: Asker) {
        let Some(at) = self.execs.iter().position(|(a, ..)| *a == asker) else {
            return;
        };
        let exec = &mut self.execs[at].2;
        exec.read_report();
        exec.read_output();
        let claimed = exec
            .pid
            .and_then(|pid| self.unclaimed.iter().position(|(p, ..)| *p == pid))
            .and_then(|n| self.unclaimed.remove(n));
        if let Some((_, status, _)) = claimed {
            exec.code = Some(exit_code(status));
        }
        let answer = match (&exec.failure, exec.code) {
            (Some(failure), _) => Answer::Refused {
                kind: Refusal::Start,
                message: failure.message.clone(),
            },
            // What it left running may hold the pipe; we do not wait for that.
            (None, Some(code)) => Answer::Exec {
                code,
                output: exec.take_output(),
                timed_out: exec.timed_out,
            },
            (None, None) if exec.report.is_none() && exec.pid.is_none() => Answer::Refused {
                kind: Refusal::System,
                message: "the process entering the container was killed".to_owned(),
            },
            (None, None) => return,
        };
        self.execs.remove(at);
        self.answer(asker, &answer);
    }

    /// Answers whoever waits for a container.
    fn settle(&mut self, id: &str, answer: &Answer) {
        let (settled, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(waits_for, _)| waits_for == id);
        self.waiting = waiting;
        let settled: Vec<(String, Asker)> = settled;
        for (_, asker) in settled {
            self.answer(asker, answer);
        }
    }

    /// One step of shutting down; whether it is done.
    fn close(&mut self) -> bool {
        self.containers.iter().for_each(Container::kill_worker);
        self.trees.kill(&self.group);
        if !self.containers.iter().all(Container::has_ended) {
            return false;
        }
        if self.trees.remove(&self.group).is_err() {
            return false; // the dying are not dead yet; killed again shortly
        }
        if let Some(asker) = self.closing.take() {
            self.answer(asker, &Answer::Done);
        }
        self.say_farewell();
        true
    }
}

/// Gives freed memory back: there is one shim per pod, and it is mostly idle.
fn trim_heap() {
    // SAFETY: has no preconditions.
    unsafe { libc::malloc_trim(0) };
}

fn into_raw(fd: OwnedFd) -> i32 {
    use std::os::fd::IntoRawFd;
    fd.into_raw_fd()
}
