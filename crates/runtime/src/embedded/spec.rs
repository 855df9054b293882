//! From a container's configuration to an OCI runtime specification. Pure.
//!
//! Not in it: the user's numbers and the process-id namespace to share, which
//! the shim fills in; network, IPC and UTS namespaces, since the shim lives in
//! the pod's and containers are born into them.
//!
//! Source of the defaults: containerd `oci.populateDefaultUnixSpec`,
//! `defaultMounts`, `defaultUnixCaps`; CRI server `container_create_linux.go`.

mod capability;
mod device;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use shim::protocol::{Staged, UserSpec};
use shim::{record, stage};

use super::files::{HOSTNAME_FILE, HOSTS_FILE, RESOLV_CONF_FILE};
use crate::image::ImageConfig;
use crate::{ContainerConfig, SandboxConfig};

pub(super) use capability::{Host, bounding, seccomp};
pub(super) use device::all as all_devices;

/// Source: containerd, `defaultUnixEnv`.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Source: containerd, CRI server, default masked paths.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Version 1 controllers a container sees its own group of.
const CGROUPS_SEEN: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// All that decides what a container is.
pub(super) struct Parts<'a> {
    pub(super) sandbox: &'a SandboxConfig,
    pub(super) container: &'a ContainerConfig,
    pub(super) image: &'a ImageConfig,
    /// The pod's directory.
    pub(super) pod_dir: &'a Path,
    /// The attempt's directory.
    pub(super) dir: &'a Path,
    /// The attempt's cgroup.
    pub(super) group: &'a Path,
    pub(super) host: &'a Host,
    /// The AppArmor profile it is under.
    pub(super) app_armor: Option<String>,
    /// The node's devices, if the container gets them.
    pub(super) devices: Vec<Value>,
}

/// The specification.
///
/// # Errors
/// What cannot be run, for people.
pub(super) fn generate(parts: &Parts<'_>) -> Result<Spec, String> {
    let Parts {
        sandbox,
        container,
        image,
        dir,
        group,
        host,
        ..
    } = parts;
    let args = command_line(container, image);
    if args.is_empty() {
        return Err("no command specified: neither the container nor its image names one".to_owned());
    }
    let capabilities = bounding(container, host)?;
    let held = capability::held(container, &capabilities);
    let cwd = container
        .working_dir
        .as_deref()
        .filter(|d| !d.is_empty())
        .unwrap_or(&image.working_dir);
    let cwd = if cwd.is_empty() { "/" } else { cwd };
    if !cwd.starts_with('/') {
        return Err(format!("working directory {cwd:?} is not absolute"));
    }
    let mut namespaces = vec![json!({"type": "mount"}), json!({"type": "cgroup"})];
    if !sandbox.host_pid {
        namespaces.push(json!({"type": "pid"}));
    }
    let open = container.privileged || container.unmasked_proc;
    // Else its mounts would only follow. Source: containerd `WithMounts`.
    let shares = container.mounts.iter().any(|m| m.propagation == crate::Propagation::Bidirectional);
    let spec = json!({
        "ociVersion": "1.0.2",
        "root": {"path": dir.join("merged"), "readonly": container.read_only_root},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": environment(sandbox, container, image),
            "cwd": cwd,
            "noNewPrivileges": container.no_new_privileges,
            "apparmorProfile": parts.app_armor,
            "oomScoreAdj": host.oom_score(container.oom_score),
            "capabilities": {"bounding": capabilities, "effective": held, "permitted": held},
        },
        "mounts": mounts(parts),
        "linux": {
            "cgroupsPath": group,
            "namespaces": namespaces,
            "devices": parts.devices,
            "maskedPaths": if open { &[][..] } else { &MASKED[..] },
            "readonlyPaths": if open { &[][..] } else { &READ_ONLY[..] },
            "rootfsPropagation": if shares { Some("shared") } else { None },
        },
    });
    serde_json::from_value(spec).map_err(|cause| format!("container {}: its configuration cannot be expressed: {cause}", container.name))
}

/// What the shim is to make ready for the mounts of a container; `layers` finds
/// those of an image that is a volume.
///
/// # Errors
/// Those of `layers`.
pub(super) fn staged<E>(container: &ContainerConfig, layers: impl Fn(&str) -> Result<Vec<PathBuf>, E>) -> Result<Vec<Staged>, E> {
    let staged = container.mounts.iter().map(|mount| {
        Ok(Staged {
            source: mount.source.clone(),
            layers: mount.image.as_deref().map(&layers).transpose()?,
            outside: mount.outside.clone(),
            sub_path: mount.sub_path.clone(),
            slave: mount.propagation == crate::Propagation::HostToContainer,
            shared: mount.propagation == crate::Propagation::Bidirectional,
            what: format!("volumeMount {:?} of container {:?}", mount.volume, container.name),
        })
    });
    staged.collect()
}

/// Who it runs as, before names are looked up.
///
/// # Errors
/// With `run_as_non_root`, a user that is root or cannot be shown not to be.
/// Source of rule and texts: kubelet `verifyRunAsNonRoot`.
pub(super) fn user(sandbox: &SandboxConfig, container: &ContainerConfig, image: &ImageConfig) -> Result<UserSpec, String> {
    let run_as = &container.run_as;
    if container.run_as_non_root {
        let pod = format!(
            "(pod: \"{}_{}({})\", container: {})",
            sandbox.name, sandbox.namespace, sandbox.pod, container.name
        );
        let name = image.user.split(':').next().unwrap_or_default();
        match (run_as.uid, name.parse::<u32>()) {
            (Some(0), _) => return Err(format!("container's runAsUser breaks non-root policy {pod}")),
            (Some(_), _) => {}
            (None, Ok(0)) => return Err(format!("container has runAsNonRoot and image will run as root {pod}")),
            (None, Ok(_)) => {}
            (None, Err(_)) if name.is_empty() => return Err(format!("container has runAsNonRoot and image will run as root {pod}")),
            (None, Err(_)) => {
                return Err(format!(
                    "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {pod}"
                ));
            }
        }
    }
    Ok(UserSpec {
        image: image.user.clone(),
        uid: run_as.uid,
        gid: run_as.gid,
        groups: run_as.supplemental_gids.clone(),
        only_these_groups: run_as.only_these_groups,
    })
}

