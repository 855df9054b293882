//! Which layers containers are made of.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::PathBuf;

/// Layer directories of mounted overlays: a removal must leave them alone.
/// Containers are mounted in their shims' mount namespaces, so every process'
/// namespace is looked at, each once.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn layers_in_use() -> io::Result<HashSet<PathBuf>> {
    let mut namespaces = HashSet::new();
    let mut used = HashSet::new();
    for process in fs::read_dir("/proc")?.flatten() {
        // Not a process, or one that has just ended.
        let Ok(namespace) = fs::read_link(process.path().join("ns/mnt")) else {
            continue;
        };
        if namespaces.insert(namespace)
            && let Ok(mounts) = fs::read_to_string(process.path().join("mounts"))
        {
            used.extend(overlay_layers(&mounts));
        }
    }
    Ok(used)
}

/// The lower directories of the overlays in a mount table.
fn overlay_layers(mounts: &str) -> HashSet<PathBuf> {
    let mut used = HashSet::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (Some("overlay"), Some(options)) = (fields.nth(2), fields.next()) else {
            continue;
        };
        for option in options.split(',') {
            let Some(layers) = option.strip_prefix("lowerdir=").or_else(|| option.strip_prefix("lowerdir+=")) else {
                continue;
            };
            used.extend(layers.split(':').map(PathBuf::from));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_layers_are_found() {
        let mounts = "overlay /a/merged overlay rw,relatime,lowerdir=/l/2:/l/1,upperdir=/u,workdir=/w 0 0\n\
                      overlay /b/merged overlay rw,lowerdir+=/l/3,lowerdir+=/l/1,upperdir=/u 0 0\nproc /proc proc rw 0 0\n";
        let expected: HashSet<PathBuf> = ["/l/1", "/l/2", "/l/3"].map(PathBuf::from).into();
        assert_eq!(overlay_layers(mounts), expected);
    }
}
