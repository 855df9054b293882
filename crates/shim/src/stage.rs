//! Volumes made ready to be mounted: one place per mount, which nobody else
//! can change, in the shim's own mount namespace.
//!
//! A path inside a volume is the container's to change at any moment, also by
//! a link to somewhere else. So it is opened once, with the kernel's word that
//! nothing on the way leads out of the volume, and what was opened is mounted
//! at a place of ours; the container is then given that place. A volume itself
//! is staged too, because there its propagation is set, which the bind mounts
//! of libcontainer take over and do not change.
//!
//! Source: upstream `pkg/volume/util/subpath`; Linux `openat2(2)`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{MountPropagationFlags, MoveMountFlags};
use rustix::thread::LinkNameSpaceType;

use crate::mapped::{self, Mapped};
use crate::protocol::{Refusal, Staged};
use crate::user_namespace::UserNamespace;
use crate::{rootfs, sandbox};

/// In the attempt's directory: one place per mount, named by its index.
pub const STAGE_DIR: &str = "mounts";

/// Where the mount of this index is staged.
#[must_use]
pub fn place(attempt_dir: &Path, index: usize) -> PathBuf {
    attempt_dir.join(STAGE_DIR).join(index.to_string())
}

const INSIDE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Where the mounts staged in a directory are.
pub(crate) fn in_place(dir: &Path) -> PathBuf {
    dir.join(STAGE_DIR)
}

/// Stages all mounts of an attempt, with owners `mapped` where its pod has users
/// of its own. The calling process has a mount namespace that nobody looks into.
pub(crate) fn stage(list: &[Staged], dir: &Path, mapped: Option<&Mapped<'_>>) -> Result<(), (Refusal, String)> {
    if list.is_empty() {
        return Ok(());
    }
    let at = in_place(dir);
    mapped::make_dir(&at).map_err(|error| (Refusal::System, format!("making directory {}: {error}", at.display())))?;
    for (index, staged) in list.iter().enumerate() {
        if staged.shared {
            if mapped.is_some() {
                let what = &staged.what;
                let why = "the node does not see mounts of a pod with users of its own (hostUsers: false)";
                return Err((
                    Refusal::Config,
                    format!("{what}: Bidirectional mount propagation is not possible: {why}"),
                ));
            }
            share(staged, &place(dir, index))?;
            continue;
        }
        let staged = &of_image(staged, &place(dir, index), mapped)?;
        let opened = open(staged)?;
        // An image's own mount has mapped layers.
        let users = mapped.filter(|_| staged.layers.is_none()).map(Mapped::users);
        attach(&opened, &place(dir, index), staged.slave, users).map_err(|error| {
            (
                Refusal::System,
                format!("mounting {} for {}: {error}", staged.source.display(), staged.what),
            )
        })?;
    }
    Ok(())
}

/// Opens what is to be mounted of a volume.
fn open(staged: &Staged) -> Result<OwnedFd, (Refusal, String)> {
    let opened = match &staged.sub_path {
        None => open_volume(&staged.source).map_err(|error| {
            let message = format!("opening {} for {}: {error}", staged.source.display(), staged.what);
            (Refusal::Start, message)
        })?,
        Some(path) => open_inside(staged, path)?,
    };
    if lies_in(&opened, staged.outside.as_deref()).unwrap_or(true) {
        return Err((Refusal::Config, leads_in(staged)));
    }
    Ok(opened)
}

