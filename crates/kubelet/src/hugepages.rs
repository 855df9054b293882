//! The sizes of huge pages this machine has, under their several names.

use std::fs;
use std::path::Path;

/// Where the kernel tells of them.
pub const KERNEL_DIR: &str = "/sys/kernel/mm/hugepages";

/// Pages of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HugePages {
    /// Size of one, in KiB.
    pub size_kib: u64,
    /// How many there are.
    pub count: u64,
}

impl HugePages {
    /// Every size the kernel offers, from `dir`, usually [`KERNEL_DIR`];
    /// smallest first.
    #[must_use]
    pub fn read(dir: &Path) -> Vec<Self> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut sizes: Vec<Self> = entries
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let size_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let count = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
                Some(Self {
                    size_kib,
                    count: count.trim().parse().ok()?,
                })
            })
            .collect();
        sizes.sort_unstable();
        sizes
    }

    /// All of them together.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.size_kib.saturating_mul(1024).saturating_mul(self.count)
    }

    fn in_units(self, units: [&str; 3]) -> String {
        match self.size_kib {
            kib if kib.is_multiple_of(1 << 20) => format!("{}{}", kib >> 20, units[2]),
            kib if kib.is_multiple_of(1 << 10) => format!("{}{}", kib >> 10, units[1]),
            kib => format!("{kib}{}", units[0]),
        }
    }

    /// As a resource: `hugepages-2Mi`.
    #[must_use]
    pub fn resource(self) -> String {
        format!("hugepages-{}", self.in_units(["Ki", "Mi", "Gi"]))
    }

    /// As files of control groups name the size: `2MB`.
    ///
    /// Source: Linux `mm/hugetlb_cgroup.c`, `mem_fmt`.
    #[must_use]
    pub fn kernel_name(self) -> String {
        self.in_units(["KB", "MB", "GB"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_named() {
        let dir = tempfile::tempdir().unwrap();
        for (name, count) in [("hugepages-1048576kB", "1\n"), ("hugepages-2048kB", "3\n"), ("other", "9\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), count).unwrap();
        }
        let read = HugePages::read(dir.path());
        let named: Vec<_> = read
            .iter()
            .map(|pages| (pages.resource(), pages.kernel_name(), pages.bytes()))
            .collect();
        assert_eq!(
            named,
            [
                ("hugepages-2Mi".to_owned(), "2MB".to_owned(), 6 << 20),
                ("hugepages-1Gi".to_owned(), "1GB".to_owned(), 1 << 30),
            ]
        );
        let small = HugePages { size_kib: 64, count: 0 };
        assert_eq!(
            (small.resource(), small.kernel_name()),
            ("hugepages-64Ki".to_owned(), "64KB".to_owned())
        );
        assert_eq!(HugePages::read(Path::new("/nowhere")), []);
    }
}
