//! Making and ending a pod's sandbox.
//!
//! Whatever is made is written down first, so an agent that dies at any moment
//! leaves something its successor can finish or remove.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shim::protocol::{Answer, IdRange, Limits, Request, SandboxSpec};
use shim::record::{now_ns, write_bytes};

use super::client::{Client, ClientError, connect};
use super::files::{
    HOSTNAME_FILE, HOSTS_FILE, Notes, Phase, RESOLV_CONF_FILE, SANDBOX_FILE, SHIM_LOG_FILE, SOCKET_FILE, SandboxRecord, doing, remove_tree,
};
use super::pod::{PROMPT, Pod};
use super::{Embedded, blocking, hosts};
use crate::{PodNet, Resources, RuntimeError, SandboxConfig};

/// Killing a pod's processes may wait for the kernel.
const SHUTDOWN: Duration = Duration::from_secs(20);
const DESTROY: Duration = Duration::from_secs(10);
/// A shim that does not greet within this is not one.
const GREETING: Duration = Duration::from_secs(5);

pub(super) const LOST: &str = "the shim that ran this container has died, and its exit status with it";

impl Embedded {
    /// Makes the sandbox, or goes on where an earlier call stopped.
    pub(super) async fn make_sandbox(&self, config: &SandboxConfig) -> Result<(), RuntimeError> {
        // While we waited, the pod may have been removed; then it begins anew.
        let (pod, _gate) = loop {
            let pod = self.pod_or_new(&config.pod);
            let gate = pod.gate.clone().lock_owned().await;
            if Arc::ptr_eq(&pod, &self.pod_or_new(&config.pod)) {
                break (pod, gate);
            }
        };
        let pod = &pod;
        let existing = pod.known().sandbox.clone();
        let config = &as_made(config, existing.as_ref());
        let alive = pod.client();
        let client = match (existing, alive) {
            (Some(made), Some(_)) if made.config == *config && made.phase == Phase::Ready => return Ok(()),
            (Some(made), Some(client)) if made.config == *config && made.phase == Phase::Making => client,
            (existing, _) => {
                if existing.is_some_and(|s| s.phase != Phase::Stopped) {
                    self.end_sandbox(pod).await?;
                }
                self.launch(pod, config).await?
            }
        };
        let pid = greet(&client).await.map_err(|error| pod.trouble(error))?;
        let ids = pod.known().sandbox.as_ref().and_then(|made| made.ids);
        client
            .order(&Request::RunSandbox(sandbox_spec(config, ids)), PROMPT)
            .await
            .map_err(|error| pod.trouble(error))?;
        let ips = if config.host_network {
            self.options.node_ips.clone()
        } else {
            let net = PodNet {
                uid: pod.uid.clone(),
                name: config.name.clone(),
                namespace: config.namespace.clone(),
            };
            let namespace = PathBuf::from(format!("/proc/{pid}/ns/net"));
            self.options.network.attach(&net, &namespace).await.map_err(RuntimeError::Network)?
        };
        let (pod, config) = (pod.clone(), config.clone());
        blocking(move || {
            let hosts = if config.host_network {
                hosts::of_node(&fs::read_to_string("/etc/hosts").unwrap_or_default(), &config.host_aliases)
            } else {
                hosts::managed(&ips, &config.hostname, &config.domain, &config.host_aliases)
            };
            write_shared(&pod.dir.file(HOSTS_FILE), &hosts)?;
            let made = pod.known().sandbox.clone();
            let created_at_ns = made.as_ref().map_or_else(now_ns, |s| s.created_at_ns);
            pod.set_sandbox(SandboxRecord {
                config,
                created_at_ns,
                phase: Phase::Ready,
                ips,
                shim_pid: Some(pid),
                notes: made.map(|made| made.notes).unwrap_or_default(),
                ids,
            })
        })
        .await
    }