/// Number of the signal that stops it: the pod's, else the image's `STOPSIGNAL`.
///
/// # Errors
/// A word that is no signal.
pub(super) fn stop_signal(container: &ContainerConfig, image: &ImageConfig) -> Result<i32, String> {
    if let Some(name) = &container.stop_signal {
        return api::signal::number(name).ok_or_else(|| format!("the stop signal {name:?} is not a signal"));
    }
    let Some(word) = image.stop_signal.as_deref().map(str::trim).filter(|w| !w.is_empty()) else {
        return Ok(api::signal::TERM);
    };
    api::signal::of_image(word).ok_or_else(|| format!("the image's stop signal {word:?} is not a signal"))
}

/// Source: pod API reference, `command` and `args`.
fn command_line(container: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => [&image.entrypoint[..], &image.cmd[..]].concat(),
        (true, false) => [&image.entrypoint[..], &container.args[..]].concat(),
        (false, _) => [&container.command[..], &container.args[..]].concat(),
    }
}

/// Later ones replace earlier ones of the same name.
fn environment(sandbox: &SandboxConfig, container: &ContainerConfig, image: &ImageConfig) -> Vec<String> {
    let mut defaults = vec![PATH.to_owned(), format!("HOSTNAME={}", sandbox.hostname)];
    if container.tty {
        defaults.push("TERM=xterm".to_owned());
    }
    let own = container.env.iter().map(|(name, value)| format!("{name}={value}"));
    let mut env: Vec<String> = Vec::new();
    for entry in defaults.into_iter().chain(image.env.iter().cloned()).chain(own) {
        let name = entry.split('=').next().unwrap_or_default();
        let known = env.iter().position(|e| e.split('=').next() == Some(name));
        match known {
            Some(at) => env[at] = entry,
            None => env.push(entry),
        }
    }
    env
}

fn mount(kind: &str, source: &str, target: &str, options: &[&str]) -> Value {
    json!({"type": kind, "source": source, "destination": target, "options": options})
}

fn bind(source: &Path, target: &Path, options: &[&str]) -> Value {
    let options: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
    json!({"type": "bind", "source": source, "destination": target, "options": options})
}

fn mounts(parts: &Parts<'_>) -> Vec<Value> {
    let Parts {
        sandbox,
        container,
        pod_dir,
        dir,
        ..
    } = parts;
    let access = if container.privileged { "rw" } else { "ro" };
    let shm = if sandbox.host_ipc {
        PathBuf::from("/dev/shm")
    } else {
        pod_dir.join(record::SHM_DIR)
    };
    let mut list = vec![
        mount("proc", "proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "devpts",
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        bind(&shm, Path::new("/dev/shm"), &["rw", "nosuid", "nodev", "noexec"]),
        mount("mqueue", "mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
        mount("sysfs", "sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
    ];
    list.extend(cgroup_mounts(parts, access));
    let mut own: Vec<Value> = Vec::new();
    let is_taken = |target: &str| container.mounts.iter().any(|m| m.target == Path::new(target));
    for (file, target) in [
        (HOSTS_FILE, "/etc/hosts"),
        (HOSTNAME_FILE, "/etc/hostname"),
        (RESOLV_CONF_FILE, "/etc/resolv.conf"),
    ] {
        if !is_taken(target) {
            own.push(bind(&pod_dir.join(file), Path::new(target), &["rw"]));
        }
    }
    let message = &container.termination_message_path;
    if !message.is_empty() && !is_taken(message) {
        own.push(bind(&dir.join(record::MESSAGE_FILE), Path::new(message), &["rw"]));
    }
    let mut wanted: Vec<(usize, &crate::Mount)> = container.mounts.iter().enumerate().collect();
    // An outer mount must come before one inside it. Source: containerd `orderedMounts`.
    wanted.sort_by_key(|(_, m)| m.target.components().count());
    list.extend(wanted.into_iter().map(|(index, m)| {
        let mut options = vec![if m.read_only || m.image.is_some() { "ro" } else { "rw" }];
        if m.image.is_some() {
            options.push("noexec");
        }
        if m.recursive_read_only {
            options.push("rro");
        }
        bind(&stage::place(dir, index), &m.target, &options)
    }));
    list.extend(own);
    list
}

/// On version 2 hosts the container's own tree; on others its groups of the
/// controllers that programs read, never writable by it unless privileged.
fn cgroup_mounts(parts: &Parts<'_>, access: &str) -> Vec<Value> {
    let at = "/sys/fs/cgroup";
    let options = ["nosuid", "noexec", "nodev", "relatime", access];
    if parts.host.trees.is_unified() {
        return vec![mount("cgroup2", "cgroup", at, &options)];
    }
    let tmpfs = mount("tmpfs", "tmpfs", at, &["nosuid", "noexec", "nodev", "mode=755", "size=64k"]);
    let groups = CGROUPS_SEEN.iter().filter_map(|name| {
        let tree = parts.host.trees.v1_of(name)?;
        let source = tree.join(parts.group.strip_prefix("/").unwrap_or(parts.group));
        Some(bind(&source, &Path::new(at).join(name), &options))
    });
    [tmpfs].into_iter().chain(groups).collect()
}

#[cfg(test)]
mod tests;
