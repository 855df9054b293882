//! Persistent volumes: made for a claim, kept over pods, gone or kept with the
//! claim.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(60);

fn claim(name: &str, class: &str) -> String {
    format!(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: {name}}}\nspec:\n  {class}\n  accessModes: [ReadWriteOnce]\n  resources: {{requests: {{storage: 64Mi}}}}\n"
    )
}

fn pod(name: &str, claim: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n  securityContext: {{runAsUser: 1000, fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch}}\n  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]\n  containers:\n  - name: main\n    image: busybox:1.30\n    command: [sh, -c, '{script}']\n    volumeMounts: [{{name: data, mountPath: /data}}]\n"
    )
}

fn told(platform: &Platform, name: &str, text: &str) {
    wait::until(&format!("{text:?} of {name}"), LIMIT, || {
        let seen = platform.events("default", name).unwrap();
        Ok(if seen.contains(text) { Ok(()) } else { Err(seen) })
    })
    .unwrap();
}

/// The directories of volumes on the host.
fn directories(platform: &Platform) -> Vec<PathBuf> {
    let entries = fs::read_dir(platform.data_dir().join("local-path"));
    entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn gone(platform: &Platform, kind: &str, name: &str) {
    wait::until(&format!("{kind} {name} to go"), LIMIT, || {
        let found = platform.get("default", kind, name)?;
        Ok(found.map_or(Ok(()), |found| Err(found.to_string())))
    })
    .unwrap();
}

/// Fields: spec.volumes[].persistentVolumeClaim spec.volumes[].persistentVolumeClaim.claimName spec.securityContext.fsGroup spec.securityContext.fsGroupChangePolicy
#[test]
fn root_data_outlives_the_pod_and_goes_with_its_claim() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("claims", &build).unwrap();
    platform.create(&claim("data", "volumeMode: Filesystem")).unwrap();
    // The default class waits for a pod.
    told(
        &platform,
        "data",
        "WaitForFirstConsumer waiting for first consumer to be created before binding",
    );
    let class = platform.ok(&["get", "storageclass"]).unwrap();
    assert!(
        class.contains("local-path (default)   lifepod.dev/local-path   Delete          WaitForFirstConsumer"),
        "{class}"
    );
    assert!(directories(&platform).is_empty());

    platform
        .create(&pod(
            "writer",
            "data",
            "echo kept > /data/file; ls -ldn /data | cut -d\" \" -f1,4; exec sleep 1000",
        ))
        .unwrap();
    platform.wait_status("default", "writer", "Running", LIMIT).unwrap();
    told(
        &platform,
        "data",
        "Provisioning External provisioner is provisioning volume for claim \"default/data\"",
    );
    told(&platform, "data", "ProvisioningSucceeded Successfully provisioned volume pvc-");
    let shown = platform.ok(&["get", "pvc", "data", "--no-headers"]).unwrap();
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(
        (cells[1], cells[3], cells[4], cells[5]),
        ("Bound", "64Mi", "RWO", "local-path"),
        "{shown}"
    );
    let volume = cells[2].to_owned();
    let shown = platform.ok(&["get", "pv", &volume, "--no-headers"]).unwrap();
    let cells: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(
        cells[1..7],
        ["64Mi", "RWO", "Delete", "Bound", "default/data", "local-path"],
        "{shown}"
    );
    let dir = directories(&platform).pop().unwrap();
    wait::until("the file", LIMIT, || {
        let text = fs::read_to_string(dir.join("file"));
        Ok(if text.as_deref().unwrap_or_default() == "kept\n" {
            Ok(())
        } else {
            Err(format!("{text:?}"))
        })
    })
    .unwrap();
    let group = std::os::unix::fs::MetadataExt::gid(&fs::metadata(&dir).unwrap());
    assert_eq!(group, 2000, "fsGroup owns the volume");

    // A claim that is used stays until its pod is gone.
    platform.ok(&["delete", "pvc", "data", "--wait=false"]).unwrap();
    let terminating = platform.ok(&["get", "pvc", "data", "--no-headers"]).unwrap();
    assert!(terminating.contains("Terminating"), "{terminating}");
    platform.ok(&["delete", "pod", "writer"]).unwrap();
    gone(&platform, "pvc", "data");
    gone(&platform, "pv", &volume);
    assert!(directories(&platform).is_empty());

    // Data stays between pods, also over a restart of the platform.
    platform.create(&claim("again", "volumeMode: Filesystem")).unwrap();
    platform.create(&pod("first", "again", "echo one >> /data/file")).unwrap();
    platform.wait_status("default", "first", "Completed", LIMIT).unwrap();
    platform.ok(&["delete", "pod", "first"]).unwrap();
    platform.kill().unwrap();
    platform.up().unwrap();
    platform.create(&pod("second", "again", "cat /data/file")).unwrap();
    platform.wait_status("default", "second", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "second"]).unwrap(), "one\n");
    platform.ok(&["delete", "pod", "second"]).unwrap();
    platform.ok(&["delete", "pvc", "again"]).unwrap();
    wait::until("its directory to go", LIMIT, || {
        let left = directories(&platform);
        Ok(if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) })
    })
    .unwrap();
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}

