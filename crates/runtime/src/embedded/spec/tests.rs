use super::*;
use crate::{Mount, Resources, RunAs};

const HYBRID: &str = "\
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
36 31 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
const UNIFIED: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";

fn host(mounts: &str) -> Host {
    Host {
        trees: shim::cgroup::Trees::from_mountinfo(mounts),
        capabilities: Host::capabilities_of("Name:\tx\nCapBnd:\t000001fffeffffff\n"),
        own_oom_score: 0,
        app_armor: super::super::app_armor::Kernel::below(Path::new("/no/such/host")),
    }
}

fn sandbox() -> SandboxConfig {
    SandboxConfig {
        pod: "3f2c1b0a-0000-4000-8000-000000000000".parse().unwrap(),
        name: "web".into(),
        namespace: "default".into(),
        attempt: 0,
        hostname: "web".into(),
        domain: String::new(),
        host_network: false,
        host_pid: false,
        host_ipc: false,
        share_process_namespace: false,
        own_users: false,
        resolv_conf: String::new(),
        host_aliases: Vec::new(),
        sysctls: Vec::new(),
        log_dir: "/logs".into(),
        resources: Resources::default(),
        cgroup_parent: crate::CgroupParent::Root,
    }
}

fn image() -> ImageConfig {
    ImageConfig {
        entrypoint: vec!["entry".into(), "-e".into()],
        cmd: vec!["cmd".into()],
        env: vec!["A=image".into(), "B=image".into()],
        working_dir: "/srv".into(),
        user: "web".into(),
        stop_signal: None,
    }
}

fn spec_of(sandbox: &SandboxConfig, container: &ContainerConfig, mounts: &str) -> Result<Value, String> {
    spec_under(sandbox, container, mounts, None)
}

fn spec_under(sandbox: &SandboxConfig, container: &ContainerConfig, mounts: &str, app_armor: Option<&str>) -> Result<Value, String> {
    let parts = Parts {
        sandbox,
        container,
        image: &image(),
        pod_dir: Path::new("/state/pod"),
        dir: Path::new("/state/pod/containers/id"),
        group: Path::new("/lifepod/poduid/id"),
        host: &host(mounts),
        app_armor: app_armor.map(str::to_owned),
        devices: Vec::new(),
    };
    generate(&parts).map(|spec| serde_json::to_value(spec).unwrap())
}

fn spec(container: &ContainerConfig) -> Value {
    spec_of(&sandbox(), container, HYBRID).unwrap()
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

#[test]
fn its_process_is_under_the_profile_that_was_found() {
    let of = |profile| spec_under(&sandbox(), &ContainerConfig::default(), UNIFIED, profile).unwrap()["process"]["apparmorProfile"].clone();
    assert_eq!((of(Some("own")), of(None)), (json!("own"), Value::Null));
}

/// Shows: 14.1.28
#[test]
fn command_and_args_replace_as_the_api_page_says() {
    for (command, args, want) in [
        (&[][..], &[][..], &["entry", "-e", "cmd"][..]),
        (&[], &["x"], &["entry", "-e", "x"]),
        (&["c"], &[], &["c"]),
        (&["c"], &["x"], &["c", "x"]),
    ] {
        let container = ContainerConfig {
            command: strings(command),
            args: strings(args),
            ..ContainerConfig::default()
        };
        assert_eq!(spec(&container)["process"]["args"], json!(want), "{command:?} {args:?}");
    }
}

#[test]
fn variables_are_replaced_in_place() {
    let env = vec![
        ("B".to_owned(), "mine".to_owned()),
        ("C".to_owned(), "x=y".to_owned()),
        ("HOSTNAME".to_owned(), "other".to_owned()),
    ];
    let container = ContainerConfig {
        env,
        ..ContainerConfig::default()
    };
    assert_eq!(
        spec(&container)["process"]["env"],
        json!([PATH, "HOSTNAME=other", "A=image", "B=mine", "C=x=y"])
    );
}

#[test]
fn the_working_directory_is_the_containers_then_the_images() {
    assert_eq!(spec(&ContainerConfig::default())["process"]["cwd"], "/srv");
    let own = ContainerConfig {
        working_dir: Some("/own".into()),
        ..ContainerConfig::default()
    };
    assert_eq!(spec(&own)["process"]["cwd"], "/own");
    let relative = ContainerConfig {
        working_dir: Some("own".into()),
        ..ContainerConfig::default()
    };
    assert!(spec_of(&sandbox(), &relative, HYBRID).unwrap_err().contains("not absolute"));
}

fn capabilities(container: ContainerConfig) -> Vec<String> {
    let spec = spec(&container);
    let set = &spec["process"]["capabilities"]["bounding"];
    let mut names: Vec<String> = set
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c.as_str().unwrap().replace("CAP_", ""))
        .collect();
    names.sort();
    names
}