/// Stages a volume that shares its mounts with the node: a copy of the node's own
/// mount, and not of the shim's, which only follows it.
fn share(staged: &Staged, place: &Path) -> Result<(), (Refusal, String)> {
    let failed = |doing: &'static str| {
        let (source, what) = (staged.source.display().to_string(), staged.what.clone());
        move |error: io::Error| (Refusal::System, format!("{doing} {source} for {what}: {error}"))
    };
    let node = sandbox::node_mounts().ok_or_else(|| io::Error::other("the node's mounts are not known"));
    let node = node.map_err(failed("sharing"))?;
    let own = File::open("/proc/self/ns/mnt").map_err(failed("sharing"))?;
    let enter = |namespace| rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount)).map_err(io::Error::from);
    enter(node).map_err(failed("entering the node's mounts to share"))?;
    let copied = open(staged).and_then(|opened| {
        let about = || fs::read_to_string(format!("/proc/self/fdinfo/{}", opened.as_raw_fd()));
        let table = || fs::read_to_string("/proc/self/mountinfo");
        let (about, table) = about()
            .and_then(|about| Ok((about, table()?)))
            .map_err(failed("reading the mounts of"))?;
        if let Some(at) = not_shared(&about, &table) {
            let path = staged.source.display();
            return Err((
                Refusal::Start,
                format!("path \"{path}\" is mounted on {at:?} but it is not a shared mount"),
            ));
        }
        let is_dir = is_directory(&opened).map_err(failed("looking at"))?;
        let tree = mapped::clone_tree(&opened, true).map_err(io::Error::from);
        Ok((tree.map_err(failed("copying the mount of"))?, is_dir))
    });
    // Whatever came of it, the rest is done here; `/` is the directory again.
    enter(own.as_fd()).map_err(failed("coming back from sharing"))?;
    std::env::set_current_dir("/").map_err(failed("coming back from sharing"))?;
    let (tree, is_dir) = copied?;
    put(&tree, place, is_dir).map_err(failed("mounting"))
}

/// Where the mount is that something lies in, if that does not share its mounts.
/// `about` is a `/proc/self/fdinfo` of it, `table` the `mountinfo`.
///
/// Source: containerd `container_create_linux.go`, `ensureShared`; proc(5).
fn not_shared(about: &str, table: &str) -> Option<String> {
    let id = about.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let own = fields.into_iter().find(|fields| fields.first() == Some(&id))?;
    let mut optional = own.iter().skip(6).take_while(|field| **field != "-");
    (!optional.any(|field| field.starts_with("shared:"))).then(|| own.get(4).copied().unwrap_or_default().to_owned())
}

/// Mounts the files of an image beside the place of its mount; from there they
/// are staged like any other volume.
fn of_image(staged: &Staged, place: &Path, mapped: Option<&Mapped<'_>>) -> Result<Staged, (Refusal, String)> {
    let Some(layers) = &staged.layers else { return Ok(staged.clone()) };
    let failed = |error: io::Error| (Refusal::System, format!("mounting the image of {}: {error}", staged.what));
    let (source, empty) = (place.with_extension("image"), place.with_extension("empty"));
    for made in [&source, &empty] {
        match fs::create_dir(made) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    let layers = match (mapped, place.file_name()) {
        (Some(mapped), Some(name)) => &mapped.layers(layers, &format!("image{}", name.display())).map_err(failed)?,
        _ => layers,
    };
    rootfs::mount_read_only(layers, &empty, &source).map_err(failed)?;
    Ok(Staged { source, ..staged.clone() })
}

/// Takes the staged mounts away; the container has its own.
pub(crate) fn clear(dir: &Path) {
    let at = dir.join(STAGE_DIR);
    for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
        // Out of what it shares with the node first: what is mounted in it there
        // would go too.
        let _ = rustix::mount::mount_change(entry.path(), MountPropagationFlags::PRIVATE | MountPropagationFlags::REC);
        let _ = rootfs::unmount(&entry.path());
    }
    // Nothing is left mounted in it: had it been, it could not be removed.
    for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
    }
    let _ = fs::remove_dir(&at);
}

fn open_volume(source: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Whether what is open lies in a directory. It stays what it is, so nobody can
/// exchange it after this.
fn lies_in(opened: &OwnedFd, outside: Option<&Path>) -> io::Result<bool> {
    let Some(outside) = outside else { return Ok(false) };
    Ok(fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))?.starts_with(outside))
}

fn leads_in(staged: &Staged) -> String {
    let outside = staged.outside.as_deref().unwrap_or(Path::new("/")).display();
    format!(
        "{} leads into Lifepod's own directory {outside}, which no pod may mount",
        staged.what
    )
}

