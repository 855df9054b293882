//! Images from a real registry.

use std::fs;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::registry::Registry;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(90);

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  containers: [{{name: c, image: '{image}', command: ['echo', 'ran']}}]\n"
    )
}

/// Fields: status.containerStatuses[].imageID
#[test]
fn root_images_are_pulled_from_a_registry_and_from_a_mirror() {
    let build = Build::from_env().unwrap();
    let registries = tempfile::NamedTempFile::new().unwrap();
    fs::write(
        registries.path(),
        "registries:\n  docker.io:\n    mirrors: ['http://127.0.0.1:5000']\n",
    )
    .unwrap();
    let flags = ["--registries", &*registries.path().to_string_lossy()].map(str::to_owned);
    let mut platform = Platform::prepared("images", &build, &flags.each_ref().map(String::as_str)).unwrap();
    platform.up().unwrap();

    // Nobody answers yet: the pod waits, and heals when the registry is there.
    platform.create(&pod("early", "127.0.0.1:5000/team/busybox:1")).unwrap();
    platform.wait_status("default", "early", "ImagePullBackOff", LIMIT).unwrap();
    let registry = Registry::start(&platform.host, "127.0.0.1:5000").unwrap();
    let archive = build.images.join("busybox-1.30.tar");
    registry.push(&platform.host, &archive, "team/busybox", "1").unwrap();
    registry.push(&platform.host, &archive, "library/busybox", "9.9").unwrap();
    platform.wait_status("default", "early", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "early"]).unwrap(), "ran\n");

    // A short name of docker.io, which only the mirror can answer here.
    platform.create(&pod("short", "busybox:9.9")).unwrap();
    platform.wait_status("default", "short", "Completed", LIMIT).unwrap();
    let events = platform.ok(&["describe", "pod", "short"]).unwrap();
    assert!(events.contains("Pulling image \"busybox:9.9\""), "{events}");
    assert!(
        events.contains("Successfully pulled image \"busybox:9.9\" in ") && events.contains("Image size: "),
        "{events}"
    );
    let image_id = platform
        .ok(&["get", "pod", "short", "-o", "jsonpath={.status.containerStatuses[0].imageID}"])
        .unwrap();
    assert!(image_id.starts_with("docker.io/library/busybox@sha256:"), "{image_id}");

    // A tag that is not there.
    platform.create(&pod("missing", "127.0.0.1:5000/team/busybox:none")).unwrap();
    platform.wait_status("default", "missing", "ImagePullBackOff", LIMIT).unwrap();
    let events = platform.ok(&["describe", "pod", "missing"]).unwrap();
    assert!(
        events.contains("Failed to pull image \"127.0.0.1:5000/team/busybox:none\"") && events.contains("not found"),
        "{events}"
    );

    // The command line sees and changes the same store.
    run(&mut platform.lifepod(&["images", "pull", "127.0.0.1:5000/team/busybox:1"])).unwrap();
    let list = || String::from_utf8_lossy(&run(&mut platform.lifepod(&["images", "ls"])).unwrap().stdout).into_owned();
    assert!(list().contains("127.0.0.1:5000/team/busybox"), "{}", list());
    run(&mut platform.lifepod(&["images", "rm", "127.0.0.1:5000/team/busybox:1"])).unwrap();
    assert!(!list().contains("127.0.0.1:5000/team/busybox"), "{}", list());
    let absent = platform.lifepod(&["images", "rm", "absent:1"]).output().unwrap();
    assert!(!absent.status.success());
}

/// `s3cret`, as `htpasswd -B` writes it.
const PULLER: &str = "puller:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

/// A registry that knows who may pull gives its images to pods with the secret
/// and to no other.
/// Fields: spec.imagePullSecrets.*
#[test]
fn root_a_private_image_needs_a_pull_secret() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("private", &build, &[]).unwrap();
    platform.up().unwrap();
    let user = ("puller:s3cret", PULLER);
    let registry = Registry::start_for(&platform.host, "127.0.0.1:5000", Some(user)).unwrap();
    let archive = build.images.join("busybox-1.30.tar");
    registry.push(&platform.host, &archive, "team/busybox", "1").unwrap();
    let secret = |name: &str, password: &str| {
        platform
            .ok(&[
                "create",
                "secret",
                "docker-registry",
                name,
                "--docker-server=127.0.0.1:5000",
                "--docker-username=puller",
                &format!("--docker-password={password}"),
            ])
            .unwrap()
    };
    let with = |name: &str, secret: &str| {
        let secrets = format!("spec:\n  imagePullSecrets: [{{name: {secret}}}]");
        pod(name, "127.0.0.1:5000/team/busybox:1").replace("spec:", &secrets)
    };
    platform.create(&pod("nobody", "127.0.0.1:5000/team/busybox:1")).unwrap();
    platform.wait_status("default", "nobody", "ImagePullBackOff", LIMIT).unwrap();
    secret("wrong", "guess");
    platform.create(&with("guesser", "wrong")).unwrap();
    platform.wait_status("default", "guesser", "ImagePullBackOff", LIMIT).unwrap();
    secret("right", "s3cret");
    platform.create(&with("knower", "right")).unwrap();
    platform.wait_status("default", "knower", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "knower"]).unwrap(), "ran\n");
}

