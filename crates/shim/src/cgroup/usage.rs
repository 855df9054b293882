//! What a group uses, as the kernel counts it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Trees, below};

/// Version 1 says "no limit" with a number of about this size.
const UNLIMITED: u64 = 1 << 62;

impl Trees {
    /// Memory of a group that cannot be taken back at once: all but what is
    /// cached of files nobody has touched lately. `None` when there is no such group.
    ///
    /// Source: upstream cAdvisor, `setMemoryStats`, "working set".
    #[must_use]
    pub fn working_set_bytes(&self, path: &Path) -> Option<u64> {
        let dir = self.dir_of("memory", path)?;
        let (used, inactive) = if self.is_unified() {
            ("memory.current", "inactive_file ")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file ")
        };
        let used = number(&dir.join(used))?;
        let stat = fs::read_to_string(dir.join("memory.stat")).ok()?;
        let inactive = stat
            .lines()
            .find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
        Some(used.saturating_sub(inactive.unwrap_or(0)))
    }

    /// The least memory limit of a group and of those around it.
    #[must_use]
    pub fn memory_limit_bytes(&self, path: &Path) -> Option<u64> {
        let file = if self.is_unified() { "memory.max" } else { "memory.limit_in_bytes" };
        let limits = path
            .ancestors()
            .filter_map(|group| number(&self.dir_of("memory", group)?.join(file)));
        limits.filter(|limit| *limit < UNLIMITED).min()
    }

    /// Processes and threads in a group and the groups inside it.
    #[must_use]
    pub fn tasks(&self, path: &Path) -> Option<u64> {
        number(&self.dir_of("pids", path)?.join("pids.current"))
    }

    fn dir_of(&self, controller: &str, path: &Path) -> Option<PathBuf> {
        let mount = if self.is_unified() {
            self.v2.as_deref()
        } else {
            self.v1_of(controller)
        };
        mount.map(|mount| below(mount, path))
    }
}

/// A file that holds one number; `max` is none.
fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_as_each_version_tells_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let at = dir.path().display();
        write("m/a/b/memory.usage_in_bytes", "1000\n");
        write("m/a/b/memory.stat", "inactive_file 1\ntotal_inactive_file 400\n");
        write("m/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("m/a/memory.limit_in_bytes", "5000\n");
        write("p/a/b/pids.current", "7\n");
        let v1 = Trees::from_mountinfo(&format!(
            "1 1 0:1 / {at}/m rw - cgroup cgroup rw,memory\n2 1 0:2 / {at}/p rw - cgroup cgroup rw,pids\n"
        ));
        let group = Path::new("/a/b");
        assert_eq!(
            (v1.working_set_bytes(group), v1.memory_limit_bytes(group), v1.tasks(group)),
            (Some(600), Some(5000), Some(7))
        );
        write("u/a/b/memory.current", "1000\n");
        write("u/a/b/memory.stat", "anon 5\ninactive_file 300\n");
        write("u/a/b/memory.max", "max\n");
        let v2 = Trees::from_mountinfo(&format!("1 1 0:1 / {at}/u rw - cgroup2 cgroup2 rw\n"));
        assert_eq!(
            (v2.working_set_bytes(group), v2.memory_limit_bytes(group), v2.tasks(group)),
            (Some(700), None, None)
        );
    }
}
