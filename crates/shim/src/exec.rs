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
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::unistd::{ForkResult, Gid, Uid};
use oci_spec::runtime::{Capabilities, Process, Spec};
use rustix::pipe::PipeFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::cgroup::Trees;
use crate::create::CONFIG_FILE;
use crate::process::{self, CODE_NOT_STARTED, StartFailure};
use crate::protocol::{EXEC_OUTPUT_BYTES_MAX, ExecSpec};
use crate::seccomp::Filters;

/// Most read from its output before others get their turn; a pipe's worth.
const READ_BYTES: usize = 16 << 10;
const READS_MAX: u32 = 4;

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
    /// Starts `spec.command` in the container of process `init`.
    pub(crate) fn start(spec: &ExecSpec, init: i32, dir: &Path, trees: &Trees, group: &Path) -> io::Result<Self> {
        let (output, output_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (report, report_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        rustix::io::ioctl_fionbio(&report, true)?;
        let init = rustix::process::Pid::from_raw(init).ok_or_else(|| io::Error::other("the container has no process"))?;
        let init = rustix::process::pidfd_open(init, rustix::process::PidfdFlags::empty())?;
        let numbers = [output_end.as_raw_fd(), report_end.as_raw_fd(), init.as_raw_fd()];
        let birthplace = trees.birthplace(group).map_err(io::Error::other)?;
        let worker = process::fork_worker(birthplace.as_ref(), &numbers, || {
            let [output, report, _] = numbers;
            match enter(&init, dir, trees, group) {
                Ok(process) => become_command(&process, &spec.command, output, report),
                Err(cause) => tell(report, &Told::Failed(not_started(&format!("entering the container: {cause}")))),
            }
        })?;
        Ok(Self {
            worker,
            pid: None,
            deadline: spec.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms)),
            timed_out: false,
            output: Some(output),
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
}

/// Moves the worker into the container; gives how its processes run.
fn enter(init: &OwnedFd, dir: &Path, trees: &Trees, group: &Path) -> io::Result<(Process, Filters)> {
    let spec: Spec = serde_json::from_slice(&std::fs::read(dir.join(CONFIG_FILE))?)?;
    let filters = Filters::of_attempt(dir)?;
    let process = spec
        .process()
        .clone()
        .ok_or_else(|| io::Error::other("the container's configuration names no process"))?;
    trees.enter_v1(group).map_err(io::Error::other)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    // Network, IPC and UTS namespaces are the shim's own.
    let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::setns(init.as_fd(), namespaces)?;
    Ok((process, filters))
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
fn become_command((process, filters): &(Process, Filters), command: &[String], output: RawFd, report: RawFd) -> i32 {
    // SAFETY: this process has one thread.
    match unsafe { nix::unistd::fork() } {
        Ok(ForkResult::Parent { child }) => tell(report, &Told::Process(child.as_raw())),
        Ok(ForkResult::Child) => {
            let failure = match prepare(process, output) {
                Ok(()) => process::exec(command, process.env().as_deref().unwrap_or_default(), filters),
                Err(cause) => not_started(&format!("preparing the command: {cause}")),
            };
            tell(report, &Told::Failed(failure));
            CODE_NOT_STARTED
        }
        Err(cause) => tell(report, &Told::Failed(not_started(&format!("forking the command: {cause}")))),
    }
}

/// Makes the calling process like the container's own: session, standard
/// descriptors, directory, user, capabilities.
fn prepare(process: &Process, output: RawFd) -> io::Result<()> {
    rustix::process::setsid()?;
    let null = File::open("/dev/null")?;
    // SAFETY: the number of the pipe end this process inherited.
    let output = unsafe { std::os::fd::BorrowedFd::borrow_raw(output) };
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(output)?;
    rustix::stdio::dup2_stderr(output)?;
    if let Some(score) = process.oom_score_adj() {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())?;
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
