//! Further commands in a running container.
//!
//! A forked worker enters the container's cgroups and namespaces, a second
//! process becomes the command. Neither the program file nor the memory of the
//! shim is at the container's mercy: the shim runs from a sealed file, and the
//! process is not dumpable until it has become the command.
//!
//! Source of the order of steps: runc `setns_init_linux.go`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Instant;

use nix::sched::CloneFlags;
use nix::unistd::{ForkResult, Gid, Uid};
use oci_spec::runtime::{Capabilities, Process, Spec};
use rustix::pipe::PipeFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::app_armor;
use crate::cgroup::Trees;
use crate::create::CONFIG_FILE;
use crate::process::{self, CODE_NOT_STARTED, StartFailure};
use crate::protocol::{EXEC_OUTPUT_BYTES_MAX, IdRange, TerminalSize};
use crate::seccomp::Filters;
use crate::terminal;
use crate::user_namespace::become_root;

/// Most read from its output before others get their turn; a pipe's worth.
const READ_BYTES: usize = 16 << 10;
const READS_MAX: u32 = 4;

/// How often a session is looked for again: what is killed may have forked.
const SWEEPS_MAX: u32 = 8;

/// What a command's standard streams are to be.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// No input; the start of what it writes is kept.
    Captured,
    /// As given; what is missing is `/dev/null`.
    Given {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// A terminal, handed back over the socket.
    Terminal { socket: OwnedFd, size: TerminalSize },
}

/// Where a command runs.
pub(crate) struct Place<'a> {
    /// The container's first process.
    pub(crate) init: i32,
    /// The attempt's directory.
    pub(crate) dir: &'a Path,
    pub(crate) trees: &'a Trees,
    /// The container's cgroup.
    pub(crate) group: &'a Path,
}

/// A command that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// The worker's id until the command's own is known.
    pub(crate) worker: i32,
    /// The command's process, told by the worker.
    pub(crate) pid: Option<i32>,
    pub(crate) deadline: Option<Instant>,
    /// It was killed at its deadline.
    pub(crate) timed_out: bool,
    /// It lives no longer than the connection that asked for it.
    pub(crate) tied: bool,
    /// Standard output and error; `None` once closed.
    pub(crate) output: Option<OwnedFd>,
    /// Lines of [`Told`].
    pub(crate) report: Option<OwnedFd>,
    reported: Vec<u8>,
    /// Why the command does not run, once that is known.
    pub(crate) failure: Option<StartFailure>,
    captured: Vec<u8>,
    /// Wait status of the command.
    pub(crate) code: Option<i32>,
}

impl Running {
    /// Starts `command` in a container.
    pub(crate) fn start(command: &[String], stdio: Stdio, deadline: Option<Instant>, place: &Place<'_>) -> io::Result<Self> {
        let (report, report_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&report, true)?;
        let tied = !matches!(stdio, Stdio::Captured);
        let (output, output_end) = match stdio {
            Stdio::Captured => {
                let (output, output_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                rustix::io::ioctl_fionbio(&output, true)?;
                (Some(output), Some(output_end))
            }
            Stdio::Given { .. } | Stdio::Terminal { .. } => (None, None),
        };
        let init = rustix::process::Pid::from_raw(place.init).ok_or_else(|| io::Error::other("the container has no process"))?;
        let init = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())?;
        let number = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        let streams = match &stdio {
            Stdio::Captured => Streams::Three(None, number(&output_end), number(&output_end)),
            Stdio::Given { stdin, stdout, stderr } => Streams::Three(number(stdin), number(stdout), number(stderr)),
            Stdio::Terminal { socket, size } => Streams::Terminal(socket.as_raw_fd(), *size),
        };
        let mut keep = vec![report_end.as_raw_fd(), init.as_raw_fd()];
        match streams {
            Streams::Three(stdin, stdout, stderr) => keep.extend([stdin, stdout, stderr].into_iter().flatten()),
            Streams::Terminal(socket, _) => keep.push(socket),
        }
        let birthplace = place.trees.birthplace(place.group).map_err(io::Error::other)?;
        let report_number = report_end.as_raw_fd();
        let worker = process::fork_worker(birthplace.as_ref(), &keep, || match enter(&init, place, streams) {
            Ok(process) => become_command(&process, command, streams, report_number),
            Err(cause) => tell(
                report_number,
                &Told::Failed(not_started(&format!("entering the container: {cause}"))),
            ),
        })?;
        Ok(Self {
            worker,
            pid: None,
            deadline,
            timed_out: false,
            tied,
            output,
            report: Some(report),
            reported: Vec::new(),
            failure: None,
            captured: Vec::new(),
            code: None,
        })
    }