    /// Starts the shim and connects to it.
    async fn launch(&self, pod: &Arc<Pod>, config: &SandboxConfig) -> Result<Arc<Client>, RuntimeError> {
        let ids = config.own_users.then(|| self.take_ids(pod)).transpose()?;
        let (pod_, config, exe, root) = (
            pod.clone(),
            config.clone(),
            self.options.shim_exe.clone(),
            self.options.cgroup_root.clone(),
        );
        let stream = blocking(move || {
            let pod = pod_;
            pod.dir.create()?;
            let record = SandboxRecord {
                config,
                created_at_ns: now_ns(),
                phase: Phase::Making,
                ips: Vec::new(),
                shim_pid: None,
                notes: Notes::new(),
                ids,
            };
            pod.set_sandbox(record.clone())?;
            write_shared(&pod.dir.file(HOSTNAME_FILE), &format!("{}\n", record.config.hostname))?;
            write_shared(&pod.dir.file(RESOLV_CONF_FILE), &record.config.resolv_conf)?;
            let socket = pod.dir.file(SOCKET_FILE);
            let start = || {
                let listener = listen(&pod.dir.0)?;
                let log = OpenOptions::new()
                    .create(true)
                    .append(true)
                    .mode(0o600)
                    .open(pod.dir.file(SHIM_LOG_FILE))?;
                let mut args: Vec<OsString> = vec![
                    "--dir".into(),
                    pod.dir.0.clone().into(),
                    "--uid".into(),
                    pod.uid.as_str().into(),
                    "--cgroup-root".into(),
                    root.into(),
                ];
                if let Some(parent) = record.config.cgroup_parent.name() {
                    args.extend(["--cgroup-parent".into(), parent.into()]);
                }
                exe.start(listener, log, args)?;
                connect(&pod.dir.0, SOCKET_FILE)
            };
            start().map_err(doing("starting the shim at", &socket))
        })
        .await?;
        self.take_client(pod, stream)
    }

    /// Users of the pod's own. Source of the texts: upstream
    /// `userns_manager.go`, `GetOrCreateUserNamespaceMappings`, `allocateOne`.
    fn take_ids(&self, pod: &Pod) -> Result<IdRange, RuntimeError> {
        if let Some(why) = &self.no_users {
            return Err(RuntimeError::Config(format!(
                "can't set `spec.hostUsers: false`, runtime does not support user namespaces: {why}"
            )));
        }
        let taken = self.ranges().take(&pod.uid);
        taken.ok_or_else(|| {
            RuntimeError::Config("create user namespace: could not find an empty slot to allocate a user namespace".to_owned())
        })
    }

    /// Makes `stream` the pod's connection.
    pub(super) fn take_client(&self, pod: &Arc<Pod>, stream: std::os::unix::net::UnixStream) -> Result<Arc<Client>, RuntimeError> {
        let (hints, uid) = (self.hints.clone(), pod.uid.clone());
        let client = Client::new(stream, move || drop(hints.send(uid.clone())));
        let client = Arc::new(client.map_err(doing("talking to the shim of", &pod.dir.0))?);
        pod.known().client = Some(client.clone());
        Ok(client)
    }

    /// Tries once more to reach a shim that hung up. The caller holds the gate.
    pub(super) async fn reconnect(&self, pod: &Arc<Pod>) -> bool {
        let Ok(stream) = connect(&pod.dir.0, SOCKET_FILE) else {
            return false;
        };
        let Ok(client) = self.take_client(pod, stream) else { return false };
        // One that is late lives.
        let answers = matches!(greet(&client).await, Ok(_) | Err(ClientError::Late(_)));
        if answers {
            tracing::info!(uid = %pod.uid, "the connection to the pod's shim was lost and is there again");
        }
        answers
    }

    /// Notes something on the sandbox; an empty value removes the note.
    pub(super) async fn note_on_sandbox(&self, pod: &Arc<Pod>, key: &str, value: &str) -> Result<(), RuntimeError> {
        let _one_writer = pod.gate.lock().await;
        let Some(mut sandbox) = pod.known().sandbox.clone() else {
            return Err(RuntimeError::NotFound {
                what: "sandbox",
                name: pod.uid.to_string(),
            });
        };
        if value.is_empty() {
            sandbox.notes.remove(key);
        } else {
            sandbox.notes.insert(key.to_owned(), value.to_owned());
        }
        let pod = pod.clone();
        blocking(move || pod.set_sandbox(sandbox)).await
    }