/// A download that fails is not tried earlier because Lifepod was killed, and
/// what is shown of it stays.
///
/// Shows: 14.4.1
#[test]
fn root_a_pulls_back_off_outlives_a_killed_lifepod() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::prepared("back-off", &build, &[]).unwrap();
    platform.up().unwrap();
    // Nobody listens there.
    platform.create(&pod("waits", "127.0.0.1:5999/team/none:1")).unwrap();
    // How many pulls have failed, and in which second of the day the last one
    // did. A new agent begins a new event.
    let failed = |platform: &Platform| -> (u64, i64) {
        let selector = "involvedObject.name=waits,reason=Failed";
        let columns = "jsonpath={range .items[*]}{.count} {.lastTimestamp} {.message}{\"\\n\"}{end}";
        let seen = platform
            .ok(&["get", "events", "--field-selector", selector, "-o", columns])
            .unwrap();
        let pulls = seen.lines().filter(|line| line.contains("Failed to pull image"));
        pulls.fold((0, 0), |(count, last), line| {
            let words: Vec<&str> = line.split(' ').collect();
            let (_, clock) = words[1].trim_end_matches('Z').split_once('T').unwrap();
            let second = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
            (count + words[0].parse::<u64>().unwrap(), last.max(second))
        })
    };
    let failures = |platform: &Platform, count: u64| {
        wait::until(&format!("{count} failed pulls"), LIMIT, || {
            let seen = failed(platform);
            Ok(if seen.0 >= count { Ok(seen.1) } else { Err(format!("{seen:?}")) })
        })
        .unwrap()
    };
    let before = failures(&platform, 2);
    platform.wait_status("default", "waits", "ImagePullBackOff", LIMIT).unwrap();
    let shown = |platform: &Platform| {
        let pod = platform.get("default", "pod", "waits").unwrap().unwrap();
        (pod["status"].clone(), pod["metadata"]["resourceVersion"].clone())
    };
    let known = shown(&platform);
    platform.kill().unwrap();
    platform.up().unwrap();
    let now = shown(&platform);
    if failed(&platform).0 == 2 {
        assert_eq!(now, known, "nothing has happened, so nothing is told");
    }
    let after = failures(&platform, 3);
    let waited_s = (after - before).rem_euclid(86_400);
    assert!(waited_s >= 19, "the third pull came after {waited_s} s, and 20 s was its delay");
    let waiting = &known.0["containerStatuses"][0]["state"]["waiting"];
    let message = waiting["message"].as_str().unwrap();
    assert!(
        message.starts_with("Back-off pulling image \"127.0.0.1:5999/team/none:1\": ErrImagePull: "),
        "{message}"
    );
}

/// A full disk costs the images nobody uses, oldest first, and no other; a
/// Lifepod that is killed at it loses nothing.
#[test]
fn root_images_nobody_uses_are_removed_when_the_disk_fills_up() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("imagegc", &build).unwrap();
    let registry = Registry::start(&platform.host, "127.0.0.1:5000").unwrap();
    for (archive, name) in [("busybox-1.30.tar", "used"), ("nginx-1.17.1.tar", "unused")] {
        registry
            .push(&platform.host, &build.images.join(archive), &format!("team/{name}"), "1")
            .unwrap();
    }
    // Only what can be had again may go.
    for image in ["busybox:1.30", "nginx:1.17.1"] {
        run(&mut platform.lifepod(&["images", "rm", image])).unwrap();
    }
    let pod = |name: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers: [{{name: c, image: '127.0.0.1:5000/team/used:1', command: [sleep, '1000']}}]\n"
        )
    };
    platform.create(&pod("user")).unwrap();
    platform.wait_status("default", "user", "Running", LIMIT).unwrap();
    run(&mut platform.lifepod(&["images", "pull", "127.0.0.1:5000/team/unused:1"])).unwrap();
    let images = |platform: &Platform| {
        let output = run(&mut platform.lifepod(&["images", "ls"])).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = images(&platform);
    assert!(before.contains("team/unused") && before.contains("team/used"), "{before}");
    platform.kill().unwrap();
    // Every disk is as full as that.
    let flags = [
        "--image-gc-high-threshold",
        "1",
        "--image-gc-low-threshold",
        "0",
        "--minimum-image-ttl-duration",
        "0s",
    ];
    platform.set_flags(&flags);
    platform.up().unwrap();
    wait::until("the images nobody uses to go", LIMIT, || {
        let now = images(&platform);
        Ok(if now.contains("team/unused") { Err(now) } else { Ok(()) })
    })
    .unwrap();
    // No disk is ever empty, so the node says that it could not free enough.
    wait::until("FreeDiskSpaceFailed", LIMIT, || {
        let told = platform.ok(&["get", "events", "-A", "--field-selector", "reason=FreeDiskSpaceFailed"])?;
        let text = "Failed to garbage collect required amount of images. Attempted to free";
        Ok(if told.contains(text) { Ok(()) } else { Err(told) })
    })
    .unwrap();
    platform.kill().unwrap();
    platform.set_flags(&[]);
    platform.up().unwrap();
    let after = images(&platform);
    assert!(after.contains("team/used"), "{after}");
    assert_eq!(platform.ok(&["exec", "user", "--", "echo", "here"]).unwrap().trim(), "here");
    // What was in use is whole, though its registry is gone.
    drop(registry);
    platform.create(&pod("next")).unwrap();
    platform.wait_status("default", "next", "Running", LIMIT).unwrap();
    // Flags that make no sense are refused before anything happens.
    let wrong = platform.lifepod(&["up", "--image-gc-high-threshold", "80"]).output().unwrap();
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(
        !wrong.status.success() && said.contains("must be less than imageGCHighThresholdPercent"),
        "{said}"
    );
}
