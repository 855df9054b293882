//! Making one attempt of a container: the forked worker that does it.
//!
//! The worker mounts the root file system, looks up the user, and calls
//! libcontainer, which changes its process (directory, dumpable flag) and
//! takes its time; so the shim never calls it itself. The container's process
//! becomes the shim's child when the worker ends, and waits to be started.

use std::error::Error;
use std::fmt::Write;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use crate::cgroup::Trees;
use crate::mapped::Mapped;
use crate::process;
use crate::protocol::{CreateSpec, Refusal, TerminalSize};
use crate::rootfs::{self, Root};
use crate::sandbox;
use crate::seccomp::Filters;
use crate::stage;
use crate::terminal;
use crate::user_namespace::UserNamespace;
use crate::users;

/// In the attempt's directory: libcontainer's own, and in that the socket the
/// container's process waits on.
const LIBCONTAINER_DIR: &str = "oci";

/// The OCI configuration, in the attempt's directory.
pub(crate) const CONFIG_FILE: &str = "config.json";

/// What a worker tells the shim: one line of JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Made {
    /// Process id on the node.
    Process(i32),
    /// It could not be made.
    Refused(Refusal, String),
}

/// Where a container's process waits to be started.
pub(crate) fn start_socket(dir: &Path, id: &str) -> PathBuf {
    dir.join(LIBCONTAINER_DIR).join(id).join("notify.sock")
}

/// Everything the worker needs.
pub(crate) struct Work<'a> {
    pub(crate) spec: CreateSpec,
    /// The attempt's directory.
    pub(crate) dir: &'a Path,
    pub(crate) trees: &'a Trees,
    /// The container's cgroup.
    pub(crate) group: &'a Path,
    /// First process of the process-id namespace it is to share.
    pub(crate) reaper: Option<i32>,
    /// The users its pod has of its own.
    pub(crate) users: Option<&'a UserNamespace>,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    /// The socket a terminal is handed over, if it is to have one.
    pub(crate) terminal: Option<RawFd>,
    /// Closes when the program runs; before that, tells why it does not.
    pub(crate) report: RawFd,
}

/// The worker's life.
pub(crate) fn make(work: Work<'_>) -> Made {
    let dir = work.dir;
    let made = try_make(work);
    // The container holds its root in its own mount namespace.
    let _ = rootfs::unmount(&dir.join("merged"));
    stage::clear(dir);
    match made {
        Ok(pid) => Made::Process(pid),
        // This process is in the container's group, so the shim empties it.
        Err((kind, message)) => Made::Refused(kind, message),
    }
}

fn system(doing: &str) -> impl FnOnce(io::Error) -> (Refusal, String) {
    move |cause| (Refusal::System, format!("{doing}: {cause}"))
}

fn try_make(work: Work<'_>) -> Result<i32, (Refusal, String)> {
    let Work {
        spec, dir, trees, group, ..
    } = work;
    let mapped = work.users.map(Mapped::begin).transpose();
    let mapped = mapped.map_err(system("making room for the container's mounts"))?;
    let merged = mount_root(&spec.layers, dir, mapped.as_ref()).map_err(system("mounting the root file system"))?;
    let root = Root::open(&merged).map_err(system("opening the root file system"))?;
    let passwd = root
        .read_to_string("/etc/passwd")
        .map_err(system("reading the image's /etc/passwd"))?;
    let groups = root
        .read_to_string("/etc/group")
        .map_err(system("reading the image's /etc/group"))?;
    let identity = users::resolve(&spec.user, &passwd, &groups).map_err(|message| (Refusal::Config, message))?;
    let ids = work.users.map(|users| users.ids);
    if let Some(ids) = ids {
        identity.check(ids).map_err(|message| (Refusal::Config, message))?;
    }
    let shared = work.reaper.map(|process| File::open(sandbox::pid_namespace(process))).transpose();
    let shared = shared.map_err(system("opening the process-id namespace to share"))?;
    let mut oci = spec.spec;
    settle(&mut oci, &identity, shared.as_ref(), trees).map_err(|message| (Refusal::Config, message))?;
    if let Some(process) = oci.process() {
        root.create_dir_all(process.cwd(), ids.map_or(0, |ids| ids.first))
            .map_err(|cause| (Refusal::Start, format!("mkdir {}: {cause}", process.cwd().display())))?;
    }
    drop(root);
    stage::stage(&spec.staged, mapped.as_ref().map_or(dir, |mapped| mapped.place()), mapped.as_ref())?;
    for stream in [&work.stdin, &work.stdout, &work.stderr] {
        let owner = ids.map_or(Some(identity.uid), |ids| ids.on_node(identity.uid));
        process::give_pipe(stream.as_fd(), owner.unwrap_or_default()).map_err(system("giving the container its streams"))?;
    }
    trees
        .settle_in(group, &spec.limits, spec.all_devices)
        .map_err(|cause| (Refusal::System, cause.to_string()))?;
    // The container's groups, which it sees, are there now.
    if let Some(mapped) = &mapped {
        mapped.settle(&mut oci, &stage::in_place(dir))?;
        join_users(&mut oci, mapped.users()).map_err(|message| (Refusal::Config, message))?;
    }
    let config = serde_json::to_vec(&oci).map_err(|cause| (Refusal::System, format!("writing {CONFIG_FILE}: {cause}")))?;
    fs::write(dir.join(CONFIG_FILE), config).map_err(system("writing the container's configuration"))?;
    let filters = Filters::of_attempt(dir).map_err(system("reading the container's seccomp filters"))?;
    // A worker that was killed may have left these.
    let _ = fs::remove_dir_all(dir.join(LIBCONTAINER_DIR));
    let refused = |error: &dyn Error| (Refusal::Start, format!("failed to create container: {}", chain(error)));
    let container = ContainerBuilder::new(spec.id, SyscallType::Linux)
        .with_root_path(dir.join(LIBCONTAINER_DIR))
        .map_err(|error| refused(&error))?
        .with_executor(Payload {
            report: work.report,
            terminal: work.terminal,
            filters,
        })
        .with_stdin(work.stdin)
        .with_stdout(work.stdout)
        .with_stderr(work.stderr)
        .as_init(dir)
        .with_systemd(false)
        .build()
        .map_err(|error| refused(&error))?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| (Refusal::System, "the container has no process".to_owned()))
}