const KEEPING: &str = "
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: { name: keeping }
provisioner: lifepod.dev/local-path
reclaimPolicy: Retain
volumeBindingMode: Immediate
";

/// Fields: spec.volumes[].persistentVolumeClaim.readOnly
#[test]
fn root_a_class_may_keep_the_data_and_bind_at_once() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("keeping", &build).unwrap();
    platform.create(KEEPING).unwrap();
    platform.create(&claim("kept", "storageClassName: keeping")).unwrap();
    wait::until("the claim to be bound", LIMIT, || {
        let shown = platform.ok(&["get", "pvc", "kept", "--no-headers"])?;
        Ok(if shown.contains("Bound") { Ok(()) } else { Err(shown) })
    })
    .unwrap();
    platform.create(&pod("writer", "kept", "echo kept > /data/file")).unwrap();
    platform.wait_status("default", "writer", "Completed", LIMIT).unwrap();
    let reader = pod("reader", "kept", "cat /data/file; touch /data/x 2> /dev/null || echo read-only")
        .replace("claimName: kept", "claimName: kept, readOnly: true");
    platform.create(&reader).unwrap();
    platform.wait_status("default", "reader", "Completed", LIMIT).unwrap();
    assert_eq!(platform.ok(&["logs", "reader"]).unwrap(), "kept\nread-only\n");
    let volume = platform.ok(&["get", "pvc", "kept", "-o", "jsonpath={.spec.volumeName}"]).unwrap();
    platform.ok(&["delete", "pod", "writer", "reader"]).unwrap();
    platform.ok(&["delete", "pvc", "kept"]).unwrap();
    wait::until("the volume to be released", LIMIT, || {
        let shown = platform.ok(&["get", "pv", &volume, "--no-headers"])?;
        Ok(if shown.contains("Released") { Ok(()) } else { Err(shown) })
    })
    .unwrap();
    let dir = directories(&platform).pop().unwrap();
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "kept\n");
    platform.ok(&["delete", "pv", &volume]).unwrap();
    gone(&platform, "pv", &volume);
    assert_eq!(fs::read_to_string(dir.join("file")).unwrap(), "kept\n", "only people remove it");
}

const BY_HAND: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: { name: by-hand }
spec:
  capacity: { storage: 1Gi }
  accessModes: [ReadWriteOnce]
  storageClassName: ''
  local: { path: HOSTDIR/none }
  nodeAffinity: { required: { nodeSelectorTerms: [{ matchExpressions: [{ key: kubernetes.io/hostname, operator: In, values: [NODE] }] }] } }
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: { name: by-hand }
spec: { storageClassName: '', accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }
";

/// What lacks is told in upstream's words, and heals.
#[test]
fn root_a_pod_waits_for_its_claim_and_its_volume() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("waiting", &build).unwrap();
    let host = tempfile::tempdir().unwrap();
    let end = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    let manifest = |node: &str| BY_HAND.replace("HOSTDIR", &host.path().display().to_string()).replace("NODE", node);
    platform.create(&pod("user", "by-hand", "echo ran")).unwrap();
    told(
        &platform,
        "user",
        &format!("FailedScheduling 0/1 nodes are available: persistentvolumeclaim \"by-hand\" not found. {end}"),
    );
    let (volume, only_claim) = manifest("elsewhere")
        .split_once("---\n")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    platform.create(&only_claim).unwrap();
    told(
        &platform,
        "by-hand",
        "FailedBinding no persistent volumes available for this claim and no storage class is set",
    );
    told(
        &platform,
        "user",
        &format!("FailedScheduling 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. {end}"),
    );
    // Bound, but out of reach; then a new one within reach, whose directory lacks.
    platform.create(&volume).unwrap();
    told(
        &platform,
        "user",
        &format!("FailedScheduling 0/1 nodes are available: 1 node(s) had volume node affinity conflict. {end}"),
    );
    platform.ok(&["delete", "pod", "user"]).unwrap();
    platform.ok(&["delete", "pvc", "by-hand"]).unwrap();
    platform.ok(&["delete", "pv", "by-hand"]).unwrap();
    platform.create(&manifest("node1")).unwrap();
    platform.create(&pod("user", "by-hand", "echo ran")).unwrap();
    let missing = host.path().join("none");
    let text = format!(
        "FailedMount MountVolume.NewMounter initialization failed for volume \"by-hand\" : path \"{}\" does not exist",
        missing.display()
    );
    told(&platform, "user", &text);
    fs::create_dir(&missing).unwrap();
    platform.wait_status("default", "user", "Completed", LIMIT).unwrap();
}
