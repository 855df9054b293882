//! What a container finds inside.

use runtime::{ContainerConfig, ExecRequest, Mount, RunAs, Runtime, RuntimeError, SandboxConfig, Seccomp};
use rustix::fs::{FileType, Mode, makedev};
use std::time::Duration;

use crate::node::{Node, script};

async fn printed(node: &Node, n: u32, config: &ContainerConfig) -> Vec<String> {
    let exit = node.run(n, config).await;
    let lines = node.lines(n, "app");
    assert_eq!(exit.code, 0, "{lines:?} {exit:?}");
    lines
        .into_iter()
        .map(|line| line.trim_start_matches("stdout F ").trim_start_matches("stderr F ").to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_files_and_names_are_the_pods() {
    let node = Node::new("files").await;
    let text = "hostname; cat /etc/hostname /etc/resolv.conf /top-file; tail -n 1 /etc/hosts; echo $HOSTNAME $FROM_IMAGE $MINE $HOME; pwd; echo $$";
    let config = ContainerConfig {
        env: vec![("MINE".into(), "a b".into())],
        working_dir: Some("/made/for/it".into()),
        ..script("app", text)
    };
    assert_eq!(
        printed(&node, 1, &config).await,
        [
            "pod-1",
            "pod-1",
            "nameserver 10.0.0.10",
            "from the upper layer",
            "10.99.0.0\tpod-1",
            "pod-1 1 a b /root",
            "/made/for/it",
            "1"
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn root_users_are_who_they_should_be() {
    let node = Node::new("users").await;
    assert_eq!(printed(&node, 1, &script("app", "id -u; id -g")).await, ["0", "0"]);
    let run_as = RunAs {
        uid: Some(101),
        gid: None,
        supplemental_gids: vec![9],
        only_these_groups: false,
    };
    let config = ContainerConfig {
        run_as,
        run_as_non_root: true,
        ..script("app", "id -u; id -g; id -G; echo x > /bin/no || echo refused")
    };
    let lines = printed(&node, 2, &config).await;
    assert_eq!(lines[..2], ["101", "102"]);
    assert_eq!(
        lines[2].split(' ').collect::<std::collections::BTreeSet<_>>(),
        ["102", "7", "9"].into()
    );
    assert!(lines.contains(&"refused".to_owned()));
    node.runtime.run_sandbox(&node.sandbox(3)).await.unwrap();
    let root = ContainerConfig {
        run_as_non_root: true,
        ..script("app", "")
    };
    match node.runtime.create(&Node::uid(3), &root).await {
        Err(RuntimeError::Config(message)) => {
            let pod = format!("pod-3_default({})", Node::uid(3));
            assert_eq!(
                message,
                format!("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: app)")
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_is_confined() {
    let node = Node::new("confined").await;
    let text = "cat /proc/self/status | tail -n +1 | while read k v; do case $k in CapEff:|NoNewPrivs:) echo $k $v;; esac; done; \
                echo x > /sys/x || echo sys; echo 1 > /proc/sys/kernel/panic || echo proc; touch /x || echo root; touch /sys/fs/cgroup/memory/x || echo cgroup; \
                mount -t tmpfs none /tmp || echo mount; cat /proc/kcore | head -c 1 | cat; ls /proc | while read p; do case $p in [0-9]*) echo p;; esac; done | head -n 1";
    let config = ContainerConfig {
        read_only_root: true,
        no_new_privileges: true,
        ..script("app", text)
    };
    let lines = printed(&node, 1, &config).await;
    for expected in [
        "CapEff: 00000000a80425fb",
        "NoNewPrivs: 1",
        "sys",
        "proc",
        "root",
        "cgroup",
        "mount",
        "p",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:?}");
    }
    let none = ContainerConfig {
        capabilities_drop: vec!["ALL".into()],
        capabilities_add: vec!["NET_BIND_SERVICE".into()],
        ..script("app", text)
    };
    assert!(printed(&node, 2, &none).await.contains(&"CapEff: 0000000000000400".to_owned()));
}

/// What a process is confined by, and whether it gets a user namespace.
const CONFINEMENT: &str = "while read k v; do case $k in CapPrm:|CapEff:|NoNewPrivs:|Seccomp:) echo $k $v;; esac; done < /proc/self/status; \
                           unshare -U true 2> /dev/null && echo made || echo refused";

#[tokio::test(flavor = "multi_thread")]
async fn root_system_calls_are_filtered_unless_asked_otherwise() {
    let node = Node::new("seccomp").await;
    std::os::unix::fs::symlink("busybox", node.place.root.join("layer/bin/unshare")).unwrap();
    let everyone = script("app", CONFINEMENT);
    let caps = "00000000a80425fb";
    let confined = |permitted: &str, effective: &str, privileges: u8| {
        vec![
            format!("CapPrm: {permitted}"),
            format!("CapEff: {effective}"),
            format!("NoNewPrivs: {privileges}"),
            "Seccomp: 2".to_owned(),
            "refused".to_owned(),
        ]
    };
    assert_eq!(printed(&node, 1, &everyone).await, confined(caps, caps, 0));
    let none = "0000000000000000";
    let user = ContainerConfig {
        run_as: RunAs {
            uid: Some(101),
            ..RunAs::default()
        },
        ..everyone.clone()
    };
    assert_eq!(printed(&node, 2, &user).await, confined(none, none, 0));
    let bound = ContainerConfig {
        no_new_privileges: true,
        ..everyone.clone()
    };
    assert_eq!(printed(&node, 3, &bound).await, confined(caps, caps, 1));
    let open = ContainerConfig {
        seccomp: Seccomp::Unconfined,
        ..everyone.clone()
    };
    assert_eq!(
        printed(&node, 4, &open).await[2..],
        ["NoNewPrivs: 0", "Seccomp: 0", "made"].map(str::to_owned)
    );
    let profile = node.place.root.join("profile.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#;
    std::fs::write(&profile, text).unwrap();
    let own = ContainerConfig {
        seccomp: Seccomp::Localhost(profile.clone()),
        ..script("app", "unshare -U true 2>&1 | tail -n 1; mkdir /x && echo x")
    };
    let lines = printed(&node, 5, &own).await;
    assert!(lines[0].ends_with("Input/output error") && lines[1] == "x", "{lines:?}");
    std::fs::write(&profile, "{").unwrap();
    node.runtime.run_sandbox(&node.sandbox(6)).await.unwrap();
    let refusal = node.runtime.create(&Node::uid(6), &own).await.unwrap_err();
    assert!(refusal.to_string().starts_with("cannot load seccomp profile"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_kernel_parameters_are_the_pods_own() {
    let node = Node::new("sysctls").await;
    let asked = [("net.ipv4.ip_local_port_range", "40000 50000"), ("kernel.shm_rmid_forced", "1")];
    let sandbox = SandboxConfig {
        sysctls: asked.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        ..node.sandbox(1)
    };
    let before = std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap();
    node.runtime.run_sandbox(&sandbox).await.unwrap();
    let text = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced";
    let id = node.start(1, &script("app", text)).await;
    assert_eq!(node.exit(1, &id).await.code, 0);
    assert_eq!(node.lines(1, "app"), ["stdout F 40000\t50000", "stdout F 1"]);
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap(), before);
    let sandbox = SandboxConfig {
        sysctls: vec![("net.ipv4.no_such_thing".to_owned(), "1".to_owned())],
        ..node.sandbox(2)
    };
    let refusal = node.runtime.run_sandbox(&sandbox).await.unwrap_err().to_string();
    assert!(refusal.contains("net.ipv4.no_such_thing"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_oom_score_is_the_containers() {
    let node = Node::new("oom-score").await;
    let config = ContainerConfig {
        oom_score: 700,
        ..script("app", "cat /proc/self/oom_score_adj; exec sleep 1000")
    };
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.start(1, &config).await;
    node.until_log(1, "app", "700").await;
    let request = ExecRequest {
        command: vec!["cat".into(), "/proc/self/oom_score_adj".into()],
        timeout: Some(Duration::from_secs(30)),
    };
    let done = node.runtime.exec(&Node::uid(1), &id, request).await.unwrap();
    assert_eq!((done.code, done.output.as_slice()), (0, &b"700\n"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_further_commands_are_filtered_like_the_container() {
    let node = Node::new("seccomp-exec").await;
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.start(1, &script("app", "exec sleep 1000")).await;
    let request = ExecRequest {
        command: [
            "sh",
            "-c",
            "while read k v; do case $k in CapEff:|Seccomp:) echo $k $v;; esac; done < /proc/self/status",
        ]
        .map(str::to_owned)
        .to_vec(),
        timeout: Some(Duration::from_secs(30)),
    };
    let done = node.runtime.exec(&Node::uid(1), &id, request).await.unwrap();
    assert_eq!(
        (done.code, String::from_utf8(done.output).unwrap()),
        (0, "CapEff: 00000000a80425fb\nSeccomp: 2\n".to_owned())
    );
}

/// Escape: device nodes of a disk and of the kernel's memory in an image's layer | they are there, and not opened: the cgroup's device rules
#[tokio::test(flavor = "multi_thread")]
async fn root_only_standard_devices_open() {
    let node = Node::new("devices").await;
    for (name, kind, number) in [
        ("disk", FileType::BlockDevice, makedev(254, 0)),
        ("memory", FileType::CharacterDevice, makedev(1, 1)),
    ] {
        let path = node.place.root.join("layer").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::from_raw_mode(0o666), number).unwrap();
    }
    // Any disk: making the node is allowed, opening it is not.
    let text = "mknod /tmp/disk b 254 0 && cat /tmp/disk /disk /memory | head -c 1 > /tmp/out; [ -b /disk ] && [ -c /memory ] && echo there; cat /dev/zero | head -c 1 > /dev/null && echo zero; [ -s /tmp/out ] || echo closed";
    let layer = node.place.root.join("layer/bin/mknod");
    std::os::unix::fs::symlink("busybox", layer).unwrap();
    let lines = printed(&node, 1, &script("app", text)).await;
    assert!(
        ["zero", "closed", "there"].iter().all(|line| lines.contains(&(*line).to_owned())),
        "{lines:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn root_mounts_are_as_asked() {
    let node = Node::new("mounts").await;
    let source = node.place.root.join("volume");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "content\n").unwrap();
    let at = |target: &str, read_only| Mount {
        source: source.clone(),
        target: target.into(),
        read_only,
        ..Mount::default()
    };
    let one = Mount {
        source: source.join("file"),
        target: "/etc/one/file".into(),
        read_only: true,
        ..Mount::default()
    };
    let config = ContainerConfig {
        mounts: vec![at("/data/inner", true), at("/data", false), one],
        ..script("app", "cat /etc/one/file; touch /data/new; touch /data/inner/no || echo read-only")
    };
    let lines = printed(&node, 1, &config).await;
    assert!(
        lines.contains(&"content".to_owned()) && lines.contains(&"read-only".to_owned()),
        "{lines:?}"
    );
    assert!(source.join("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn root_containers_of_a_pod_share_what_they_should() {
    let node = Node::new("shared").await;
    let shared = SandboxConfig {
        share_process_namespace: true,
        ..node.sandbox(1)
    };
    node.runtime.run_sandbox(&shared).await.unwrap();
    let first = node
        .start(1, &script("first", "echo hello > /dev/shm/word; echo ready; sleep 1000"))
        .await;
    node.until_log(1, "first", "ready").await;
    let id = node
        .start(1, &script("app", "cat /dev/shm/word; ps | grep -c '[s]leep 1000'"))
        .await;
    node.exit(1, &id).await;
    assert_eq!(node.lines(1, "app"), ["stdout F hello", "stdout F 1"]);
    // Another pod sees none of it.
    let other = script("app", "cat /dev/shm/word || ps | grep -c '[s]leep 1000'; true");
    node.run(2, &other).await;
    assert!(node.lines(2, "app").contains(&"stdout F 0".to_owned()));
    node.runtime.stop(&Node::uid(1), &first, None, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_pod_may_use_the_nodes_namespaces() {
    let node = Node::new("host").await;
    let config = SandboxConfig {
        host_network: true,
        host_pid: true,
        host_ipc: true,
        ..node.sandbox(1)
    };
    node.runtime.run_sandbox(&config).await.unwrap();
    assert_eq!(node.runtime.observe(&Node::uid(1)).await.unwrap().sandbox.unwrap().ips.len(), 1);
    let link = |name: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}"))
            .unwrap()
            .to_string_lossy()
            .into_owned()
    };
    std::os::unix::fs::symlink("busybox", node.place.root.join("layer/bin/readlink")).unwrap();
    let id = node
        .start(1, &script("app", "for ns in net ipc pid uts; do readlink /proc/self/ns/$ns; done"))
        .await;
    assert_eq!(node.exit(1, &id).await.code, 0);
    let expected: Vec<String> = ["net", "ipc", "pid", "uts"]
        .iter()
        .map(|name| format!("stdout F {}", link(name)))
        .collect();
    assert_eq!(node.lines(1, "app"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_commands_run_inside() {
    let node = Node::new("exec").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let config = ContainerConfig {
        run_as: RunAs {
            uid: Some(101),
            ..RunAs::default()
        },
        ..script("app", "sleep 1000")
    };
    let id = node.start(1, &config).await;
    let exec = |text: &str, timeout_ms| {
        let command = vec!["sh".to_owned(), "-c".to_owned(), text.to_owned()];
        node.runtime.exec(
            &uid,
            &id,
            ExecRequest {
                command,
                timeout: Some(Duration::from_millis(timeout_ms)),
            },
        )
    };
    let begun = std::time::Instant::now();
    let done = exec(
        "id -u; hostname; cat /top-file; echo $FROM_IMAGE >&2; ps | grep -c 'sleep 1000'; exit 4",
        60_000,
    )
    .await
    .unwrap();
    println!("one command: {:?}", begun.elapsed());
    assert_eq!((done.code, done.timed_out), (4, false));
    let text = String::from_utf8(done.output).unwrap();
    assert!(text.starts_with("101\npod-1\nfrom the upper layer\n1\n"), "{text}");
    let late = exec("echo begun; sleep 1000", 200).await.unwrap();
    assert_eq!(
        (late.code, late.timed_out, late.output.as_slice()),
        (137, true, b"begun\n".as_slice())
    );
    let much = exec("yes | head -c 1000000", 60_000).await.unwrap();
    assert_eq!((much.code, much.output.len()), (0, 16 << 10));
    // The shim has one thread, which endless output must not keep.
    let endless = tokio::time::timeout(
        Duration::from_secs(20),
        exec("for n in 1 2 3; do dd if=/dev/zero bs=1M & done; wait", 300),
    )
    .await;
    let endless = endless.expect("the deadline was never looked at").unwrap();
    assert_eq!((endless.code, endless.timed_out, endless.output.len()), (137, true, 16 << 10));
    let missing = ExecRequest {
        command: vec!["foo".into()],
        timeout: None,
    };
    match node.runtime.exec(&uid, &id, missing).await {
        Err(RuntimeError::Start(message)) => assert_eq!(message, "exec: \"foo\": executable file not found in $PATH"),
        other => panic!("{other:?}"),
    }
    // Both a command cut off by its caller and one cut off by the container's end go.
    let dropped = tokio::time::timeout(Duration::from_millis(100), exec("sleep 1002", 60_000)).await;
    assert!(dropped.is_err());
    let gone = exec("while ps | grep -q '[s]leep 1002'; do sleep 0.01; done", 10_000)
        .await
        .unwrap();
    assert_eq!((gone.code, gone.timed_out), (0, false));
    let (cut, stopped) = tokio::join!(exec("sleep 1003", 60_000), node.runtime.stop(&uid, &id, None, Duration::ZERO));
    stopped.unwrap();
    assert!(!matches!(cut, Ok(done) if done.code == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_privileged_containers_see_the_nodes_devices() {
    let node = Node::new("privileged").await;
    let disk = std::fs::read_dir("/sys/class/block")
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap());
    let disk = disk
        .into_iter()
        .find(|name| std::path::Path::new("/dev").join(name).exists())
        .expect("a disk");
    let text = format!("head -c 1 /dev/{disk} > /tmp/out && echo read; touch /sys/x 2>/dev/null; mount -t tmpfs none /tmp && echo mounted");
    let config = ContainerConfig {
        privileged: true,
        ..script("app", &text)
    };
    let lines = printed(&node, 1, &config).await;
    assert!(
        lines.contains(&"read".to_owned()) && lines.contains(&"mounted".to_owned()),
        "{lines:?}"
    );
    let plain = script("app", &format!("ls /dev/{disk} || echo none"));
    assert!(printed(&node, 2, &plain).await.contains(&"none".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn root_what_cannot_be_made_leaves_nothing() {
    let node = Node::new("cannot").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let missing = Mount {
        source: "/nowhere/at/all".into(),
        target: "/data".into(),
        read_only: false,
        ..Mount::default()
    };
    let config = ContainerConfig {
        mounts: vec![missing],
        ..script("app", "")
    };
    match node.runtime.create(&uid, &config).await {
        Err(RuntimeError::Start(message)) => assert!(message.starts_with("opening /nowhere/at/all for "), "{message}"),
        other => panic!("{other:?}"),
    }
    match node
        .runtime
        .create(
            &uid,
            &ContainerConfig {
                image: "nginx".into(),
                ..script("app", "")
            },
        )
        .await
    {
        Err(RuntimeError::NotFound { what: "image", name }) => assert_eq!(name, "nginx"),
        other => panic!("{other:?}"),
    }
    assert!(node.runtime.observe(&uid).await.unwrap().containers.is_empty());
    let trees = shim::cgroup::Trees::detect().unwrap();
    assert_eq!(
        trees.children(&node.place.cgroup_root.join(format!("pod{uid}"))),
        Vec::<String>::new()
    );
    let id = node.start(1, &script("app", "exit 0")).await;
    assert_eq!(node.exit(1, &id).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_container_never_started_is_stopped_at_once() {
    let node = Node::new("unstarted").await;
    let uid = Node::uid(1);
    node.runtime.run_sandbox(&node.sandbox(1)).await.unwrap();
    let id = node.runtime.create(&uid, &script("app", "sleep 1000")).await.unwrap();
    let stopping = node.runtime.stop(&uid, &id, None, Duration::from_secs(3600));
    tokio::time::timeout(Duration::from_secs(30), stopping)
        .await
        .expect("no grace for what does not run")
        .unwrap();
    let exit = node.exit(1, &id).await;
    assert_eq!((exit.code, exit.started_at), (137, None));
}
