//! Pods with users of their own.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::node::ContainerId;
use runtime::embedded::Embedded;
use runtime::{ContainerConfig, ExecRequest, Mount, RunAs, Runtime, SandboxConfig};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::node::{Node, script};

fn own_users(node: &Node, n: u32) -> SandboxConfig {
    SandboxConfig {
        own_users: true,
        ..node.sandbox(n)
    }
}

/// The applets these tests need beside the image's own.
fn applets(node: &Node, names: &[&str]) {
    for name in names {
        std::os::unix::fs::symlink("busybox", node.place.root.join("layer/bin").join(name)).unwrap();
    }
}

/// A file system that maps no owners, with flags that are locked in a pod with
/// users of its own; mounted as long as this lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path) -> Self {
        rustix::mount::mount("plain", at, "ramfs", MountFlags::NOSUID | MountFlags::NODEV, None).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Runs to its end in a pod with users of its own; what it printed.
async fn printed(node: &Node, n: u32, container: &ContainerConfig) -> Vec<String> {
    node.runtime.run_sandbox(&own_users(node, n)).await.unwrap();
    let id = node.start(n, container).await;
    let exit = node.exit(n, &id).await;
    let lines = node.lines(n, "app");
    assert_eq!(exit.code, 0, "{lines:?} {}", exit.message);
    let text = lines
        .iter()
        .map(|line| line.trim_start_matches("stdout F ").trim_start_matches("stderr F "));
    text.map(str::to_owned).collect()
}

async fn exec(node: &Node, n: u32, id: &ContainerId, text: &str) -> (i32, String) {
    let request = ExecRequest {
        command: ["sh", "-c", text].map(str::to_owned).to_vec(),
        timeout: Some(Duration::from_secs(30)),
    };
    let done = node.runtime.exec(&Node::uid(n), id, request).await.unwrap();
    (done.code, String::from_utf8(done.output).unwrap())
}

