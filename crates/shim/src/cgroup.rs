//! Control groups on version 1, hybrid and version 2 hosts.
//!
//! A pod's groups are `<root>/pod<uid>`, or `<root>/<parent>/pod<uid>` for those
//! of one quality of service, and, inside it, one per container.
//! This file finds the trees, sets limits, kills, counts out-of-memory kills
//! and removes; `cgroup/enter.rs` puts processes in; `cgroup/device.rs` keeps
//! them from devices; `cgroup/usage.rs` reads what they use.
//!
//! Source: Linux `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`.

use std::borrow::Cow;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::protocol::Limits;

mod device;
mod enter;
mod usage;

/// Below the root, beside the pods' groups: where shims themselves are.
pub const SHIMS_GROUP: &str = "shims";

/// A pod's group: in the root, or in the group of its quality of service there.
#[must_use]
pub fn pod_group(root: &Path, parent: Option<&str>, uid: &str) -> PathBuf {
    let within = parent.map_or_else(|| root.to_owned(), |parent| root.join(parent));
    within.join(format!("pod{uid}"))
}

/// The scheduler's period for hard limits.
const CPU_PERIOD_US: u64 = 100_000;

/// How often a version 1 group is swept while its processes fork.
const KILL_SWEEPS_MAX: u32 = 20;

/// The cgroup file systems of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trees {
    /// Where version 2 is mounted.
    v2: Option<PathBuf>,
    /// Version 1 hierarchies: controller names (or `name=systemd`) and mount.
    v1: Vec<(Vec<String>, PathBuf)>,
    /// Where mounts were, and are now.
    moved: Vec<(PathBuf, PathBuf)>,
}

/// Why control groups cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The kernel's mount table could not be read.
    #[error("reading /proc/self/mountinfo")]
    Mounts(#[source] io::Error),
    /// Nothing to limit containers with.
    #[error(
        "no usable cgroup controller: neither a cgroup2 file system offering {missing} nor a version 1 hierarchy of it is mounted; \
         mount one, for example: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
    )]
    NoController {
        /// The controllers not found.
        missing: String,
    },
    /// A group could not be made or set.
    #[error("{doing} {path}: {cause}")]
    Group {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: String,
        /// The system's reason.
        cause: io::Error,
    },
}

impl CgroupError {
    fn group(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |cause| Self::Group { doing, path, cause }
    }
}

impl Trees {
    /// Finds the trees of this host.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] when memory, cpu or pids cannot be limited.
    pub fn detect() -> Result<Self, CgroupError> {
        let table = fs::read_to_string("/proc/self/mountinfo").map_err(CgroupError::Mounts)?;
        let trees = Self::from_mountinfo(&table);
        let offered = trees
            .v2
            .as_ref()
            .and_then(|v2| fs::read_to_string(v2.join("cgroup.controllers")).ok())
            .unwrap_or_default();
        let missing: Vec<&str> = ["memory", "cpu", "pids"]
            .into_iter()
            .filter(|name| trees.v1_of(name).is_none() && (!trees.is_unified() || !offered.split_whitespace().any(|o| o == *name)))
            .collect();
        if missing.is_empty() {
            Ok(trees)
        } else {
            Err(CgroupError::NoController {
                missing: missing.join(", "),
            })
        }
    }

    /// Reads them from the kernel's mount table (`/proc/self/mountinfo`).
    #[must_use]
    pub fn from_mountinfo(table: &str) -> Self {
        let (mut v2, mut v1) = (None, Vec::<(Vec<String>, PathBuf)>::new());
        for line in table.lines() {
            let Some((mount, fs)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let mut fs = fs.split(' ');
            match (fs.next(), fs.next_back()) {
                (Some("cgroup2"), _) if v2.is_none() => v2 = Some(PathBuf::from(point)),
                (Some("cgroup"), Some(options)) => {
                    let names = options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix"));
                    let names: Vec<String> = names.map(str::to_owned).collect();
                    if !v1.iter().any(|(known, _)| *known == names) {
                        v1.push((names, PathBuf::from(point)));
                    }
                }
                _ => {}
            }
        }
        Self { v2, v1, moved: Vec::new() }
    }

    /// Version 2 only.
    #[must_use]
    pub fn is_unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// Mount point of a version 1 controller.
    #[must_use]
    pub fn v1_of(&self, controller: &str) -> Option<&Path> {
        self.v1
            .iter()
            .find(|(names, _)| names.iter().any(|n| n == controller))
            .map(|(_, mount)| mount.as_path())
    }

    /// Mount point of the version 2 tree.
    #[must_use]
    pub fn v2_root(&self) -> Option<&Path> {
        self.v2.as_deref()
    }

    fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.v2
            .as_deref()
            .into_iter()
            .chain(self.v1.iter().map(|(_, mount)| mount.as_path()))
    }

