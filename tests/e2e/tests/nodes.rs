//! A node nobody hears of, and what becomes of its pods.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn pod(name: &str, seconds: u32) -> String {
    let toleration =
        |key: &str| format!("{{key: node.kubernetes.io/{key}, operator: Exists, effect: NoExecute, tolerationSeconds: {seconds}}}");
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: ghost\n  tolerations: [{}, {}]\n  containers: [{{name: c, image: 'busybox:1.30'}}]\n",
        toleration("not-ready"),
        toleration("unreachable")
    )
}

/// Fields: spec.tolerations spec.tolerations[].key spec.tolerations[].operator spec.tolerations[].effect spec.tolerations[].tolerationSeconds spec.nodeName
#[test]
fn root_a_node_that_never_tells_of_itself_is_tainted_and_its_pods_are_evicted() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("nodes", &build).unwrap();
    platform.create("apiVersion: v1\nkind: Node\nmetadata: {name: ghost}\n").unwrap();
    platform.create(&pod("patient", 3600)).unwrap();
    platform.create(&pod("hasty", 1)).unwrap();
    let ghost = wait::until("the lost node's taints", LIMIT, || {
        let node = platform.get("default", "node", "ghost")?.unwrap_or_default();
        Ok(if node["spec"]["taints"].is_array() {
            Ok(node)
        } else {
            Err(node["status"].to_string())
        })
    })
    .unwrap();
    let taints: Vec<_> = ghost["spec"]["taints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| format!("{}:{}", t["key"].as_str().unwrap(), t["effect"].as_str().unwrap()))
        .collect();
    assert!(
        taints.contains(&"node.kubernetes.io/unreachable:NoExecute".to_owned())
            && taints.contains(&"node.kubernetes.io/unreachable:NoSchedule".to_owned()),
        "{taints:?}"
    );
    let ready = ghost["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Ready")
        .unwrap()
        .clone();
    assert_eq!(
        (&ready["status"], &ready["reason"]),
        (&"Unknown".into(), &"NodeStatusNeverUpdated".into())
    );
    let text = platform.ok(&["get", "nodes", "--no-headers"]).unwrap();
    assert!(
        text.lines().any(|line| line.starts_with("ghost") && line.contains("NotReady")),
        "{text}"
    );

    let hasty = platform
        .wait_pod("default", "hasty", "deletion", LIMIT, |pod| {
            pod["metadata"]["deletionTimestamp"].is_string().then(|| pod.clone())
        })
        .unwrap();
    let target = hasty["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .cloned()
        .unwrap_or(Value::Null);
    assert_eq!(
        (&target["reason"], &target["message"]),
        (
            &"DeletionByTaintManager".into(),
            &"Taint manager: deleting due to NoExecute taint".into()
        )
    );
    // Nobody is there to confirm it.
    platform.wait_status("default", "hasty", "Terminating", LIMIT).unwrap();
    let patient = platform.get("default", "pod", "patient").unwrap().unwrap();
    assert!(patient["metadata"]["deletionTimestamp"].is_null(), "{patient}");
    let events = platform
        .ok(&[
            "get",
            "events",
            "-o",
            "jsonpath={range .items[*]}{.source.component} {.reason}|{.message}{\"\\n\"}{end}",
        ])
        .unwrap();
    assert!(
        events.contains("taint-eviction-controller TaintManagerEviction|Marking for deletion Pod default/hasty"),
        "{events}"
    );
    // The node that is there has no taints and takes pods.
    let node1 = platform.get("default", "node", "node1").unwrap().unwrap();
    assert!(node1["spec"]["taints"].is_null(), "{}", node1["spec"]);
    // Cordoned, it is tainted; uncordoned, it is not.
    platform.ok(&["cordon", "node1"]).unwrap();
    let tainted = |wanted: bool| {
        wait::until("the taint of a cordoned node", LIMIT, || {
            let node = platform.get("default", "node", "node1")?.unwrap_or_default();
            let has = node["spec"]["taints"].to_string().contains("node.kubernetes.io/unschedulable");
            Ok(if has == wanted { Ok(()) } else { Err(node["spec"].to_string()) })
        })
        .unwrap();
    };
    tainted(true);
    platform.ok(&["uncordon", "node1"]).unwrap();
    tainted(false);
    its_end_is_that_of_its_pods(&platform);
}

/// The events of its coming and going, and what becomes of who was left there.
fn its_end_is_that_of_its_pods(platform: &Platform) {
    let told = |wanted: &str| {
        wait::until(&format!("the event {wanted:?}"), LIMIT, || {
            let columns = "jsonpath={range .items[*]}{.source.component} {.reason}|{.message}{\"\\n\"}{end}";
            let seen = platform.ok(&["get", "events", "-n", "default", "-o", columns])?;
            Ok(if seen.contains(wanted) { Ok(()) } else { Err(seen) })
        })
        .unwrap();
    };
    told("kubelet NodeNotSchedulable|Node node1 status is now: NodeNotSchedulable");
    told("kubelet NodeSchedulable|Node node1 status is now: NodeSchedulable");
    told("node-controller RegisteredNode|Node ghost event: Registered Node ghost in Controller");
    // Once the lost node is gone for good, so are its pods.
    platform.ok(&["delete", "node", "ghost"]).unwrap();
    told("node-controller RemovingNode|Node ghost event: Removing Node ghost from Controller");
    for name in ["hasty", "patient"] {
        wait::until(&format!("pod {name} to be collected"), LIMIT, || {
            Ok(platform
                .get("default", "pod", name)?
                .map_or(Ok(()), |pod| Err(pod["status"].to_string())))
        })
        .unwrap();
    }
}