    /// Takes what the command wrote; what is over the limit is thrown away.
    /// Gives up its turn after a while: a command may write without end, and
    /// its deadline is looked at between turns.
    pub(crate) fn read_output(&mut self) {
        let mut buffer = [0; READ_BYTES];
        for _ in 0..READS_MAX {
            let Some(output) = &self.output else { return };
            match rustix::io::read(output, &mut buffer) {
                Ok(0) => self.output = None,
                Ok(n) => {
                    let room = EXEC_OUTPUT_BYTES_MAX - self.captured.len();
                    self.captured.extend_from_slice(&buffer[..n.min(room)]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.output = None,
            }
        }
    }

    /// Takes what the worker tells.
    pub(crate) fn read_report(&mut self) {
        let mut buffer = [0; 1024];
        while let Some(report) = &self.report {
            match rustix::io::read(report, &mut buffer) {
                Ok(0) => self.report = None,
                Ok(n) if self.reported.len() + n <= EXEC_OUTPUT_BYTES_MAX => self.reported.extend_from_slice(&buffer[..n]),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(_) => self.report = None,
            }
        }
        while let Some(end) = self.reported.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.reported.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(Told::Process(pid)) => self.pid = Some(pid),
                Ok(Told::Failed(failure)) => self.failure = Some(failure),
                Err(_) => {}
            }
        }
    }

    pub(crate) fn take_output(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.captured)).into_owned()
    }

    /// Kills the command and what it started in its session.
    pub(crate) fn kill(&self) {
        let Some(pid) = self.pid.or(Some(self.worker)).and_then(rustix::process::Pid::from_raw) else {
            return;
        };
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }

    /// Kills everything in the command's session: a shell puts each job into
    /// a process group of its own. What has made a session of its own stays.
    pub(crate) fn kill_session(&self, trees: &Trees, group: &Path) {
        self.kill();
        let Some(leader) = self.pid else { return };
        for _ in 0..SWEEPS_MAX {
            let members = trees.processes(group).into_iter().filter(|pid| session_of(*pid) == Some(leader));
            let members: Vec<_> = members.filter_map(rustix::process::Pid::from_raw).collect();
            if members.is_empty() {
                return;
            }
            for pid in members {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// The session of a process that still runs.
fn session_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    // State, parent, process group, session.
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    fields.nth(2)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

/// [`Stdio`] as a worker inherits it: by number.
#[derive(Clone, Copy)]
enum Streams {
    Three(Option<RawFd>, Option<RawFd>, Option<RawFd>),
    Terminal(RawFd, TerminalSize),
}

impl Streams {
    /// Gives those that are pipes to a user of the node.
    fn give(self, owner: u32) -> io::Result<()> {
        let Self::Three(stdin, stdout, stderr) = self else { return Ok(()) };
        for number in [stdin, stdout, stderr].into_iter().flatten() {
            // SAFETY: the number of a descriptor this process inherited.
            process::give_pipe(unsafe { BorrowedFd::borrow_raw(number) }, owner)?;
        }
        Ok(())
    }
}

/// Moves the worker into the container; gives how its processes run.
fn enter(init: &OwnedFd, place: &Place<'_>, streams: Streams) -> io::Result<(Process, Filters)> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(place.dir.join(CONFIG_FILE))?)?;
    let filters = Filters::of_attempt(place.dir)?;
    let process = spec
        .process()
        .clone()
        .ok_or_else(|| io::Error::other("the container's configuration names no process"))?;
    let ids = ids_of(&spec);
    let owner = ids.map_or(Some(process.user().uid()), |ids| ids.on_node(process.user().uid()));
    streams.give(owner.unwrap_or_default())?;
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())?;
    }
    place.trees.enter_v1(place.group).map_err(io::Error::other)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Network, IPC and UTS namespaces are the shim's own.
    let mut namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWCGROUP;
    if ids.is_some() {
        namespaces |= CloneFlags::CLONE_NEWUSER;
    }
    nix::sched::setns(init.as_fd(), namespaces)?;
    if ids.is_some() {
        // Nobody of the node's from here on.
        become_root()?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    }
    Ok((process, filters))
}

/// The users its pod has of its own, as the container was made with them.
fn ids_of(spec: &Spec) -> Option<IdRange> {
    let mappings = spec.linux().as_ref()?.uid_mappings().as_ref()?;
    mappings.first().map(|mapping| IdRange {
        first: mapping.host_id(),
        length: mapping.size(),
    })
}

/// What the worker and the command's process tell. Each is one line, short
/// enough to be written whole, so their order does not matter.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    Process(i32),
    Failed(StartFailure),
}