/// First id of the node of the container's user 0, as the kernel says.
fn first_id(map: &str) -> u32 {
    let words: Vec<&str> = map.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("0", "65536"), "{map}");
    words[1].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_root_of_a_pod_with_users_of_its_own_is_nobody_on_the_node() {
    let node = Node::new("users-map").await;
    let mut firsts = Vec::new();
    for n in [1, 2] {
        node.runtime.run_sandbox(&own_users(&node, n)).await.unwrap();
        let text = format!("cat /proc/self/uid_map; cat /proc/self/gid_map; echo ready; sleep 9876{n}; true");
        let id = node.start(n, &script("app", &text)).await;
        node.until_log(n, "app", "ready").await;
        let lines = node.lines(n, "app");
        let first = first_id(lines[0].trim_start_matches("stdout F "));
        assert_eq!(lines[0], lines[1], "users and groups are the same numbers");
        assert!(first >= 65_536, "{first}");
        firsts.push(first);
        // The node sees the process as that user.
        let (_, own) = exec(&node, n, &id, "cat /proc/self/uid_map; id").await;
        assert_eq!(first_id(own.lines().next().unwrap()), first, "a further command is one of them");
        let seen = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(&format!("sleep 9876{n}")) && entry.metadata().is_ok_and(|meta| meta.uid() == first)
        });
        assert_eq!(seen.count(), 1);
    }
    assert_ne!(firsts[0], firsts[1]);
    // What one had is free for another once it is over, and not before.
    node.runtime.stop_sandbox(&Node::uid(1)).await.unwrap();
    let lines = printed(&node, 3, &script("app", "cat /proc/self/uid_map")).await;
    assert_eq!(first_id(&lines[0]), firsts[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_files_of_a_pod_with_users_of_its_own_have_its_owners() {
    let node = Node::new("users-files").await;
    applets(&node, &["stat", "chown", "mkdir", "sort"]);
    let (volume, content) = (node.place.root.join("volume"), node.place.root.join("content"));
    for dir in [&volume, &content] {
        std::fs::create_dir(dir).unwrap();
    }
    std::fs::write(content.join("key"), "value\n").unwrap();
    std::fs::set_permissions(content.join("key"), std::fs::Permissions::from_mode(0o400)).unwrap();
    std::fs::write(volume.join("webs"), "").unwrap();
    chown(volume.join("webs"), Some(101), Some(102)).unwrap();
    let at = |source: &Path, target: &str, read_only| Mount {
        source: source.to_owned(),
        target: target.into(),
        read_only,
        ..Mount::default()
    };
    let text = "stat -c '%n %u %g' / /bin/busybox /etc/hosts /etc/hostname /etc/resolv.conf /data /data/webs /content/key /dev/shm; \
                cat /content/key; touch /content/no || echo read-only; touch /made /data/root; chown 101:102 /data/root; \
                stat -c '%n %u %g' /made /data/root; echo bye > /dev/termination-log; echo word > /dev/shm/word; \
                touch /sub/made; echo named > /dev/stdout";
    let config = ContainerConfig {
        mounts: vec![
            at(&volume, "/data", false),
            at(&content, "/content", true),
            Mount {
                sub_path: Some("deep/er".into()),
                ..at(&volume, "/sub", false)
            },
        ],
        termination_message_path: "/dev/termination-log".into(),
        ..script("app", text)
    };
    node.runtime.run_sandbox(&own_users(&node, 1)).await.unwrap();
    let id = node.start(1, &config).await;
    let exit = node.exit(1, &id).await;
    let lines = node.lines(1, "app");
    assert_eq!((exit.code, exit.message.trim()), (0, "bye"), "{lines:?}");
    let mine = [
        "/",
        "/bin/busybox",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/data",
        "/content/key",
        "/dev/shm",
        "/made",
    ];
    for path in mine {
        assert!(lines.contains(&format!("stdout F {path} 0 0")), "{path}: {lines:?}");
    }
    for line in ["/data/webs 101 102", "/data/root 101 102", "value", "read-only", "named"] {
        assert!(lines.contains(&format!("stdout F {line}")), "{line}: {lines:?}");
    }
    // On the disk they have the same numbers, whatever ids the pod was given.
    let owner = |path: &Path| std::fs::metadata(path).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!(owner(&volume.join("root")), (101, 102));
    assert_eq!(owner(&volume.join("deep/er/made")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_users_of_a_pods_own_are_who_they_should_be() {
    let node = Node::new("users-run-as").await;
    applets(&node, &["stat"]);
    let volume = node.place.root.join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(2000)).unwrap();
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o2770)).unwrap();
    let config = ContainerConfig {
        run_as: RunAs {
            uid: Some(1000),
            gid: Some(1001),
            supplemental_gids: vec![2000],
            only_these_groups: false,
        },
        working_dir: Some("/work/here".into()),
        mounts: vec![Mount {
            source: volume.clone(),
            target: "/data".into(),
            ..Mount::default()
        }],
        ..script(
            "app",
            "id; touch /data/file; stat -c '%u %g' /data/file . ; echo said > /dev/stderr; pwd",
        )
    };
    let mut lines = printed(&node, 1, &config).await;
    lines.sort();
    assert_eq!(
        lines,
        ["/work/here", "0 0", "1000 2000", "said", "uid=1000 gid=1001 groups=1001,2000"].map(str::to_owned)
    );
    let too_high = ContainerConfig {
        run_as: RunAs {
            uid: Some(65_536),
            ..RunAs::default()
        },
        ..script("app", "true")
    };
    node.runtime.run_sandbox(&own_users(&node, 2)).await.unwrap();
    let refusal = node.runtime.create(&Node::uid(2), &too_high).await.unwrap_err().to_string();
    assert!(refusal.starts_with("user or group 65536 is out of range"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_of_a_pod_with_users_of_its_own_share_what_they_should() {
    let node = Node::new("users-shared").await;
    let shared = SandboxConfig {
        share_process_namespace: true,
        sysctls: vec![
            ("net.ipv4.ip_local_port_range".to_owned(), "40000 50000".to_owned()),
            ("kernel.shm_rmid_forced".to_owned(), "1".to_owned()),
        ],
        ..own_users(&node, 1)
    };
    node.runtime.run_sandbox(&shared).await.unwrap();
    let first = node
        .start(1, &script("first", "echo hello > /dev/shm/word; echo ready; sleep 1000"))
        .await;
    node.until_log(1, "first", "ready").await;
    let text = "cat /dev/shm/word; ps | grep -c '[s]leep 1000'; hostname; cat /proc/sys/net/ipv4/ip_local_port_range \
                /proc/sys/kernel/shm_rmid_forced; ls /proc/1/root/ 2>/dev/null || echo closed; kill -9 1; ls /sys/class/net | head -n 1";
    let id = node.start(1, &script("app", text)).await;
    assert_eq!(node.exit(1, &id).await.code, 0, "{:?}", node.lines(1, "app"));
    let lines: Vec<String> = node.lines(1, "app").iter().map(|line| line.replace("stdout F ", "")).collect();
    assert_eq!(
        lines[..6],
        ["hello", "1", "pod-1", "40000\t50000", "1", "closed"].map(str::to_owned),
        "{lines:?}"
    );
    // The first process of the namespace is still there, and so is the other container.
    let (code, _) = exec(&node, 1, &first, "ps | grep -q sandbox-init").await;
    assert_eq!(code, 0);
    node.runtime.stop(&Node::uid(1), &first, None, Duration::ZERO).await.unwrap();
}

/// Escape: root of a pod with users of its own, with every capability, at the node's files, clock, modules and kernel parameters | it is nobody there: none of it is opened or changed
#[tokio::test(flavor = "multi_thread")]
async fn root_capabilities_of_a_pods_own_root_reach_no_further_than_the_pod() {
    let node = Node::new("users-caps").await;
    applets(&node, &["ip", "umount", "date", "mknod", "mkdir", "stat"]);
    let private = node.place.root.join("private");
    std::fs::create_dir(&private).unwrap();
    std::fs::write(private.join("secret"), "of the node\n").unwrap();
    std::fs::set_permissions(private.join("secret"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let text = "mkdir -p /m; mount -t tmpfs none /m && echo mounted; ip link add dummy0 type dummy 2>/dev/null; ip link set lo down && echo net; \
                echo x > /proc/sys/kernel/core_pattern || echo no-core; date -s 2000-01-01 2>&1 | head -n 1; mknod /m/d b 254 0 || echo no-device; \
                echo 1 > /proc/sys/vm/drop_caches || echo no-vm; cat /proc/1/environ > /dev/null && echo own";
    let config = ContainerConfig {
        capabilities_add: vec!["ALL".into()],
        unmasked_proc: true,
        seccomp: runtime::Seccomp::Unconfined,
        ..script("app", text)
    };
    let lines = printed(&node, 1, &config).await;
    for line in [
        "mounted",
        "net",
        "no-core",
        "date: can't set date: Operation not permitted",
        "no-device",
        "no-vm",
        "own",
    ] {
        assert!(lines.contains(&line.to_owned()), "{line}: {lines:?}");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_proc_is_masked_unless_asked_otherwise() {
    let node = Node::new("users-proc").await;
    let text = "while read a b c d e f; do case $e in /proc/*) echo $e;; esac; done < /proc/self/mountinfo; \
                echo 1 > /proc/sys/net/ipv4/ip_forward && echo written || echo refused";
    let config = ContainerConfig {
        capabilities_add: vec!["NET_ADMIN".into()],
        ..script("app", text)
    };
    let masked = printed(&node, 1, &config).await;
    assert!(
        masked.contains(&"/proc/sys".to_owned()) && masked.contains(&"refused".to_owned()),
        "{masked:?}"
    );
    let unmasked = ContainerConfig {
        unmasked_proc: true,
        ..config
    };
    assert_eq!(printed(&node, 2, &unmasked).await, ["written"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pod_with_users_of_its_own_outlives_the_agent() {
    let mut node = Node::new("users-adopt").await;
    node.runtime.run_sandbox(&own_users(&node, 1)).await.unwrap();
    let id = node.start(1, &script("app", "cat /proc/self/uid_map; exec sleep 1000")).await;
    node.until_log(1, "app", "65536").await;
    let first = first_id(node.lines(1, "app")[0].trim_start_matches("stdout F "));
    node.replace_agent().await;
    let (code, map) = exec(&node, 1, &id, "cat /proc/self/uid_map").await;
    assert_eq!((code, first_id(&map)), (0, first));
    let other = printed(&node, 2, &script("app", "cat /proc/self/uid_map")).await;
    assert_ne!(first_id(&other[0]), first, "what a pod has is not given again");
    let again = node.start(1, &script("again", "cat /proc/self/uid_map")).await;
    node.exit(1, &again).await;
    assert_eq!(first_id(node.lines(1, "again")[0].trim_start_matches("stdout F ")), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_host_whose_files_cannot_be_mapped_says_so() {
    let node = Node::new("users-none").await;
    assert!(node.runtime.features().user_namespaces);
    let dir = node.place.root.join("plain");
    std::fs::create_dir(&dir).unwrap();
    let mounted = Mounted::new(&dir);
    let mut options = node.place.options(node.images.clone(), node.network.clone());
    options.state_dir = dir.join("pods");
    let plain = Embedded::open(options).await.unwrap();
    let features = plain.features();
    let refused = plain.run_sandbox(&own_users(&node, 1)).await;
    plain.remove_sandbox(&Node::uid(1)).await.unwrap();
    drop(plain);
    drop(mounted);
    assert!(!features.user_namespaces);
    let refusal = refused.unwrap_err().to_string();
    assert!(
        refusal.starts_with("can't set `spec.hostUsers: false`, runtime does not support user namespaces: "),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn root_any_volume_and_a_privileged_container_go_with_users_of_its_own() {
    let node = Node::new("users-volumes").await;
    applets(&node, &["stat", "umount"]);
    let volume = node.place.root.join("volume");
    std::fs::create_dir_all(volume.join("below")).unwrap();
    let mounted = Mounted::new(&volume.join("below"));
    let config = ContainerConfig {
        privileged: true,
        mounts: vec![
            Mount {
                source: volume.clone(),
                target: "/data".into(),
                ..Mount::default()
            },
            Mount {
                image: Some("busybox".into()),
                target: "/image".into(),
                ..Mount::default()
            },
            Mount {
                source: volume.join("below"),
                target: "/fixed".into(),
                read_only: true,
                ..Mount::default()
            },
        ],
        ..script(
            "app",
            "stat -c '%u' /data /image/bin/busybox; touch /image/x 2> /dev/null || echo shut; touch /data/below/x 2> /dev/null || echo theirs; \
             umount /data/below 2> /dev/null || echo locked; cat /dev/null && echo device; mount -t tmpfs none /tmp && echo mounted",
        )
    };
    node.runtime.run_sandbox(&own_users(&node, 1)).await.unwrap();
    let refusal = node.runtime.create(&Node::uid(1), &config).await;
    let config = ContainerConfig {
        mounts: config.mounts[..2].to_vec(),
        ..config
    };
    let lines = printed(&node, 2, &config).await;
    drop(mounted);
    assert_eq!(
        lines,
        ["0", "0", "shut", "theirs", "locked", "device", "mounted"].map(str::to_owned)
    );
    let refusal = refusal.unwrap_err().to_string();
    assert!(refusal.contains("which its file system may not support"), "{refusal}");
}
