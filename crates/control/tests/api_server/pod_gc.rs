//! Pods nobody will look after any more are collected.

use control::pod_gc::Options;

use super::*;

/// Keeps a deleted pod in sight until the test lets it go.
const HELD: &str = "example.com/seen";

fn soon(ended_max: usize) -> Options {
    Options {
        ended_max,
        look_every: Duration::from_millis(50),
        quarantine: Duration::from_millis(300),
    }
}

impl Cluster {
    async fn held_pod(&self, name: &str, node: Option<&str>) -> Pod {
        let pod = json!({
            "metadata": { "name": name, "finalizers": [HELD] },
            "spec": { "nodeName": node, "schedulerName": "nobody", "containers": [{ "name": "c", "image": "busybox" }] },
        });
        let pod = serde_json::from_value(pod).unwrap();
        self.pods("default").create(&PostParams::default(), &pod).await.unwrap()
    }

    async fn let_go(&self, name: &str) {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": [] } }));
        self.pods("default").patch(name, &PatchParams::default(), &patch).await.unwrap();
        self.until_gone(self.pods("default"), name).await;
    }

    async fn ended(&self, name: &str) {
        let patch = Patch::Merge(json!({ "status": { "phase": "Failed" } }));
        let patched = self.pods("default").patch_status(name, &PatchParams::default(), &patch).await;
        patched.unwrap();
    }
}

fn failed(pod: &Pod) -> bool {
    api::pods::is_terminating(pod) && api::pods::phase(pod) == "Failed"
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_node_that_is_gone_are_failed_and_deleted() {
    let cluster = Cluster::start_with(soon(0)).await;
    cluster.node("n1", "4").await;
    cluster.node("n2", "4").await;
    cluster.held_pod("orphan", Some("n1")).await;
    cluster.held_pod("other", Some("n2")).await;
    let nodes = Api::<Node>::all(cluster.admin.clone());
    nodes.delete("n1", &DeleteParams::default()).await.unwrap();
    let orphan = cluster.until(cluster.pods("default"), "orphan", failed).await;
    let target = api::pods::condition(&orphan, "DisruptionTarget").unwrap();
    assert_eq!(
        (target.status.as_str(), target.reason.as_deref(), target.message.as_deref()),
        ("True", Some("DeletionByPodGC"), Some("PodGC: node no longer exists"))
    );
    assert_eq!(orphan.metadata.deletion_grace_period_seconds, Some(0));
    let other = cluster.pods("default").get("other").await.unwrap();
    assert!(!api::pods::is_terminating(&other), "its node is there");
    cluster.let_go("orphan").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_deleted_before_a_node_had_them_are_failed() {
    let cluster = Cluster::start_with(soon(0)).await;
    cluster.held_pod("early", None).await;
    cluster.held_pod("waits", None).await;
    cluster.pods("default").delete("early", &DeleteParams::default()).await.unwrap();
    let early = cluster.until(cluster.pods("default"), "early", failed).await;
    assert!(api::pods::condition(&early, "DisruptionTarget").is_none());
    let waits = cluster.pods("default").get("waits").await.unwrap();
    assert!(!api::pods::is_terminating(&waits) && api::pods::phase(&waits) == "Pending");
    cluster.let_go("early").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_ended_pods_the_oldest_go() {
    let cluster = Cluster::start_with(soon(2)).await;
    cluster.node("n1", "4").await;
    for name in ["a", "b", "c", "d", "runs"] {
        cluster.held_pod(name, Some("n1")).await;
    }
    for name in ["a", "b", "c", "d"] {
        cluster.ended(name).await;
    }
    for name in ["a", "b"] {
        cluster.until(cluster.pods("default"), name, failed).await;
        cluster.let_go(name).await;
    }
    // A whole look later: two are left, and two may be left.
    cluster.held_pod("mark", None).await;
    cluster.pods("default").delete("mark", &DeleteParams::default()).await.unwrap();
    cluster.until(cluster.pods("default"), "mark", failed).await;
    for name in ["c", "d", "runs"] {
        let pod = cluster.pods("default").get(name).await.unwrap();
        assert!(!api::pods::is_terminating(&pod), "{name}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminating_pods_of_a_node_out_of_service_are_failed() {
    let cluster = Cluster::start_with(soon(0)).await;
    cluster.node("n1", "4").await;
    cluster.held_pod("stuck", Some("n1")).await;
    cluster.pods("default").delete("stuck", &DeleteParams::default()).await.unwrap();
    let stuck = cluster.pods("default").get("stuck").await.unwrap();
    assert!(api::pods::is_terminating(&stuck) && !failed(&stuck));
    let taint = json!({ "key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute" });
    let patch = Patch::Strategic(json!({ "spec": { "taints": [taint] } }));
    let nodes = Api::<Node>::all(cluster.admin.clone());
    nodes.patch("n1", &PatchParams::default(), &patch).await.unwrap();
    cluster.until(cluster.pods("default"), "stuck", failed).await;
    cluster.let_go("stuck").await;
    cluster.stop().await;
}
