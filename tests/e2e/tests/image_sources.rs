//! Where images come from: registries that know who may pull, indexes of many
//! platforms, slow lines.

use std::path::Path;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::registry::{Registry, SlowLine};
use e2e::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(90);
const AT: &str = "127.0.0.1:5000";

/// `s3cret`, as `htpasswd -B` writes it.
const PULLER: &str = "puller:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  {more}\n  containers: [{{name: c, image: '{image}', imagePullPolicy: Always, command: ['echo', 'ran']}}]\n"
    )
}

fn told(platform: &Platform, pod: &str, reason: &str, text: &str) {
    let selector = format!("involvedObject.name={pod},reason={reason}");
    wait::until(&format!("{pod} to be told {reason} {text:?}"), LIMIT, || {
        let seen = platform.ok(&["get", "events", "--field-selector", &selector, "-o", "jsonpath={.items[*].message}"])?;
        Ok(if seen.contains(text) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

/// A pod of an account that names pull secrets has them, for its containers and
/// for its volumes; one that names its own keeps to those.
/// Fields: spec.imagePullSecrets spec.imagePullSecrets[].name spec.serviceAccountName spec.volumes[].image spec.volumes[].image.reference
#[test]
fn root_an_accounts_pull_secrets_are_its_pods() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("accountpull", &build, &[]).unwrap();
    platform.up().unwrap();
    let registry = Registry::start_for(&platform.host, AT, Some(("puller:s3cret", PULLER))).unwrap();
    let push = |archive: &str, repository: &str| {
        let archive = build.images.join(archive);
        registry.push(&platform.host, &archive, repository, "1").unwrap();
    };
    push("busybox-1.30.tar", "team/tool");
    push("nginx-1.17.1.tar", "team/content");
    for (name, password) in [("right", "s3cret"), ("wrong", "guess")] {
        let password = format!("--docker-password={password}");
        platform
            .ok(&[
                "create",
                "secret",
                "docker-registry",
                name,
                "--docker-server=127.0.0.1:5000",
                "--docker-username=puller",
                &password,
            ])
            .unwrap();
    }
    let tool = "127.0.0.1:5000/team/tool:1";

    // An account without any, then with, then a pod with its own.
    platform.create(&pod("without", tool, "")).unwrap();
    platform.wait_status("default", "without", "ImagePullBackOff", LIMIT).unwrap();
    platform
        .ok(&[
            "patch",
            "serviceaccount",
            "default",
            "-p",
            r#"{"imagePullSecrets":[{"name":"right"}]}"#,
        ])
        .unwrap();
    platform.create(&pod("with", tool, "")).unwrap();
    platform.create(&pod("own", tool, "imagePullSecrets: [{name: wrong}]")).unwrap();
    platform.wait_status("default", "with", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "with"]).unwrap(), "ran\n");
    let secrets = |name: &str| {
        let path = "jsonpath={.spec.imagePullSecrets[*].name}";
        platform.ok(&["get", "pod", name, "-o", path]).unwrap()
    };
    assert_eq!(
        (secrets("with").as_str(), secrets("own").as_str(), secrets("without").as_str()),
        ("right", "wrong", "")
    );
    // What is on the node is of no use to who may not pull it, where the policy
    // says to ask.
    platform.wait_status("default", "own", "ImagePullBackOff", LIMIT).unwrap();
    told(&platform, "own", "Failed", "Failed to pull image \"127.0.0.1:5000/team/tool:1\"");

    // A volume is pulled with the same secrets.
    let volume = |name: &str, more: &str| {
        pod(name, tool, more)
            .replace(
                "  containers:",
                "  volumes: [{name: v, image: {reference: '127.0.0.1:5000/team/content:1'}}]\n  containers:",
            )
            .replace(
                "Always, command: ['echo', 'ran']",
                "IfNotPresent, command: [ls, /v/etc/nginx/nginx.conf], volumeMounts: [{name: v, mountPath: /v}]",
            )
    };
    platform.create(&volume("barred", "imagePullSecrets: [{name: wrong}]")).unwrap();
    let text = "MountVolume.SetUp failed for volume \"v\" : Failed to pull image \"127.0.0.1:5000/team/content:1\"";
    told(&platform, "barred", "FailedMount", text);
    platform.create(&volume("reader", "")).unwrap();
    platform.wait_status("default", "reader", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "reader"]).unwrap(), "/v/etc/nginx/nginx.conf\n");
}