    /// Makes the group `path` and sets the limits on it.
    ///
    /// # Errors
    /// A group that cannot be made or a limit that is refused.
    pub fn make(&self, path: &Path, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(v2) = &self.v2 {
            make_v2(v2, path, self.is_unified())?;
        }
        let v1 = ["memory", "cpu", "pids", "hugetlb"].into_iter().filter_map(|name| self.v1_of(name));
        for mount in v1 {
            let dir = below(mount, path);
            fs::create_dir_all(&dir).map_err(CgroupError::group("making cgroup", &dir))?;
        }
        self.limit(path, &settings(limits, self.is_unified()))
    }

    /// Sets other limits on a group that is there; those that are `None` stay.
    ///
    /// # Errors
    /// A limit that is refused, for example less memory than is in use.
    pub fn set(&self, path: &Path, limits: &Limits) -> Result<(), CgroupError> {
        self.limit(path, &settings(limits, self.is_unified()))
    }

    fn limit(&self, path: &Path, settings: &[Setting]) -> Result<(), CgroupError> {
        for (controller, file, value) in settings {
            let mount = if self.is_unified() {
                self.v2.as_deref()
            } else {
                self.v1_of(controller)
            };
            let Some(mount) = mount else { continue };
            let file = below(mount, path).join(file.as_ref());
            match put(&file, value) {
                // A kernel without this controller, or one that does not pass
                // it on: containers that need huge pages do not come here.
                Err(error) if *controller == "hugetlb" && error.kind() == io::ErrorKind::NotFound => {}
                set => set.map_err(CgroupError::group("setting a limit in", &file))?,
            }
        }
        Ok(())
    }

