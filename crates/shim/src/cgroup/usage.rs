//! What a group may use, and where the kernel counts what it does.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Trees, below};

/// Version 1 says "no limit" with a number of about this size.
const UNLIMITED: u64 = 1 << 62;

impl Trees {
    /// The least memory limit of a group and of those around it.
    #[must_use]
    pub fn memory_limit_bytes(&self, path: &Path) -> Option<u64> {
        let v1 = self.v1_of("memory").is_some();
        let file = if v1 { "memory.limit_in_bytes" } else { "memory.max" };
        let limits = path
            .ancestors()
            .filter_map(|group| number(&self.dir_of("memory", group)?.join(file)));
        limits.filter(|limit| *limit < UNLIMITED).min()
    }

    /// Where a controller counts what a group uses. A controller that is in no
    /// version 1 tree is in that of version 2, if there is one.
    #[must_use]
    pub fn dir_of(&self, controller: &str, path: &Path) -> Option<PathBuf> {
        let mount = self.v1_of(controller).or_else(|| self.v2_root())?;
        Some(below(mount, path))
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
    fn the_least_limit_counts_and_no_limit_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let at = dir.path().display();
        write("m/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("m/a/memory.limit_in_bytes", "5000\n");
        let v1 = Trees::from_mountinfo(&format!("1 1 0:1 / {at}/m rw - cgroup cgroup rw,memory\n"));
        let group = Path::new("/a/b");
        assert_eq!(v1.memory_limit_bytes(group), Some(5000));
        write("u/a/b/memory.max", "max\n");
        let v2 = Trees::from_mountinfo(&format!("1 1 0:1 / {at}/u rw - cgroup2 cgroup2 rw\n"));
        assert_eq!(v2.memory_limit_bytes(group), None);
        write("u/a/memory.max", "700\n");
        assert_eq!(v2.memory_limit_bytes(group), Some(700));
    }
}