/// Mounts the root file system; gives where.
fn mount_root(layers: &[PathBuf], dir: &Path, mapped: Option<&Mapped<'_>>) -> io::Result<PathBuf> {
    let Some(mapped) = mapped else {
        let merged = dir.join("merged");
        return rootfs::mount_overlay(layers, dir, &merged, 0).map(|()| merged);
    };
    let layers = mapped.layers(layers, "layers")?;
    rootfs::mount_overlay(&layers, dir, &mapped.root(), mapped.users().ids.first)?;
    Ok(mapped.root())
}

/// Names the user namespace the container's first process enters. What the ids
/// are is of no effect there, and read by those who enter it later.
fn join_users(spec: &mut Spec, users: &UserNamespace) -> Result<(), String> {
    let linux = spec.linux_mut().as_mut().ok_or("the configuration is not for Linux")?;
    let mapping = LinuxIdMappingBuilder::default()
        .container_id(0_u32)
        .host_id(users.ids.first)
        .size(users.ids.length)
        .build()
        .map_err(|cause| cause.to_string())?;
    linux.set_uid_mappings(Some(vec![mapping])).set_gid_mappings(Some(vec![mapping]));
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(LinuxNamespaceType::User).set_path(Some(users.path()));
    linux.namespaces_mut().get_or_insert_default().push(namespace);
    Ok(())
}

/// Fills in what only the root file system and the sandbox could tell. `shared`
/// is the process-id namespace it shares, open as long as the worker lives.
fn settle(spec: &mut Spec, identity: &users::Identity, shared: Option<&File>, trees: &Trees) -> Result<(), String> {
    let process = spec.process_mut().as_mut().ok_or("the configuration names no process")?;
    let user = process.user_mut();
    user.set_uid(identity.uid)
        .set_gid(identity.gid)
        .set_additional_gids(Some(identity.groups.clone()));
    let env = process.env_mut().get_or_insert_default();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", identity.home));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let moved = mount.source().as_ref().and_then(|source| trees.moved_to(source));
        if let Some(moved) = moved {
            mount.set_source(Some(moved));
        }
    }
    let namespaces = spec.linux_mut().as_mut().and_then(|linux| linux.namespaces_mut().as_mut());
    if let (Some(shared), Some(namespaces)) = (shared, namespaces) {
        for namespace in namespaces.iter_mut().filter(|n| n.typ() == LinuxNamespaceType::Pid) {
            // Nobody on the node may look for it in another process.
            namespace.set_path(Some(PathBuf::from(format!("/proc/self/fd/{}", shared.as_raw_fd()))));
        }
    }
    Ok(())
}

/// An error and all that caused it, in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let this = error.to_string();
        if !text.contains(&this) {
            let _ = write!(text, ": {this}");
        }
        cause = error.source();
    }
    text
}

/// Becomes the container's program when it is started.
#[derive(Clone)]
struct Payload {
    report: RawFd,
    terminal: Option<RawFd>,
    filters: Filters,
}

impl Executor for Payload {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let args = process.args().as_deref().unwrap_or_default();
        let env = process.env().as_deref().unwrap_or_default();
        let terminal = self.terminal.map_or(Ok(()), |socket| {
            // SAFETY: the number of the socket this process inherited.
            let socket = unsafe { BorrowedFd::borrow_raw(socket) };
            terminal::take(socket, TerminalSize::default())
        });
        let failure = match terminal {
            Ok(()) => process::exec(args, env, &self.filters),
            Err(cause) => process::StartFailure {
                code: process::CODE_NOT_STARTED,
                message: format!("making its terminal: {cause}"),
            },
        };
        let line = serde_json::to_vec(&failure).unwrap_or_default();
        let _ = process::write_all(self.report, &line);
        Err(ExecutorError::Other(failure.message))
    }

    /// Nothing: a program that cannot be run is found out when it is started.
    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// Nothing: the program gets the configuration's variables, in its order.
    fn setup_envs(&self, _envs: std::collections::HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
