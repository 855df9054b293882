//! Getting processes into groups without making the whole host wait.
//!
//! Writing a process id to `cgroup.procs` takes a lock that every fork of the
//! host reads, and waits for all of them: eight milliseconds here, twice per
//! container with libcontainer. There are two ways around: a process may be
//! born into a version 2 group, and a thread may move itself through a version
//! 1 `tasks` file. So containers are put into their groups here, and what
//! libcontainer would do is kept from it: in the shim's mount namespace the
//! trees are elsewhere, and `/sys/fs/cgroup` is empty.
//!
//! Source: Linux `kernel/cgroup/cgroup.c`, `cgroup_procs_write_start`.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use super::{CgroupError, Trees, below, device, put, settings};
use crate::protocol::Limits;

/// Where hosts mount the trees, and where libcontainer looks for them.
const USUAL_PLACE: &str = "/sys/fs/cgroup";

/// Version 1 hierarchies containers get groups in.
const V1_ENTERED: [&str; 8] = ["memory", "cpu", "cpuacct", "pids", "hugetlb", "devices", "freezer", "name=systemd"];

/// In version 1's words, what [`device`] lets through. `m` is making a node.
const V1_DEVICES: [&str; 11] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

impl Trees {
    /// Moves the trees to `place` in this process's own mount namespace.
    pub(crate) fn hide(&mut self, place: &Path) -> io::Result<()> {
        match fs::create_dir(place) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("cgroups", place, "tmpfs", flags, c"mode=700,size=64k")?;
        let unified = self.is_unified();
        let mounts = self.v2.iter_mut().chain(self.v1.iter_mut().map(|(_, mount)| mount));
        for (n, mount) in mounts.enumerate() {
            let to = place.join(n.to_string());
            fs::create_dir(&to)?;
            rustix::mount::mount_move(&*mount, &to)?;
            self.moved.push((mount.clone(), to.clone()));
            *mount = to;
        }
        if !unified {
            match rustix::mount::unmount(USUAL_PLACE, UnmountFlags::DETACH) {
                // This host mounts its hierarchies one by one, elsewhere.
                Ok(()) | Err(rustix::io::Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        rustix::mount::mount("cgroups", USUAL_PLACE, "tmpfs", flags | MountFlags::RDONLY, c"mode=755,size=64k")?;
        Ok(())
    }

    /// Where a path in a tree is now, if it has moved.
    pub(crate) fn moved_to(&self, path: &Path) -> Option<PathBuf> {
        self.moved
            .iter()
            .find_map(|(from, to)| path.strip_prefix(from).ok().map(|rest| to.join(rest)))
    }

    /// A version 2 group for processes to be born into; it is made if need be.
    pub(crate) fn birthplace(&self, path: &Path) -> Result<Option<File>, CgroupError> {
        let Some(v2) = &self.v2 else { return Ok(None) };
        let dir = below(v2, path);
        fs::create_dir_all(&dir).map_err(CgroupError::group("making cgroup", &dir))?;
        File::open(&dir).map(Some).map_err(CgroupError::group("opening cgroup", &dir))
    }

    /// Makes a container's groups, sets its limits, and moves the calling
    /// single-threaded process in, except where it was born.
    pub(crate) fn settle_in(&self, path: &Path, limits: &Limits, all_devices: bool) -> Result<(), CgroupError> {
        for mount in V1_ENTERED.iter().filter_map(|name| self.v1_of(name)) {
            let dir = below(mount, path);
            fs::create_dir_all(&dir).map_err(CgroupError::group("making cgroup", &dir))?;
        }
        self.limit(path, &settings(limits, self.is_unified()))?;
        if !all_devices {
            self.restrict_devices(path)?;
        }
        if let Some(v2) = self.v2.as_deref().filter(|_| self.is_unified()) {
            // Kill all of a container, not one process of it, when memory runs
            // out. Absent before Linux 4.19; it then runs without.
            // Source: kubelet, `singleProcessOOMKill`.
            let _ = put(&below(v2, path).join("memory.oom.group"), "1");
        }
        self.enter_v1(path)
    }

    fn restrict_devices(&self, path: &Path) -> Result<(), CgroupError> {
        if let Some(v2) = self.v2.as_deref().filter(|_| self.is_unified()) {
            let dir = below(v2, path);
            return device::restrict(&dir).map_err(CgroupError::group("restricting devices of", &dir));
        }
        let Some(mount) = self.v1_of("devices") else { return Ok(()) };
        let (deny, allow) = (below(mount, path).join("devices.deny"), below(mount, path).join("devices.allow"));
        put(&deny, "a").map_err(CgroupError::group("restricting devices in", &deny))?;
        for rule in V1_DEVICES {
            put(&allow, rule).map_err(CgroupError::group("allowing a device in", &allow))?;
        }
        Ok(())
    }

    /// Moves the calling single-threaded process into the version 1 groups
    /// that exist at `path`.
    pub(crate) fn enter_v1(&self, path: &Path) -> Result<(), CgroupError> {
        for mount in V1_ENTERED.iter().filter_map(|name| self.v1_of(name)) {
            let tasks = below(mount, path).join("tasks");
            match put(&tasks, "0") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(CgroupError::group("entering", &tasks)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes and enters the `name=systemd` group, so that a service manager
    /// does not take this process for one of the agent's.
    pub(crate) fn leave_service(&self, path: &Path) -> Result<(), CgroupError> {
        let Some(mount) = self.v1_of("name=systemd") else { return Ok(()) };
        let dir = below(mount, path);
        fs::create_dir_all(&dir).map_err(CgroupError::group("making cgroup", &dir))?;
        let tasks = dir.join("tasks");
        put(&tasks, "0").map_err(CgroupError::group("entering", &tasks))
    }
}