    /// Ends what runs of the sandbox. The caller holds the gate.
    pub(super) async fn end_sandbox(&self, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
        let Some(mut sandbox) = pod.known().sandbox.clone() else {
            return Ok(());
        };
        let asked = match pod.client() {
            Some(client) => client.order(&Request::Shutdown, SHUTDOWN).await,
            None => Err(ClientError::Gone),
        };
        if let Err(error) = &asked {
            tracing::debug!(uid = %pod.uid, error = %error, "the shim does not end its pod itself");
        }
        let (pod_, trees, orderly, pid) = (pod.clone(), self.host.trees.clone(), asked.is_ok(), sandbox.shim_pid);
        blocking(move || {
            let pod = pod_;
            if !orderly {
                kill_shim(pid, &pod.dir.0);
            }
            let group = pod.group();
            if trees.exists(&group) {
                trees.destroy(&group, DESTROY).map_err(|cause| RuntimeError::Io {
                    doing: format!("ending the processes of pod {}", pod.uid),
                    source: std::io::Error::other(cause),
                })?;
            }
            pod.write_off(LOST)
        })
        .await?;
        pod.known().client = None;
        if !sandbox.config.host_network {
            self.options.network.detach(&pod.uid).await.map_err(RuntimeError::Network)?;
        }
        sandbox.phase = Phase::Stopped;
        sandbox.shim_pid = None;
        let pod_ = pod.clone();
        blocking(move || pod_.set_sandbox(sandbox)).await?;
        self.ranges().give_back(&pod.uid);
        let _ = self.hints.send(pod.uid.clone());
        Ok(())
    }

    /// Removes all of the pod. The caller holds the gate.
    pub(super) async fn erase(&self, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
        let stopped = pod.known().sandbox.as_ref().is_some_and(|s| s.phase == Phase::Stopped);
        if !stopped {
            self.end_sandbox(pod).await?;
        }
        let (dir, group, trees) = (pod.dir.clone(), pod.group(), self.host.trees.clone());
        blocking(move || {
            if trees.exists(&group) {
                let _ = trees.destroy(&group, DESTROY);
            }
            // The record last: while it is there, the rest can be found.
            remove_tree(&dir.0.join(shim::record::CONTAINERS_DIR))?;
            let record = dir.file(SANDBOX_FILE);
            for entry in fs::read_dir(&dir.0).into_iter().flatten().flatten().filter(|e| e.path() != record) {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove_tree(&entry.path())?;
                } else {
                    let _ = fs::remove_file(entry.path());
                }
            }
            remove_tree(&dir.0)
        })
        .await?;
        let mut known = pod.known();
        *known = super::pod::Known {
            sequence: known.sequence,
            ..Default::default()
        };
        drop(known);
        self.forget(pod);
        Ok(())
    }
}

/// Asks the shim who it is; gives its process id.
pub(super) async fn greet(client: &Client) -> Result<i32, ClientError> {
    match client
        .ask(
            &Request::Hello {
                version: shim::protocol::VERSION,
            },
            GREETING,
        )
        .await?
    {
        Answer::Hello { pid, .. } => Ok(pid),
        _ => Err(ClientError::Confused),
    }
}

/// Kills a shim that does not listen, if the process is still that shim.
pub(super) fn kill_shim(pid: Option<i32>, dir: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let Some(pid) = pid else { return };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_ours = command.split(|&b| b == 0).any(|arg| arg == dir.as_os_str().as_bytes());
    if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| is_ours) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// What can change of a pod while its sandbox is there stays as it was made:
/// its resources are changed in other ways, and its group does not move.
fn as_made(config: &SandboxConfig, made: Option<&SandboxRecord>) -> SandboxConfig {
    let mut config = config.clone();
    if let Some(made) = made.filter(|made| made.phase != Phase::Stopped) {
        config.resources = made.config.resources.clone();
        config.cgroup_parent = made.config.cgroup_parent;
    }
    config
}

fn sandbox_spec(config: &SandboxConfig, ids: Option<IdRange>) -> SandboxSpec {
    SandboxSpec {
        own_network: !config.host_network,
        own_ipc: !config.host_ipc,
        shared_pid: config.share_process_namespace && !config.host_pid,
        hostname: config.hostname.clone(),
        sysctls: config.sysctls.clone(),
        limits: limits(&config.resources),
        ids,
    }
}

pub(super) fn limits(resources: &Resources) -> Limits {
    Limits {
        cpu_shares: resources.cpu_shares,
        cpu_milli: resources.cpu_limit_milli,
        memory_bytes: resources.memory_limit_bytes,
        processes: resources.processes_limit,
        hugepages: resources.hugepage_limits.clone(),
    }
}

/// A listening socket in `dir`, for its owner only.
fn listen(dir: &Path) -> std::io::Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let opened = File::open(dir)?;
    let path = dir.join(SOCKET_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The directory is 0700, so nobody can connect before the mode is set.
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET_FILE}", opened.as_raw_fd()))?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

/// A file containers see: readable by all of them.
fn write_shared(path: &Path, text: &str) -> Result<(), RuntimeError> {
    write_bytes(path, text.as_bytes(), 0o644, false).map_err(doing("writing", path))
}
