use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::super::testing::{Tar, tree};
use super::*;

fn unpack_into(root: &Path, archive: &[u8], below: &[PathBuf]) -> Result<u64, UnpackError> {
    unpack(&mut Archive::new(archive, 10_000), root, below)
}

/// A directory with a file beside the layer, that no layer may touch.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn outside(&self) -> String {
        self.dir.path().join("outside").display().to_string()
    }

    fn unpack(&self, tar: Tar) -> Result<u64, UnpackError> {
        unpack_into(&self.layer(), &tar.finish(), &[])
    }

    fn assert_outside_untouched(&self) {
        assert_eq!(tree(&self.dir.path().join("outside")), ["secret"]);
        assert_eq!(fs::read_to_string(self.dir.path().join("outside/secret")).unwrap(), "untouched");
        assert_eq!(fs::metadata(self.dir.path().join("outside/secret")).unwrap().nlink(), 1);
    }
}

#[test]
fn files_directories_and_links_are_made_as_listed() {
    let scene = Scene::new();
    let bytes = scene
        .unpack(
            Tar::new()
                .directory("./", 0o755)
                .directory("bin/", 0o751)
                .file("bin/tool", "#!/bin/sh\n")
                .hard_link("bin/again", "bin/tool")
                .symlink("bin/sh", "/bin/tool")
                .file("implied/by/path", "x"),
        )
        .unwrap();
    assert_eq!(bytes, 11);
    let at = |path: &str| scene.layer().join(path);
    assert_eq!(
        tree(&scene.layer()),
        ["bin", "bin/again", "bin/sh", "bin/tool", "implied", "implied/by", "implied/by/path"]
    );
    assert_eq!(fs::metadata(at("bin")).unwrap().permissions().mode() & 0o7777, 0o751);
    assert_eq!(fs::metadata(at("implied")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::metadata(at("bin")).unwrap().mtime(),
        1_600_000_000,
        "a directory's time survives its content"
    );
    assert_eq!(
        fs::metadata(at("bin/tool")).unwrap().ino(),
        fs::metadata(at("bin/again")).unwrap().ino()
    );
    assert_eq!(fs::read_link(at("bin/sh")).unwrap(), Path::new("/bin/tool"));
    assert_eq!(fs::symlink_metadata(at("bin/sh")).unwrap().mtime(), 1_600_000_000);
}

#[test]
fn later_entries_replace_earlier_ones() {
    let scene = Scene::new();
    scene
        .unpack(
            Tar::new()
                .file("a", "old")
                .file("a", "new")
                .directory("d", 0o755)
                .file("d/inner", "")
                .symlink("d", "a")
                .symlink("l", "/nowhere")
                .file("l", "a file now")
                .directory("kept", 0o700)
                .file("kept/file", "")
                .directory("kept", 0o750),
        )
        .unwrap();
    assert_eq!(fs::read_to_string(scene.layer().join("a")).unwrap(), "new");
    assert_eq!(fs::read_link(scene.layer().join("d")).unwrap(), Path::new("a"));
    assert_eq!(fs::read_to_string(scene.layer().join("l")).unwrap(), "a file now");
    assert!(scene.layer().join("kept/file").exists());
    assert_eq!(
        fs::metadata(scene.layer().join("kept")).unwrap().permissions().mode() & 0o777,
        0o750
    );
}

/// Escape: `..` in the paths of an image's layer | the pull fails: the entry leads out of the layer
#[test]
fn paths_that_leave_the_layer_are_refused() {
    for path in ["../outside/new", "a/../../outside/new", "..", "./../x"] {
        let scene = Scene::new();
        let error = scene.unpack(Tar::new().file(path, "gotcha")).unwrap_err();
        assert!(matches!(error, UnpackError::Escape { .. }), "{path}: {error}");
        scene.assert_outside_untouched();
    }
}

#[test]
fn absolute_paths_are_the_layers() {
    let scene = Scene::new();
    scene.unpack(Tar::new().file("/etc/passwd", "mine").file("a/../b", "")).unwrap();
    assert_eq!(fs::read_to_string(scene.layer().join("etc/passwd")).unwrap(), "mine");
    assert!(scene.layer().join("b").exists());
}

/// Escape: files written through absolute and climbing links of a layer | resolved in the layer; the host's files stay as they are
#[test]
fn symbolic_links_do_not_lead_out() {
    let scene = Scene::new();
    let outside = scene.outside();
    // Absolute links mean the layer's root, where that directory does not exist.
    let error = scene
        .unpack(Tar::new().symlink("door", &outside).file("door/new", "gotcha"))
        .unwrap_err();
    assert!(matches!(error, UnpackError::Write { .. }), "{error}");
    scene.assert_outside_untouched();
    // Relative ones stop at it.
    let scene = Scene::new();
    let _ = scene.unpack(
        Tar::new()
            .symlink("door", "../outside")
            .directory("outside", 0o755)
            .file("door/new", "inside"),
    );
    scene.assert_outside_untouched();
    assert_eq!(fs::read_to_string(scene.layer().join("outside/new")).unwrap(), "inside");
    // A link is replaced, not written through.
    let scene = Scene::new();
    scene
        .unpack(Tar::new().symlink("file", "../outside/secret").file("file", "gotcha"))
        .unwrap();
    scene.assert_outside_untouched();
    // A chain of them.
    let scene = Scene::new();
    let _ = scene.unpack(
        Tar::new()
            .symlink("one", "two/..")
            .symlink("two", "../..")
            .file("one/outside/new", "gotcha"),
    );
    scene.assert_outside_untouched();
}

/// Escape: hard links of a layer to files outside of it | the pull fails
#[test]
fn hard_links_do_not_lead_out() {
    let scene = Scene::new();
    let secret = format!("{}/secret", scene.outside());
    for target in ["../outside/secret", secret.as_str(), "door/secret"] {
        let scene_dir = Scene::new();
        let error = scene_dir
            .unpack(Tar::new().symlink("door", "../outside").hard_link("stolen", target))
            .unwrap_err();
        assert!(
            matches!(error, UnpackError::Escape { .. } | UnpackError::Malformed(_)),
            "{target}: {error}"
        );
        scene_dir.assert_outside_untouched();
    }
    scene.assert_outside_untouched();
}

#[test]
fn a_missing_hard_link_target_is_named() {
    let error = Scene::new().unpack(Tar::new().hard_link("new", "no/such")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "malformed archive: \"new\" is a hard link to \"no/such\", which the layer does not contain"
    );
}

#[test]
fn link_loops_end() {
    let scene = Scene::new();
    let error = scene
        .unpack(Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""))
        .unwrap_err();
    assert!(matches!(error, UnpackError::Write { .. }), "{error}");
}