#[test]
fn only_a_process_that_needs_it_to_put_filters_on_holds_more_than_its_bounding_set() {
    let holds_admin = |container: ContainerConfig| {
        let spec = spec(&container);
        let sets = &spec["process"]["capabilities"];
        let has = |set: &str| sets[set].as_array().unwrap().contains(&"CAP_SYS_ADMIN".into());
        assert!(!has("bounding"), "it would outlive the start of the program");
        assert_eq!(has("effective"), has("permitted"));
        has("effective")
    };
    assert!(holds_admin(ContainerConfig::default()));
    assert!(!holds_admin(ContainerConfig {
        no_new_privileges: true,
        ..ContainerConfig::default()
    }));
    assert!(!holds_admin(ContainerConfig {
        seccomp: crate::Seccomp::Unconfined,
        ..ContainerConfig::default()
    }));
}

#[test]
fn capabilities_are_containerds_plus_and_minus() {
    let with = |add: &[&str], drop: &[&str]| {
        let (capabilities_add, capabilities_drop) = (strings(add), strings(drop));
        ContainerConfig {
            capabilities_add,
            capabilities_drop,
            ..ContainerConfig::default()
        }
    };
    assert_eq!(capabilities(ContainerConfig::default()).len(), 14);
    assert_eq!(capabilities(with(&["CAP_SYS_TIME"], &["all"])), ["SYS_TIME"]);
    assert_eq!(capabilities(with(&[], &["KILL"])).len(), 13);
    // All this host has: it lacks SYS_RESOURCE.
    assert_eq!(capabilities(with(&["ALL"], &[])).len(), 40);
    assert_eq!(
        capabilities(ContainerConfig {
            privileged: true,
            ..ContainerConfig::default()
        })
        .len(),
        40
    );
    let asked = spec_of(&sandbox(), &with(&["SYS_RESOURCE"], &[]), HYBRID).unwrap_err();
    assert!(asked.contains("SYS_RESOURCE is asked for"), "{asked}");
    assert!(
        spec_of(&sandbox(), &with(&["FLY"], &[]), HYBRID)
            .unwrap_err()
            .contains("unknown capability \"FLY\"")
    );
}

fn mount_at(spec: &Value, target: &str) -> Option<Value> {
    spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .find(|m| m["destination"] == target)
        .cloned()
}

#[test]
fn the_pods_files_are_mounted_unless_the_pod_brings_its_own() {
    let mounts = vec![
        Mount {
            source: "/b".into(),
            target: "/data/inner".into(),
            read_only: true,
            ..Mount::default()
        },
        Mount {
            source: "/a".into(),
            target: "/data".into(),
            read_only: false,
            ..Mount::default()
        },
        Mount {
            source: "/h".into(),
            target: "/etc/hosts".into(),
            read_only: false,
            ..Mount::default()
        },
    ];
    let container = ContainerConfig {
        mounts,
        termination_message_path: "/dev/termination-log".into(),
        ..ContainerConfig::default()
    };
    let spec = spec(&container);
    assert_eq!(
        mount_at(&spec, "/etc/hosts").unwrap()["source"],
        "/state/pod/containers/id/mounts/2"
    );
    assert_eq!(mount_at(&spec, "/etc/resolv.conf").unwrap()["source"], "/state/pod/resolv.conf");
    assert_eq!(
        mount_at(&spec, "/dev/termination-log").unwrap()["source"],
        "/state/pod/containers/id/termination-log"
    );
    assert_eq!(mount_at(&spec, "/data/inner").unwrap()["options"], json!(["rbind", "ro"]));
    let order: Vec<_> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert!(order.iter().position(|t| *t == "/data") < order.iter().position(|t| *t == "/data/inner"));
}