/// Opens a path in a volume; directories that are missing are made like the
/// volume itself. What exactly failed would tell of the node's files: it goes
/// to the log only.
fn open_inside(staged: &Staged, path: &Path) -> Result<OwnedFd, (Refusal, String)> {
    let what = &staged.what;
    let refuse = |doing: &'static str| {
        move |error: io::Error| {
            eprintln!("{doing} {what}: {error}");
            (Refusal::Config, format!("failed to {doing} for {what}"))
        }
    };
    let volume = open_volume(&staged.source).map_err(refuse("prepare subPath"))?;
    let is_image = staged.layers.is_some();
    match rustix::fs::openat2(&volume, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
        Ok(opened) => return Ok(opened),
        Err(rustix::io::Errno::NOENT) if !is_image => {}
        Err(error) => return Err(refuse("prepare subPath")(error.into())),
    }
    make_inside(&volume, path, staged.outside.as_deref()).map_err(refuse("create subPath directory"))
}

fn make_inside(volume: &OwnedFd, path: &Path, outside: Option<&Path>) -> io::Result<OwnedFd> {
    let like = Mode::from_raw_mode(rustix::fs::fstat(volume)?.st_mode & 0o7777);
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut reached = PathBuf::new();
    let mut parent = rustix::fs::openat2(volume, ".", directory, Mode::empty(), INSIDE)?;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        reached.push(name);
        if lies_in(&parent, outside)? {
            return Err(io::Error::other("it leads into the platform's own directory"));
        }
        let made = match rustix::fs::mkdirat(&parent, name, like) {
            Ok(()) => true,
            Err(rustix::io::Errno::EXIST) => false,
            Err(error) => return Err(error.into()),
        };
        // From the volume again, so that a link inside it may be followed but
        // never leads out.
        parent = rustix::fs::openat2(volume, &reached, directory, Mode::empty(), INSIDE)?;
        if made {
            let own = format!("/proc/self/fd/{}", parent.as_raw_fd());
            fs::set_permissions(own, fs::Permissions::from_mode(like.as_raw_mode()))?;
        }
    }
    Ok(parent)
}

/// Mounts what was opened at `place`.
fn attach(opened: &OwnedFd, place: &Path, slave: bool, users: Option<&UserNamespace>) -> io::Result<()> {
    let tree = mapped::clone_tree(opened, true)?;
    if let Some(users) = users {
        mapped::map_owners(&tree, users.as_fd(), true)?;
    }
    put(&tree, place, is_directory(opened)?)?;
    let propagation = if slave {
        MountPropagationFlags::DOWNSTREAM
    } else {
        MountPropagationFlags::PRIVATE
    };
    rustix::mount::mount_change(place, propagation | MountPropagationFlags::REC)?;
    Ok(())
}

fn is_directory(opened: &OwnedFd) -> io::Result<bool> {
    let about = rustix::fs::fstat(opened)?;
    Ok(rustix::fs::FileType::from_raw_mode(about.st_mode).is_dir())
}