fn tell(report: RawFd, told: &Told) -> i32 {
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    i32::from(process::write_all(report, &line).is_err())
}

fn not_started(message: &str) -> StartFailure {
    StartFailure {
        code: CODE_NOT_STARTED,
        message: message.to_owned(),
    }
}

/// Forks into the process-id namespace; the child becomes the command.
fn become_command((process, filters): &(Process, Filters), command: &[String], streams: Streams, report: RawFd) -> i32 {
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => tell(report, &Told::Process(child.as_raw())),
        Ok(ForkResult::Child) => {
            let failure = match prepare(process, streams) {
                Ok(()) => process::exec(command, &environment(process, streams), filters),
                Err(cause) => not_started(&format!("preparing the command: {cause}")),
            };
            tell(report, &Told::Failed(failure));
            CODE_NOT_STARTED
        }
        Err(cause) => tell(report, &Told::Failed(not_started(&format!("forking the command: {cause}")))),
    }
}

/// The container's variables, and the kind of terminal where there is one.
fn environment(process: &Process, streams: Streams) -> Vec<String> {
    let mut env = process.env().clone().unwrap_or_default();
    if matches!(streams, Streams::Terminal(..)) && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Makes the calling process like the container's own: session, standard
/// streams, directory, user, capabilities.
fn prepare(process: &Process, streams: Streams) -> io::Result<()> {
    rustix::process::setsid()?;
    // First: later it may not be allowed to.
    if let Some(profile) = process.apparmor_profile().as_deref().filter(|profile| !profile.is_empty()) {
        app_armor::on_exec(profile).map_err(|cause| io::Error::other(format!("AppArmor profile {profile}: {cause}")))?;
    }
    if let Streams::Three(stdin, stdout, stderr) = streams {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        // SAFETY: numbers of descriptors this process inherited.
        let given = |number: Option<RawFd>| number.map_or(null.as_fd(), |number| unsafe { BorrowedFd::borrow_raw(number) });
        rustix::stdio::dup2_stdin(given(stdin))?;
        rustix::stdio::dup2_stdout(given(stdout))?;
        rustix::stdio::dup2_stderr(given(stderr))?;
    }
    rustix::process::chdir(process.cwd())?;
    let user = process.user();
    let groups: Vec<Gid> = user.additional_gids().iter().flatten().map(|gid| Gid::from_raw(*gid)).collect();
    nix::unistd::setgroups(&groups)?;
    let caps = process.capabilities().as_ref();
    let bits = |set: Option<&Option<Capabilities>>| set.and_then(Option::as_ref).map_or(CapabilitySet::empty(), capability_bits);
    let bounding = bits(caps.map(|c| c.bounding()));
    for (_, capability) in (CapabilitySet::all() & !bounding).iter_names() {
        // Newer capabilities than the kernel's are not there to be dropped.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    rustix::thread::set_keep_capabilities(true)?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    rustix::thread::set_keep_capabilities(false)?;
    let sets = CapabilitySets {
        effective: bits(caps.map(|c| c.effective())),
        permitted: bits(caps.map(|c| c.permitted())),
        inheritable: bits(caps.map(|c| c.inheritable())),
    };
    rustix::thread::set_capabilities(None, sets)?;
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true)?;
    }
    if let Streams::Terminal(socket, size) = streams {
        // Last: a terminal belongs to the user who opens it.
        // SAFETY: the number of a socket this process inherited.
        terminal::take(unsafe { BorrowedFd::borrow_raw(socket) }, size)?;
    }
    Ok(())
}

fn capability_bits(set: &Capabilities) -> CapabilitySet {
    set.iter().fold(CapabilitySet::empty(), |bits, capability| {
        // Serialized as the kernel's name with its prefix.
        let name = serde_json::to_value(capability).ok();
        let name = name.as_ref().and_then(|n| n.as_str()).and_then(|n| n.strip_prefix("CAP_"));
        bits | name.and_then(CapabilitySet::from_name).unwrap_or(CapabilitySet::empty())
    })
}