#[test]
fn whiteouts_become_devices() {
    let scene = Scene::new();
    scene
        .unpack(
            Tar::new()
                .directory("etc", 0o755)
                .file("etc/.wh.passwd", "")
                .file(".wh.tmp", "")
                .file(".wh..wh.plnk", ""),
        )
        .unwrap();
    for path in ["etc/passwd", "tmp"] {
        let found = fs::symlink_metadata(scene.layer().join(path)).unwrap();
        assert!(found.file_type().is_char_device() && found.rdev() == 0, "{path}");
    }
    assert_eq!(tree(&scene.layer()), ["etc", "etc/passwd", "tmp"]);
}

#[test]
fn whiteouts_do_not_hide_what_the_layer_itself_has() {
    let scene = Scene::new();
    scene
        .unpack(Tar::new().file("a", "kept").file(".wh.a", "").file(".wh.b", "").file("b", "kept"))
        .unwrap();
    for path in ["a", "b"] {
        assert_eq!(fs::read_to_string(scene.layer().join(path)).unwrap(), "kept");
    }
}

/// Escape: whiteouts of a layer through links that lead out of it | resolved in the layer; the host's files stay as they are
#[test]
fn whiteouts_do_not_reach_through_links() {
    for door in ["../outside", "/../../outside"] {
        let scene = Scene::new();
        let _ = scene.unpack(
            Tar::new()
                .symlink("door", door)
                .file("door/.wh.secret", "")
                .file("door/.wh..wh..opq", ""),
        );
        scene.assert_outside_untouched();
        let scene = Scene::new();
        let outside = scene.outside();
        let _ = scene.unpack(Tar::new().symlink("door", &outside).file("door/.wh.secret", ""));
        scene.assert_outside_untouched();
    }
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for path in [".wh.", "d/.wh..", ".wh..."] {
        let error = Scene::new().unpack(Tar::new().directory("d", 0o755).file(path, "")).unwrap_err();
        assert!(error.to_string().contains("removes nothing that can be named"), "{path}: {error}");
    }
}

/// Escape: overlayfs' own attributes in a layer, as `redirect` | not taken over
#[test]
fn orders_to_overlayfs_are_not_taken_from_archives() {
    let scene = Scene::new();
    scene
        .unpack(
            Tar::new()
                .pax(&[
                    ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                    ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ])
                .file("f", ""),
        )
        .unwrap();
    assert_eq!(rustix::fs::llistxattr(scene.layer().join("f"), &mut [0_u8; 0][..]).unwrap(), 0);
}

#[test]
fn an_implied_directory_is_as_in_the_layer_below() {
    let scene = Scene::new();
    let below = scene.dir.path().join("below");
    fs::create_dir_all(below.join("var/private")).unwrap();
    fs::set_permissions(below.join("var/private"), fs::Permissions::from_mode(0o1730)).unwrap();
    let archive = Tar::new().file("var/private/new", "").finish();
    unpack_into(&scene.layer(), &archive, std::slice::from_ref(&below)).unwrap();
    let found = fs::metadata(scene.layer().join("var/private")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o1730);
    assert_eq!(found.mtime(), fs::metadata(below.join("var/private")).unwrap().mtime());
}

