//! Commands under the AppArmor profile of their container.
//!
//! A container's first process is put under it by what makes containers; who
//! enters one later asks the kernel by itself. The kernel makes the change when
//! the process becomes its program.
//!
//! Source: Linux `security/apparmor/lsm.c`, `do_setattr`; runc,
//! `libcontainer/apparmor`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// Attributes of the calling thread. Where several security modules share the
/// kernel (Linux 5.8 and later), the first is AppArmor's own.
const ATTRIBUTES: &str = "/proc/thread-self/attr";
const FILES: [&str; 2] = ["apparmor/exec", "exec"];

/// Asks that the program the calling thread becomes next be under `profile`.
///
/// # Errors
/// The kernel's reason; a `/proc` that is not the kernel's.
pub(crate) fn on_exec(profile: &str) -> io::Result<()> {
    ask(Path::new(ATTRIBUTES), profile, is_the_kernels)
}

/// A container may have mounted something else at `/proc`.
fn is_the_kernels(file: &File) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn ask(attributes: &Path, profile: &str, genuine: impl Fn(&File) -> io::Result<bool>) -> io::Result<()> {
    let open = |name: &str| OpenOptions::new().write(true).open(attributes.join(name));
    let [own, shared] = FILES;
    let mut file = match open(own) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(shared)?,
        opened => opened?,
    };
    if !genuine(&file)? {
        return Err(io::Error::other(format!("{} is not the kernel's", attributes.display())));
    }
    // One write: the kernel takes each as a request of its own.
    let request = format!("exec {profile}");
    match file.write(request.as_bytes())? {
        written if written == request.len() => Ok(()),
        written => Err(io::Error::other(format!("the kernel took {written} bytes of {request:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_at_its_own_place() {
        let dir = std::env::temp_dir().join(format!("lifepod-attr-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("apparmor")).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
        std::fs::write(dir.join("exec"), "").unwrap();
        ask(&dir, "own", |_| Ok(true)).unwrap();
        assert_eq!(read("exec"), "exec own");
        std::fs::write(dir.join("apparmor/exec"), "").unwrap();
        ask(&dir, "a profile", |_| Ok(true)).unwrap();
        assert_eq!((read("apparmor/exec"), read("exec")), ("exec a profile".into(), "exec own".into()));
        let refused = ask(&dir, "own", is_the_kernels).unwrap_err();
        assert!(refused.to_string().ends_with("is not the kernel's"), "{refused}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn proc_is_the_kernels() {
        assert!(is_the_kernels(&File::open("/proc/self/status").unwrap()).unwrap());
    }
}
