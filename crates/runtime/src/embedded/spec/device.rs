//! The node's device files, for privileged containers.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};
use serde_json::{Value, json};

/// Directories of `/dev` that are a container's own or the kernel's.
/// Source: containerd, `HostDevices`.
const LEFT_OUT: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Made otherwise in every container: none is the node's.
const OWN: [&str; 2] = ["console", "ptmx"];
/// A directory of devices is not deep.
const DEPTH_MAX: u32 = 4;

/// OCI `linux.devices` of everything in `/dev` but consoles and the way to new
/// terminals. Blocks.
pub(in crate::embedded) fn all() -> Vec<Value> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), DEPTH_MAX, &mut devices);
    devices
}

fn collect(dir: &Path, depth: u32, into: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        // Not following links: a link to a device is not a device.
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let kind = meta.file_type();
        if kind.is_dir() && depth > 0 && !LEFT_OUT.iter().any(|left_out| name == *left_out) {
            collect(&path, depth - 1, into);
        } else if (kind.is_char_device() || kind.is_block_device()) && !OWN.iter().any(|own| name == *own) {
            into.push(json!({
                "path": path,
                "type": if kind.is_block_device() { "b" } else { "c" },
                "major": major(meta.rdev()),
                "minor": minor(meta.rdev()),
                "fileMode": meta.mode() & 0o7777,
                "uid": meta.uid(),
                "gid": meta.gid(),
            }));
        }
    }
}