#[test]
fn root_owners_modes_and_capabilities_are_kept() {
    let scene = Scene::new();
    let mut header = Tar::header(tar::EntryType::Regular, 0o4755, 0);
    header.set_uid(1234);
    header.set_gid(5678);
    // cap_net_raw=ep, revision 2.
    let capability: &[u8] = &[1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Tar::new()
        .pax(&[("SCHILY.xattr.security.capability", capability)])
        .raw(header, "ping", "", b"");
    scene.unpack(archive).unwrap();
    let found = fs::metadata(scene.layer().join("ping")).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.permissions().mode() & 0o7777),
        (1234, 5678, 0o4755)
    );
    let mut value = [0; 64];
    let length = rustix::fs::lgetxattr(scene.layer().join("ping"), "security.capability", &mut value[..]).unwrap();
    assert_eq!(&value[..length], capability);
}

#[test]
fn root_devices_and_pipes_are_made() {
    let scene = Scene::new();
    let mut device = Tar::header(tar::EntryType::Char, 0o620, 0);
    device.set_device_major(5).unwrap();
    device.set_device_minor(1).unwrap();
    scene
        .unpack(
            Tar::new()
                .raw(device, "console", "", b"")
                .raw(Tar::header(tar::EntryType::Fifo, 0o622, 0), "pipe", "", b""),
        )
        .unwrap();
    let console = fs::metadata(scene.layer().join("console")).unwrap();
    assert_eq!(
        (console.rdev(), console.permissions().mode() & 0o777),
        (rustix::fs::makedev(5, 1), 0o620)
    );
    let pipe = fs::metadata(scene.layer().join("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo() && pipe.permissions().mode() & 0o777 == 0o622);
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    matches!(rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value[..]), Ok(1)) && value[0] == b'y'
}

#[test]
fn root_opaque_directories_are_marked() {
    let scene = Scene::new();
    scene
        .unpack(
            Tar::new()
                .directory("a", 0o755)
                .file("a/.wh..wh..opq", "")
                .file(".wh.b", "")
                .directory("b", 0o755)
                .directory("c", 0o755)
                .file(".wh.c", "")
                .directory("d", 0o755),
        )
        .unwrap();
    let marked: Vec<&str> = ["a", "b", "c", "d"]
        .into_iter()
        .filter(|name| is_opaque(&scene.layer().join(name)))
        .collect();
    assert_eq!(marked, ["a", "b", "c"]);
    assert_eq!(tree(&scene.layer()), ["a", "b", "c", "d"]);
}

/// Two layers, mounted: what the kernel shows is what the image means.
#[test]
fn root_overlayfs_shows_the_merged_tree() {
    let scene = Scene::new();
    let at = |name: &str| scene.dir.path().join(name);
    for name in ["low", "high", "merged"] {
        fs::create_dir(at(name)).unwrap();
    }
    let low = Tar::new()
        .file("keep", "1")
        .file("gone", "1")
        .directory("d", 0o755)
        .file("d/old", "1")
        .directory("e", 0o755)
        .file("e/old", "1")
        .file("f/old", "1");
    unpack_into(&at("low"), &low.finish(), &[]).unwrap();
    let high = Tar::new()
        .file(".wh.gone", "")
        .directory("d", 0o755)
        .file("d/.wh..wh..opq", "")
        .file("d/new", "2")
        .file("e/.wh.old", "")
        .file("f/new", "2");
    unpack_into(&at("high"), &high.finish(), &[at("low")]).unwrap();
    let _mount = Mounted::overlay(&[at("high"), at("low")], &at("merged"));
    assert_eq!(tree(&at("merged")), ["d", "d/new", "e", "f", "f/new", "f/old", "keep"]);
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn overlay(layers: &[PathBuf], on: &Path) -> Self {
        let layers: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let options = std::ffi::CString::new(format!("lowerdir={}", layers.join(":"))).unwrap();
        rustix::mount::mount("overlay", on, "overlay", rustix::mount::MountFlags::RDONLY, options.as_c_str()).unwrap();
        Self(on.to_owned())
    }

    fn tmpfs(size_bytes: usize, on: &Path) -> Self {
        let options = std::ffi::CString::new(format!("size={size_bytes}")).unwrap();
        rustix::mount::mount("tmpfs", on, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str()).unwrap();
        Self(on.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn root_a_full_disk_is_told_as_such_and_leaves_nothing() {
    let scene = Scene::new();
    let _mount = Mounted::tmpfs(1 << 20, &scene.layer());
    let store = crate::image::ImageStore::open(scene.layer().join("images")).unwrap();
    let image = super::super::testing::TestImage::new(vec![Tar::new().file("big", &"x".repeat(2 << 20)).finish()]);
    let archive = scene.dir.path().join("image.tar");
    fs::write(&archive, image.oci_archive("big:1")).unwrap();
    let error = store.import(&archive).unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    assert!(error.to_string().contains("no space left on device"), "{error}");
    assert!(store.lookup("big:1").unwrap().is_none());
    assert_eq!(fs::read_dir(scene.layer().join("images/layers")).unwrap().count(), 0);
}