fn put(tree: &OwnedFd, place: &Path, is_dir: bool) -> io::Result<()> {
    let made = if is_dir {
        fs::create_dir(place)
    } else {
        File::create_new(place).map(drop)
    };
    match made {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(rustix::mount::move_mount(
        tree.as_fd(),
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn named(opened: &OwnedFd) -> PathBuf {
        fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap()
    }

    fn staged(volume: &Path) -> Staged {
        Staged {
            source: volume.to_path_buf(),
            layers: None,
            outside: None,
            sub_path: None,
            slave: false,
            shared: false,
            what: "volumeMount \"v\" of container \"c\"".to_owned(),
        }
    }

    /// The swapper's link is there in one moment and a directory in the next.
    /// Escape: a subPath whose directory is exchanged for a link to the host in a tight loop | opened inside the volume, or `failed to prepare subPath`; never outside
    #[test]
    fn a_link_swapped_in_meanwhile_leads_nowhere() {
        use std::os::unix::fs::MetadataExt;
        use std::sync::atomic::{AtomicBool, Ordering};
        const ATTEMPTS_MIN: u32 = 2_000;
        const ATTEMPTS_MAX: u32 = 2_000_000;
        let dir = tempfile::tempdir().unwrap();
        let (volume, host) = (dir.path().canonicalize().unwrap().join("v"), dir.path().join("host"));
        fs::create_dir_all(volume.join("x")).unwrap();
        fs::create_dir(&host).unwrap();
        symlink(&host, volume.join("y")).unwrap();
        let inside = fs::metadata(volume.join("x")).unwrap().ino();
        let done = AtomicBool::new(false);
        let (mut opened, mut refused, mut made) = (0_u32, 0_u32, 0_u32);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let handle = rustix::fs::open(&volume, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
                while !done.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(&handle, "x", &handle, "y", rustix::fs::RenameFlags::EXCHANGE).unwrap();
                }
            });
            for attempt in 1..=ATTEMPTS_MAX {
                match open_inside(&staged(&volume), Path::new("x")) {
                    Ok(found) => {
                        assert_eq!(rustix::fs::fstat(&found).unwrap().st_ino, inside);
                        opened += 1;
                    }
                    Err(_) => refused += 1,
                }
                made += u32::from(open_inside(&staged(&volume), Path::new("x/made/deep")).is_ok());
                if attempt >= ATTEMPTS_MIN && opened > 0 && refused > 0 && made > 0 {
                    break;
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        assert!(opened > 0 && refused > 0 && made > 0, "the race was run: {opened} {refused} {made}");
        assert_eq!(fs::read_dir(&host).unwrap().count(), 0, "nothing was made outside");
    }

    #[test]
    fn no_path_of_a_volume_leads_into_what_it_must_be_outside_of() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap();
        let own = volume.join("lib/own");
        fs::create_dir_all(own.join("keys")).unwrap();
        let staged = Staged {
            outside: Some(own.clone()),
            ..staged(&volume)
        };
        symlink("lib/own", volume.join("door")).unwrap();
        for path in ["lib/own", "lib/own/keys", "door/keys"] {
            let opened = open_inside(&staged, Path::new(path)).unwrap();
            assert!(lies_in(&opened, Some(&own)).unwrap(), "{path}");
        }
        assert!(open_inside(&staged, Path::new("door/made")).is_err());
        assert!(!own.join("made").exists(), "nothing is made before it is refused");
        assert!(!lies_in(&open_inside(&staged, Path::new("lib")).unwrap(), Some(&own)).unwrap());
    }

    #[test]
    fn a_mount_that_is_not_shared_is_told_with_its_place() {
        let table =
            "21 1 0:1 / / rw - ext4 d rw\n22 21 0:1 /v /v rw shared:7 master:1 - ext4 d rw\n23 21 0:1 /w /w rw master:1 - ext4 d rw\n";
        assert_eq!(not_shared("pos:\t0\nmnt_id:\t22\n", table), None);
        assert_eq!(not_shared("mnt_id:\t23\n", table).as_deref(), Some("/w"));
        assert_eq!(not_shared("mnt_id:\t21\n", table).as_deref(), Some("/"));
    }

    #[test]
    fn no_link_leads_out_of_a_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("v");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(dir.path().join("secret"), "").unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("/etc", volume.join("absolute")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("/proc/self/root", volume.join("magic")).unwrap();
        for path in ["up", "absolute", "absolute/passwd", "magic", "magic/etc", "real/../../secret"] {
            let (kind, message) = open_inside(&staged(&volume), Path::new(path)).unwrap_err();
            assert_eq!(kind, Refusal::Config, "{path}");
            assert_eq!(
                message, "failed to prepare subPath for volumeMount \"v\" of container \"c\"",
                "{path}"
            );
        }
        let inside = open_inside(&staged(&volume), Path::new("inside")).unwrap();
        assert_eq!(named(&inside), volume.join("real"));
    }

    #[test]
    fn what_is_missing_is_made_inside_and_like_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().canonicalize().unwrap().join("v");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).unwrap();
        let made = open_inside(&staged(&volume), Path::new("a/b")).unwrap();
        assert_eq!(named(&made), volume.join("a/b"));
        assert_eq!(fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o7777, 0o2775);
        symlink("/tmp", volume.join("out")).unwrap();
        let (_, message) = open_inside(&staged(&volume), Path::new("out/made")).unwrap_err();
        assert_eq!(message, "failed to prepare subPath for volumeMount \"v\" of container \"c\"");
        assert!(!Path::new("/tmp/made").exists());
        symlink("/nowhere/at/all", volume.join("dangling")).unwrap();
        assert!(open_inside(&staged(&volume), Path::new("dangling/x")).is_err());
    }
}