#[test]
fn cgroups_are_shown_but_not_given() {
    let hybrid = spec(&ContainerConfig::default());
    let memory = mount_at(&hybrid, "/sys/fs/cgroup/memory").unwrap();
    assert_eq!(memory["source"], "/sys/fs/cgroup/memory/lifepod/poduid/id");
    assert!(memory["options"].as_array().unwrap().contains(&json!("ro")));
    assert!(
        mount_at(&hybrid, "/sys/fs/cgroup/pids").is_none(),
        "this host has no such controller"
    );
    let unified = spec_of(&sandbox(), &ContainerConfig::default(), UNIFIED).unwrap();
    let cgroup = mount_at(&unified, "/sys/fs/cgroup").unwrap();
    assert_eq!(cgroup["type"], "cgroup2");
    assert!(cgroup["options"].as_array().unwrap().contains(&json!("ro")));
}

#[test]
fn privileged_means_open() {
    let open = spec(&ContainerConfig {
        privileged: true,
        ..ContainerConfig::default()
    });
    assert_eq!(open["linux"]["maskedPaths"], json!([]));
    assert!(
        mount_at(&open, "/sys").unwrap()["options"]
            .as_array()
            .unwrap()
            .contains(&json!("rw"))
    );
    let closed = spec(&ContainerConfig::default());
    assert_eq!(closed["linux"]["maskedPaths"].as_array().unwrap().len(), MASKED.len());
}

#[test]
fn namespaces_follow_the_pod() {
    let plain = spec(&ContainerConfig::default());
    let kinds = |spec: &Value| -> Vec<String> {
        spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["type"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(kinds(&plain), ["mount", "cgroup", "pid"]);
    let host = SandboxConfig {
        host_pid: true,
        host_ipc: true,
        ..sandbox()
    };
    let host = spec_of(&host, &ContainerConfig::default(), HYBRID).unwrap();
    assert_eq!(kinds(&host), ["mount", "cgroup"]);
    assert_eq!(mount_at(&host, "/dev/shm").unwrap()["source"], "/dev/shm");
}

#[test]
fn a_container_with_a_terminal_is_told_its_kind() {
    let tty = ContainerConfig {
        name: "app".into(),
        command: vec!["sh".into()],
        tty: true,
        ..ContainerConfig::default()
    };
    let env = |config: &ContainerConfig| {
        let spec = spec_of(&sandbox(), config, HYBRID).unwrap();
        serde_json::from_value::<Vec<String>>(spec["process"]["env"].clone()).unwrap()
    };
    assert!(env(&tty).contains(&"TERM=xterm".to_owned()));
    let own = ContainerConfig {
        env: vec![("TERM".into(), "dumb".into())],
        ..tty
    };
    assert_eq!(
        env(&own).iter().filter(|e| e.starts_with("TERM=")).collect::<Vec<_>>(),
        ["TERM=dumb"]
    );
}

#[test]
fn root_is_refused_where_it_must_be() {
    let pod = "(pod: \"web_default(3f2c1b0a-0000-4000-8000-000000000000)\", container: app)";
    for (image_user, uid, want) in [
        ("", None, Err("container has runAsNonRoot and image will run as root")),
        ("0:0", None, Err("container has runAsNonRoot and image will run as root")),
        (
            "web",
            None,
            Err("container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root"),
        ),
        ("web", Some(0), Err("container's runAsUser breaks non-root policy")),
        ("101", None, Ok(())),
        ("", Some(5), Ok(())),
    ] {
        let run_as = RunAs { uid, ..RunAs::default() };
        let container = ContainerConfig {
            name: "app".into(),
            run_as,
            run_as_non_root: true,
            ..ContainerConfig::default()
        };
        let image = ImageConfig {
            user: image_user.into(),
            ..image()
        };
        let got = user(&sandbox(), &container, &image).map(drop);
        assert_eq!(got, want.map_err(|text| format!("{text} {pod}")), "{image_user:?} {uid:?}");
    }
}

#[test]
fn stop_signals_are_names_or_numbers() {
    for (word, want) in [
        (None, Ok(15)),
        (Some(""), Ok(15)),
        (Some("SIGQUIT"), Ok(3)),
        (Some("quit"), Ok(3)),
        (Some("9"), Ok(9)),
        (Some("37"), Ok(37)),
    ] {
        let image = ImageConfig {
            stop_signal: word.map(str::to_owned),
            ..image()
        };
        assert_eq!(stop_signal(&ContainerConfig::default(), &image), want, "{word:?}");
    }
    for bad in ["SIGFLY", "0", "65", "-1"] {
        let image = ImageConfig {
            stop_signal: Some(bad.into()),
            ..image()
        };
        assert!(stop_signal(&ContainerConfig::default(), &image).is_err(), "{bad}");
    }
}
