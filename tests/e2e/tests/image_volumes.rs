//! Images as volumes, read by real containers.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: reader }
spec:
  restartPolicy: Never
  volumes:
  - { name: image, image: { reference: "nginx:1.17.1" } }
  - { name: tool, image: { reference: "busybox:1.30", pullPolicy: Never } }
  containers:
  - name: main
    image: busybox:1.30
    command:
    - sh
    - -c
    - |
      ls /image/etc/nginx/nginx.conf
      ls /conf
      touch /image/x 2> /dev/null || echo read-only
      /tool/bin/busybox true 2> /dev/null || echo not run
      [ -e /tool/bin/busybox ] && echo there
      grep -E ' /(image|conf|tool) ' /proc/mounts | cut -d' ' -f3,4 | grep -c '^overlay ro,.*noexec'
    volumeMounts:
    - { name: image, mountPath: /image }
    - { name: image, mountPath: /conf, subPath: etc/nginx/nginx.conf }
    - { name: tool, mountPath: /tool }
---
apiVersion: v1
kind: Pod
metadata: { name: absent }
spec:
  volumes: [{ name: v, image: { reference: "nowhere:1", pullPolicy: Never } }]
  containers: [{ name: c, image: "busybox:1.30", command: [sleep, "1000"], volumeMounts: [{ name: v, mountPath: /v }] }]
---
apiVersion: v1
kind: Pod
metadata: { name: unfetched }
spec:
  volumes: [{ name: v, image: { reference: "127.0.0.1:1/nowhere:1" } }]
  containers: [{ name: c, image: "busybox:1.30", command: [sleep, "1000"], volumeMounts: [{ name: v, mountPath: /v }] }]
---
apiVersion: v1
kind: Pod
metadata: { name: nopath }
spec:
  volumes: [{ name: v, image: { reference: "busybox:1.30" } }]
  containers: [{ name: c, image: "busybox:1.30", command: [sleep, "1000"], volumeMounts: [{ name: v, mountPath: /v, subPath: not/there }] }]
"#;

/// Fields: spec.volumes[].image spec.volumes[].image.reference spec.volumes[].image.pullPolicy spec.containers[].volumeMounts[].subPath
#[test]
fn root_an_image_is_a_volume_that_is_only_read() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("imagevolumes", &build).unwrap();
    platform.create(POD).unwrap();
    platform.wait_status("default", "reader", "Completed", LIMIT).unwrap();
    let logs = platform.ok(&["logs", "reader"]).unwrap();
    let lines: Vec<&str> = logs.lines().collect();
    assert_eq!(
        lines,
        ["/image/etc/nginx/nginx.conf", "/conf", "read-only", "not run", "there", "3"]
    );
    let policies = platform
        .ok(&["get", "pod", "reader", "-o", "jsonpath={.spec.volumes[*].image.pullPolicy}"])
        .unwrap();
    assert_eq!(policies, "IfNotPresent Never");

    // What is not there is told like any volume that cannot be set up.
    for (pod, text) in [
        (
            "absent",
            "MountVolume.SetUp failed for volume \"v\" : Container image \"nowhere:1\" is not present with pull policy of Never",
        ),
        (
            "unfetched",
            "MountVolume.SetUp failed for volume \"v\" : Failed to pull image \"127.0.0.1:1/nowhere:1\"",
        ),
    ] {
        let selector = format!("involvedObject.name={pod},reason=FailedMount");
        wait::until(&format!("the event of {pod}"), LIMIT, || {
            let path = "jsonpath={.items[*].message}";
            let seen = platform.ok(&["get", "events", "--field-selector", &selector, "-o", path])?;
            Ok(if seen.contains(text) { Ok(()) } else { Err(seen) })
        })
        .unwrap();
        platform.wait_status("default", pod, "ContainerCreating", LIMIT).unwrap();
    }
    platform
        .wait_status("default", "nopath", "CreateContainerConfigError", LIMIT)
        .unwrap();

    let nameless = POD.split("---").nth(1).unwrap().replace("reference: \"nowhere:1\", ", "");
    let refused = format!("{:#}", platform.create(&nameless).unwrap_err());
    assert!(refused.contains("spec.volumes[0].image.reference: Required value"), "{refused}");
    let policy = POD.split("---").nth(1).unwrap().replace("Never", "Sometimes");
    let refused = format!("{:#}", platform.create(&policy).unwrap_err());
    assert!(
        refused.contains(
            "spec.volumes[0].image.pullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
        ),
        "{refused}"
    );
}
