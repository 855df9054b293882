//! Each type of `hostPath`, read by real containers: what they find, what is
//! refused and in which words, and that it heals.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(90);

/// A type of `hostPath`.
struct Case {
    /// Name of the pod, and of what it mounts.
    name: &'static str,
    /// `type`; empty for none.
    kind: &'static str,
    /// What a container says of it once it is right.
    seen: &'static str,
    /// What upstream says while there is something else; `None` where nothing
    /// is wrong with anything.
    refusal: Option<&'static str>,
}

const CASES: [Case; 8] = [
    Case {
        name: "untyped",
        kind: "",
        seen: "directory",
        refusal: None,
    },
    Case {
        name: "dir",
        kind: "Directory",
        seen: "directory",
        refusal: Some("a directory"),
    },
    Case {
        name: "dir-or-create",
        kind: "DirectoryOrCreate",
        seen: "directory",
        refusal: Some("a directory"),
    },
    Case {
        name: "file",
        kind: "File",
        seen: "file",
        refusal: Some("a file"),
    },
    Case {
        name: "file-or-create",
        kind: "FileOrCreate",
        seen: "file",
        refusal: Some("a file"),
    },
    Case {
        name: "socket",
        kind: "Socket",
        seen: "socket",
        refusal: Some("a socket file"),
    },
    Case {
        name: "char",
        kind: "CharDevice",
        seen: "character device",
        refusal: Some("a character device"),
    },
    Case {
        name: "block",
        kind: "BlockDevice",
        seen: "block device",
        refusal: Some("a block device"),
    },
];

const SCRIPT: &str = "[ -d /h ] && echo directory; [ -f /h ] && echo file; [ -S /h ] && echo socket; [ -c /h ] && echo character device; [ -b /h ] && echo block device; true";

fn pod(name: &str, path: &Path, kind: &str) -> String {
    let kind = if kind.is_empty() {
        String::new()
    } else {
        format!(", type: {kind}")
    };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  volumes: [{{name: h, hostPath: {{path: '{}'{kind}}}}}]\n  containers: [{{name: c, image: 'busybox:1.30', command: [sh, -c, '{SCRIPT}'], volumeMounts: [{{name: h, mountPath: /h}}]}}]\n",
        path.display()
    )
}

/// Puts at `path` what a case wants.
fn make(case: &Case, path: &Path) {
    match case.seen {
        "directory" => fs::create_dir(path).unwrap(),
        "file" => fs::write(path, "").unwrap(),
        // The file stays when the listener goes.
        "socket" => drop(UnixListener::bind(path).unwrap()),
        // `null`, and the first loop device: neither is opened.
        "character device" => drop(run(std::process::Command::new("mknod").arg(path).args(["c", "1", "3"])).unwrap()),
        _ => drop(run(std::process::Command::new("mknod").arg(path).args(["b", "7", "0"])).unwrap()),
    }
}

/// Fields: spec.volumes[].hostPath spec.volumes[].hostPath.path spec.volumes[].hostPath.type
#[test]
fn root_each_type_of_host_path_is_checked_and_heals() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("hostpaths", &build).unwrap();
    let host = tempfile::tempdir().unwrap();
    let at = |name: &str| host.path().join(name);
    let ends = |name: &str, seen: &str| {
        platform.wait_status("default", name, "Completed", LIMIT).unwrap();
        assert_eq!(platform.ok(&["logs", name]).unwrap(), format!("{seen}\n"), "{name}");
    };

    // All that is as it should be, and what is made where nothing is.
    let mut manifest = String::new();
    for case in &CASES {
        make(case, &at(case.name));
        manifest.push_str(&pod(case.name, &at(case.name), case.kind));
        if case.kind.is_empty() || case.kind.ends_with("OrCreate") {
            let name = format!("{}-made", case.name);
            manifest.push_str(&pod(&name, &at(&name), case.kind));
        }
    }
    // Directories above are made too; a file's are not.
    manifest.push_str(&pod("deep", &at("some/where/deep"), "DirectoryOrCreate"));
    // Whatever is no directory counts as a file, as upstream; without a type
    // nothing is asked.
    manifest.push_str(&pod("socket-as-file", &at("socket"), "File"));
    manifest.push_str(&pod("any-file", &at("file"), ""));
    platform.create(&manifest).unwrap();
    for case in &CASES {
        ends(case.name, case.seen);
        if case.kind.is_empty() || case.kind.ends_with("OrCreate") {
            ends(&format!("{}-made", case.name), case.seen);
        }
    }
    ends("deep", "directory");
    ends("socket-as-file", "socket");
    ends("any-file", "file");
    let mode = |name: &str| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(at(name)).unwrap().permissions()) & 0o7777;
    assert_eq!((mode("dir-or-create-made"), mode("file-or-create-made")), (0o755, 0o644));
    assert!(fs::metadata(at("socket")).unwrap().file_type().is_socket(), "none of it is changed");

    // The wrong thing, or nothing, in its place.
    let (mut manifest, mut wanted) = (String::new(), Vec::new());
    for case in &CASES {
        let Some(what) = case.refusal else { continue };
        let mut refused = |name: String| {
            manifest.push_str(&pod(&name, &at(&name), case.kind));
            let path = at(&name);
            wanted.push((name, case, format!("hostPath type check failed: {} is not {what}", path.display())));
        };
        let wrong = format!("{}-wrong", case.name);
        if case.seen == "directory" {
            fs::write(at(&wrong), "").unwrap();
        } else {
            fs::create_dir(at(&wrong)).unwrap();
        }
        refused(wrong);
        if !case.kind.ends_with("OrCreate") {
            refused(format!("{}-missing", case.name));
        }
    }
    let _ = write!(manifest, "{}", pod("below-nothing", &at("none/file"), "FileOrCreate"));
    let _ = write!(manifest, "{}", pod("below-a-file", &at("file/dir"), "DirectoryOrCreate"));
    platform.create(&manifest).unwrap();
    let told = |name: &str, text: &str| {
        let selector = format!("involvedObject.name={name},reason=FailedMount,type=Warning");
        wait::until(&format!("{name} to be told {text:?}"), LIMIT, || {
            let seen = platform.ok(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].message}"])?;
            let text = format!("MountVolume.SetUp failed for volume \"h\" : {text}");
            Ok(if seen == text { Ok(()) } else { Err(seen) })
        })
        .unwrap();
    };
    for (name, _, text) in &wanted {
        told(name, text);
    }
    told(
        "below-nothing",
        &format!("open {}: no such file or directory", at("none/file").display()),
    );
    told("below-a-file", &format!("mkdir {}: not a directory", at("file").display()));
    for (name, case, _) in &wanted {
        platform.wait_status("default", name, "ContainerCreating", LIMIT).unwrap();
        let path = at(name);
        if path.is_dir() {
            fs::remove_dir(&path).unwrap();
        } else if path.exists() {
            fs::remove_file(&path).unwrap();
        }
        make(case, &path);
    }
    fs::create_dir(at("none")).unwrap();
    fs::remove_file(at("file")).unwrap();
    for (name, case, _) in &wanted {
        ends(name, case.seen);
    }
    ends("below-nothing", "file");
    ends("below-a-file", "directory");

    let odd = format!("{:#}", platform.create(&pod("odd", &at("dir"), "Pipe")).unwrap_err());
    assert!(odd.contains("spec.volumes[0].hostPath.type: Unsupported value: \"Pipe\""), "{odd}");
}