    /// Processes in `path` and the groups inside it.
    #[must_use]
    pub fn processes(&self, path: &Path) -> Vec<i32> {
        let mut pids = Vec::new();
        for mount in self.mounts() {
            collect(&below(mount, path), &mut pids);
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to all of them, also to those that fork meanwhile.
    pub fn kill(&self, path: &Path) {
        // Since Linux 5.14; all of a pod's processes are born into that tree.
        if self
            .v2
            .as_ref()
            .is_some_and(|v2| put(&below(v2, path).join("cgroup.kill"), "1").is_ok())
        {
            return;
        }
        let freezer = self.v1_of("freezer").map(|mount| below(mount, path).join("freezer.state"));
        for _ in 0..KILL_SWEEPS_MAX {
            let pids: Vec<i32> = self.processes(path).into_iter().filter(|pid| !is_dead(*pid)).collect();
            if pids.is_empty() {
                break;
            }
            if let Some(freezer) = &freezer {
                let _ = put(freezer, "FROZEN"); // so that none forks past us
            }
            for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            if let Some(freezer) = &freezer {
                let _ = put(freezer, "THAWED");
            }
        }
    }

    /// Kills what is in `path` until nothing is, then removes it from every
    /// tree. Blocks up to `patience`.
    ///
    /// # Errors
    /// What is left after that.
    pub fn destroy(&self, path: &Path, patience: Duration) -> Result<(), CgroupError> {
        let deadline = Instant::now() + patience;
        loop {
            self.kill(path);
            match self.remove(path) {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Removes `path` and the groups inside it; what is gone is success.
    ///
    /// # Errors
    /// `EBUSY` while a process is in one of them.
    pub fn remove(&self, path: &Path) -> Result<(), CgroupError> {
        let mut first_error = Ok(());
        for mount in self.mounts() {
            let removed = remove_below(&below(mount, path));
            first_error = first_error.and(removed);
        }
        first_error
    }

    /// Whether any tree still has the group.
    #[must_use]
    pub fn exists(&self, path: &Path) -> bool {
        self.mounts().any(|mount| below(mount, path).exists())
    }

    /// Groups directly inside `path`, in any tree.
    #[must_use]
    pub fn children(&self, path: &Path) -> Vec<String> {
        let mut names = Vec::new();
        for mount in self.mounts() {
            let Ok(entries) = fs::read_dir(below(mount, path)) else { continue };
            let dirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            names.extend(dirs.filter_map(|e| e.file_name().into_string().ok()));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Something to wait on for the group to be out of memory. With version 1
    /// it becomes readable, before the kernel has killed anything; with version
    /// 2 it is the file that counts, and becomes urgent.
    ///
    /// Source: Linux `cgroup-v1/memory.rst` section 10, `cgroup-v2.rst`,
    /// "memory.events".
    pub(crate) fn oom_notice(&self, path: &Path) -> io::Result<Option<OomNotice>> {
        use std::os::fd::AsRawFd;
        let Some(mount) = self.v1_of("memory") else {
            let Some(v2) = &self.v2 else { return Ok(None) };
            let events = fs::File::open(below(v2, path).join("memory.events"))?;
            return Ok(Some(OomNotice::File(events.into())));
        };
        let dir = below(mount, path);
        let control = fs::File::open(dir.join("memory.oom_control"))?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let counter = rustix::event::eventfd(0, flags)?;
        let order = format!("{} {}", counter.as_raw_fd(), control.as_raw_fd());
        put(&dir.join("cgroup.event_control"), &order)?;
        Ok(Some(OomNotice::Counter(counter)))
    }

    /// How many processes of the group the kernel has killed for memory.
    #[must_use]
    pub fn oom_kills(&self, path: &Path) -> u64 {
        let file = match (self.v1_of("memory"), &self.v2) {
            (Some(mount), _) => below(mount, path).join("memory.oom_control"),
            (None, Some(v2)) => below(v2, path).join("memory.events"),
            (None, None) => return 0,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill "))
            .and_then(|n| n.trim().parse().ok())
            .unwrap_or(0)
    }
}

/// See [`Trees::oom_notice`].
#[derive(Debug)]
pub(crate) enum OomNotice {
    /// Of version 1.
    Counter(OwnedFd),
    /// Of version 2.
    File(OwnedFd),
}

/// A group's directory. `path` is absolute in the cgroup tree's own terms.
fn below(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.strip_prefix("/").unwrap_or(path))
}

fn put(file: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value.as_bytes())
}

/// A zombie or gone: killing it again changes nothing.
fn is_dead(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// A controller, a file of it, and what is written there.
type Setting = (&'static str, Cow<'static, str>, String);

/// Which file of which controller gets which value.
/// Source: KEP-2254 for the conversion of shares to weight.
fn settings(limits: &Limits, unified: bool) -> Vec<Setting> {
    let quota_us = limits.cpu_milli.map(|milli| (milli * CPU_PERIOD_US / 1000).max(1000));
    let mut list: Vec<Setting> = Vec::new();
    let mut add = |controller, file: &'static str, value: Option<String>| {
        list.extend(value.map(|value| (controller, Cow::Borrowed(file), value)));
    };
    if unified {
        add("cpu", "cpu.weight", limits.cpu_shares.map(|s| weight(s).to_string()));
        add("cpu", "cpu.max", quota_us.map(|q| format!("{q} {CPU_PERIOD_US}")));
        add("memory", "memory.max", limits.memory_bytes.map(|m| m.to_string()));
    } else {
        add("cpu", "cpu.shares", limits.cpu_shares.map(|s| s.clamp(2, 262_144).to_string()));
        add("cpu", "cpu.cfs_period_us", quota_us.map(|_| CPU_PERIOD_US.to_string()));
        add("cpu", "cpu.cfs_quota_us", quota_us.map(|q| q.to_string()));
        add("memory", "memory.limit_in_bytes", limits.memory_bytes.map(|m| m.to_string()));
    }
    // The same file in both.
    add("pids", "pids.max", limits.processes.map(|n| n.to_string()));
    for (size, bytes) in &limits.hugepages {
        let file = if unified { "max" } else { "limit_in_bytes" };
        list.push(("hugetlb", format!("hugetlb.{size}.{file}").into(), bytes.to_string()));
    }
    list
}

fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// Makes a version 2 group. With `controllers`, its parents pass on what
/// containers need, and so does the group itself.
fn make_v2(mount: &Path, path: &Path, controllers: bool) -> Result<(), CgroupError> {
    let mut dir = mount.to_owned();
    let parts: Vec<_> = path.components().filter(|c| matches!(c, std::path::Component::Normal(_))).collect();
    for depth in 0..=parts.len() {
        if controllers {
            let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
            for name in offered
                .split_whitespace()
                .filter(|n| matches!(*n, "memory" | "cpu" | "pids" | "cpuset" | "io" | "hugetlb"))
            {
                let control = dir.join("cgroup.subtree_control");
                put(&control, &format!("+{name}")).map_err(CgroupError::group("passing on a controller in", &control))?;
            }
        }
        if let Some(part) = parts.get(depth) {
            dir.push(part);
            match fs::create_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(CgroupError::group("making cgroup", &dir)(error)),
                _ => {}
            }
        }
    }
    Ok(())
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    if let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) {
        pids.extend(procs.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        collect(&entry.path(), pids);
    }
}

fn remove_below(dir: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(CgroupError::group("listing cgroup", dir)(error)),
    };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
        remove_below(&entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CgroupError::group("removing cgroup", dir)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn trees_are_read_from_the_mount_table() {
        let hybrid = Trees::from_mountinfo(HYBRID);
        assert!(!hybrid.is_unified());
        assert_eq!(hybrid.v1_of("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(hybrid.v1_of("name=systemd"), Some(Path::new("/sys/fs/cgroup/systemd")));
        assert_eq!(hybrid.v1_of("pids"), None);
        let unified = Trees::from_mountinfo("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert!(unified.is_unified());
        assert!(!Trees::from_mountinfo("").is_unified());
    }

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_milli: Some(1500),
            memory_bytes: Some(64 << 20),
            processes: Some(99),
            hugepages: vec![("2MB".to_owned(), 4 << 20)],
        };
        let has = |list: &[Setting], controller: &str, file: &str, value: &str| {
            list.iter()
                .any(|(c, f, v)| (*c, f.as_ref(), v.as_str()) == (controller, file, value))
        };
        let v1 = settings(&limits, false);
        assert!(has(&v1, "cpu", "cpu.cfs_quota_us", "150000"));
        assert!(has(&v1, "memory", "memory.limit_in_bytes", "67108864"));
        assert!(has(&v1, "hugetlb", "hugetlb.2MB.limit_in_bytes", "4194304"));
        let v2 = settings(&limits, true);
        assert!(has(&v2, "cpu", "cpu.weight", "39"));
        assert!(has(&v2, "cpu", "cpu.max", "150000 100000"));
        assert!(has(&v2, "hugetlb", "hugetlb.2MB.max", "4194304"));
        assert!([&v1, &v2].iter().all(|list| has(list, "pids", "pids.max", "99")));
        assert!(settings(&Limits::default(), true).is_empty());
        // A limit below the kernel's least quota of one millisecond.
        let tiny = Limits {
            cpu_milli: Some(1),
            ..Limits::default()
        };
        assert!(has(&settings(&tiny, true), "cpu", "cpu.max", "1000 100000"));
    }

    #[test]
    fn a_path_cannot_replace_the_mount() {
        assert_eq!(
            below(Path::new("/sys/fs/cgroup"), Path::new("/a/b")),
            Path::new("/sys/fs/cgroup/a/b")
        );
    }
}