/// Of an index the image for this machine is run; where there is none, the pull
/// fails and says what there is.
/// Fields: spec.containers[].image
#[test]
fn root_the_image_of_the_nodes_platform_is_picked() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("platforms", &build, &[]).unwrap();
    platform.up().unwrap();
    let registry = Registry::start(&platform.host, AT).unwrap();
    let push = |archive: &str| -> Value {
        let archive = build.images.join(archive);
        registry
            .push(
                &platform.host,
                &archive,
                "team/many",
                archive.file_stem().unwrap().to_str().unwrap(),
            )
            .unwrap()
    };
    let (ours, other) = (push("busybox-1.30.tar"), push("nginx-1.17.1.tar"));
    let info = platform.get("", "node", "node1").unwrap().unwrap()["status"]["nodeInfo"].clone();
    let (os, architecture) = (info["operatingSystem"].as_str().unwrap(), info["architecture"].as_str().unwrap());
    let of = |image: &Value, os: &str, architecture: &str, variant: Option<&str>| {
        let mut entry = image.clone();
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        if let Some(variant) = variant {
            entry["platform"]["variant"] = json!(variant);
        }
        entry
    };
    // Ours stands last, behind other systems, machines and a variant that asks
    // for more than every such machine has.
    let all = [
        of(&other, "windows", architecture, None),
        of(&other, os, "s390x", None),
        of(&other, os, architecture, Some("v99")),
        of(&ours, os, architecture, None),
    ];
    registry.push_index(&platform.host, &all, "team/many", "all").unwrap();
    registry.push_index(&platform.host, &all[..3], "team/many", "others").unwrap();
    platform.create(&pod("picks", "127.0.0.1:5000/team/many:all", "")).unwrap();
    platform.wait_status("default", "picks", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "picks"]).unwrap(), "ran\n");
    platform.create(&pod("stuck", "127.0.0.1:5000/team/many:others", "")).unwrap();
    platform.wait_status("default", "stuck", "ImagePullBackOff", LIMIT).unwrap();
    told(
        &platform,
        "stuck",
        "Failed",
        &format!(
            "no match for platform in manifest 127.0.0.1:5000/team/many:others: not found; this node is {os}/{architecture}, it offers windows/{architecture}, {os}/s390x, {os}/{architecture}/v99"
        ),
    );
}

/// While a download goes on one event says how far it is, and `lifepod run`
/// shows it: of a container's image, and of an image that is a volume.
/// Fields: spec.volumes[].image
#[test]
fn root_a_slow_pull_says_how_far_it_is() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("slowpull", &build, &[]).unwrap();
    run(platform.lifepod(&["images", "import"]).arg(build.images.join("busybox-1.30.tar"))).unwrap();
    platform.up().unwrap();
    let registry = Registry::start(&platform.host, AT).unwrap();
    let archive: &Path = &build.images.join("nginx-1.17.1.tar");
    registry.push(&platform.host, archive, "team/large", "1").unwrap();
    let bytes: u64 = std::fs::metadata(archive).unwrap().len();
    // It takes some 16 seconds, of which each fifth is told.
    let _line = SlowLine::start(&platform.host, "127.0.0.1:5001", &registry, bytes / 16).unwrap();
    slow_pull(&platform, "waits", &pod("waits", SLOW, ""), bytes, Some("spec.containers{c}"));
    run(&mut platform.lifepod(&["images", "rm", SLOW])).unwrap();
    let volume = pod("mounts", "busybox:1.30", "")
        .replace(
            "  containers:",
            &format!("  volumes: [{{name: v, image: {{reference: '{SLOW}'}}}}]\n  containers:"),
        )
        .replace(
            "Always, command: ['echo', 'ran']",
            "IfNotPresent, command: [ls, /v/etc/nginx/nginx.conf], volumeMounts: [{name: v, mountPath: /v}]",
        );
    slow_pull(&platform, "mounts", &volume, bytes, None);
}

/// An image behind the slow line.
const SLOW: &str = "127.0.0.1:5001/team/large:1";

/// Runs a pod for which [`SLOW`] has to be fetched: the output says how far it is,
/// and one event of the pod, or of the container at `path`, does.
fn slow_pull(platform: &Platform, name: &str, text: &str, bytes: u64, path: Option<&str>) {
    let manifest = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(manifest.path(), text).unwrap();
    let output = run(&mut platform.lifepod(&["run", "-f", &*manifest.path().to_string_lossy()])).unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    // `N of TOTAL bytes` of each line.
    let far: Vec<(u64, u64)> = shown
        .lines()
        .filter_map(|line| line.split_once(&format!("PullProgress: Pulling image \"{SLOW}\": ")))
        .map(|(_, far)| {
            let words: Vec<&str> = far.split(' ').collect();
            assert_eq!((words.len(), words[1], words[3]), (4, "of", "bytes"), "{shown}");
            (words[0].parse().unwrap(), words[2].parse().unwrap())
        })
        .collect();
    assert!(far.len() >= 2, "{shown}");
    assert!(far.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 == two[1].1), "{far:?}");
    assert!(far.iter().all(|(done, total)| done <= total && *total <= bytes), "{far:?}");
    let told: Vec<usize> = [
        format!("Pulling: Pulling image \"{SLOW}\"\n"),
        format!("Successfully pulled image \"{SLOW}\" in "),
    ]
    .iter()
    .map(|text| shown.matches(text.as_str()).count())
    .collect();
    assert_eq!(told, [1, 1], "{shown}");

    // All of it is one event, which counts.
    let selector = format!("involvedObject.name={name},reason=PullProgress");
    let events = platform
        .ok(&["get", "events", "--field-selector", &selector, "-o", "json"])
        .unwrap();
    let events: Value = serde_json::from_str(&events).unwrap();
    let events = events["items"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["count"].as_u64().unwrap(), far.len() as u64);
    assert_eq!(events[0]["involvedObject"]["fieldPath"].as_str(), path);
    let (done, total) = far[far.len() - 1];
    let last = format!("Pulling image \"{SLOW}\": {done} of {total} bytes");
    assert_eq!(events[0]["message"], last.as_str());
}
