//! Controllers that follow from what the API server admits: budgets, quotas,
//! garbage.

use api::typed::policy::PodDisruptionBudget;
use api::typed::{OwnerReference, ResourceQuota, Secret};
use kube::ResourceExt;
use kube::api::PropagationPolicy;

use super::*;

impl Cluster {
    async fn secret(&self, name: &str, owners: &[OwnerReference]) -> Secret {
        self.create(json!({ "metadata": { "name": name, "ownerReferences": owners } }))
            .await
    }

    /// A pod with a label, on a node, ready.
    async fn ready_pod(&self, name: &str) {
        let pod = json!({
            "metadata": { "name": name, "labels": { "app": "web" } },
            "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "busybox", "resources": { "requests": { "cpu": "1" } } }] },
        });
        self.create::<Pod>(pod).await;
        let status = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        self.api::<Pod>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }
}

fn owner(of: &ConfigMap, blocks: bool) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        name: of.name_any(),
        uid: of.uid().unwrap(),
        block_owner_deletion: Some(blocks),
        controller: None,
    }
}

fn policy(policy: PropagationPolicy) -> DeleteParams {
    DeleteParams {
        propagation_policy: Some(policy),
        ..DeleteParams::default()
    }
}

#[tokio::test]
async fn a_budget_counts_its_pods_and_evictions_stop_where_it_ends() {
    let cluster = Cluster::start().await;
    for name in ["a", "b"] {
        cluster.ready_pod(name).await;
    }
    let spec = json!({ "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } });
    cluster
        .create::<PodDisruptionBudget>(json!({ "metadata": { "name": "pdb" }, "spec": spec }))
        .await;
    let budgets = cluster.api::<PodDisruptionBudget>();
    let allowed = |count: i32| {
        move |budget: &PodDisruptionBudget| {
            budget
                .status
                .as_ref()
                .is_some_and(|status| status.disruptions_allowed == count && status.expected_pods > 0)
        }
    };
    cluster.until(budgets.clone(), "pdb", allowed(1)).await;
    let pods = cluster.api::<Pod>();
    pods.evict("a", &kube::api::EvictParams::default()).await.unwrap();
    let refused = pods.evict("b", &kube::api::EvictParams::default()).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 429 && status.message == "Cannot evict pod as it would violate the pod's disruption budget."),
        "{refused}"
    );
    // The node lets the first go; one pod is left, and none may be disrupted.
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.unwrap();
    let after = cluster
        .until(budgets.clone(), "pdb", |budget| {
            budget
                .status
                .as_ref()
                .is_some_and(|status| status.expected_pods == 1 && status.disrupted_pods.is_none())
        })
        .await;
    assert_eq!(after.status.unwrap().disruptions_allowed, 0);
    cluster.ready_pod("c").await;
    cluster.until(budgets, "pdb", allowed(1)).await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_quota_is_counted_charged_and_freed() {
    let cluster = Cluster::start().await;
    cluster.ready_pod("before").await;
    let hard = json!({ "pods": "2", "requests.cpu": "2", "count/configmaps": "5" });
    cluster
        .create::<ResourceQuota>(json!({ "metadata": { "name": "q" }, "spec": { "hard": hard } }))
        .await;
    let quotas = cluster.api::<ResourceQuota>();
    let used = |name: &'static str, amount: &'static str| {
        move |quota: &ResourceQuota| {
            let used = quota.status.as_ref().and_then(|status| status.used.as_ref());
            used.and_then(|used| used.get(name)).is_some_and(|found| found.0 == amount)
        }
    };
    cluster.until(quotas.clone(), "q", used("requests.cpu", "1")).await;
    cluster.ready_pod("second").await;
    let third = json!({
        "metadata": { "name": "third" },
        "spec": { "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": "1" } } }] },
    });
    let third: Pod = serde_json::from_value(third).unwrap();
    let refused = cluster.api::<Pod>().create(&PostParams::default(), &third).await.unwrap_err();
    assert!(
        matches!(&refused, kube::Error::Api(status) if status.code == 403
            && status.message == "pods \"third\" is forbidden: exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=2,requests.cpu=2, limited: pods=2,requests.cpu=2"),
        "{refused}"
    );
    // What has ended uses nothing, and so does what was deleted.
    let ended = json!({ "status": { "phase": "Succeeded" } });
    cluster
        .api::<Pod>()
        .patch_status("before", &PatchParams::default(), &Patch::Merge(ended))
        .await
        .unwrap();
    cluster.until(quotas.clone(), "q", used("pods", "1")).await;
    cluster.api::<Pod>().create(&PostParams::default(), &third).await.unwrap();
    cluster
        .api::<Pod>()
        .delete("third", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    cluster.until(quotas, "q", used("pods", "1")).await;
    cluster.stop().await;
}

#[tokio::test]
async fn what_belongs_to_nobody_goes() {
    let cluster = Cluster::start().await;
    let maps = cluster.api::<ConfigMap>();
    let one = cluster.create::<ConfigMap>(json!({ "metadata": { "name": "one" } })).await;
    let other = cluster.create::<ConfigMap>(json!({ "metadata": { "name": "other" } })).await;
    cluster.secret("both", &[owner(&one, false), owner(&other, false)]).await;
    cluster.secret("alone", &[owner(&one, false)]).await;
    let mut wrong = owner(&other, false);
    wrong.uid = "another of that name".to_owned();
    cluster.secret("wrong", &[wrong]).await;
    let secrets = cluster.api::<Secret>();
    cluster.until_gone(secrets.clone(), "wrong").await;
    maps.delete("one", &policy(PropagationPolicy::Background)).await.unwrap();
    cluster.until_gone(secrets.clone(), "alone").await;
    let both = cluster
        .until(secrets.clone(), "both", |secret: &Secret| secret.owner_references().len() == 1)
        .await;
    assert_eq!(both.owner_references()[0].uid, other.uid().unwrap());
    maps.delete("other", &policy(PropagationPolicy::Orphan)).await.unwrap();
    cluster.until_gone(maps, "other").await;
    let orphan = cluster
        .until(secrets, "both", |secret: &Secret| secret.owner_references().is_empty())
        .await;
    assert!(orphan.metadata.deletion_timestamp.is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn an_owner_deleted_in_the_foreground_goes_last() {
    let cluster = Cluster::start().await;
    let maps = cluster.api::<ConfigMap>();
    let one = cluster.create::<ConfigMap>(json!({ "metadata": { "name": "one" } })).await;
    let held: Secret = serde_json::from_value(json!({
        "metadata": { "name": "held", "ownerReferences": [owner(&one, true)], "finalizers": ["example.com/hold"] },
    }))
    .unwrap();
    let secrets = cluster.api::<Secret>();
    secrets.create(&PostParams::default(), &held).await.unwrap();
    cluster.secret("free", &[owner(&one, true)]).await;
    maps.delete("one", &policy(PropagationPolicy::Foreground)).await.unwrap();
    cluster.until_gone(secrets.clone(), "free").await;
    cluster
        .until(secrets.clone(), "held", |secret: &Secret| {
            secret.metadata.deletion_timestamp.is_some()
        })
        .await;
    let waiting = maps.get("one").await.unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"], "it waits for what holds it up");
    let release = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    secrets.patch("held", &PatchParams::default(), &release).await.unwrap();
    cluster.until_gone(maps, "one").await;
    cluster.stop().await;
}

#[tokio::test]
async fn many_deletes_at_once_leave_nothing_behind() {
    let mut cluster = Cluster::start().await;
    let maps = cluster.api::<ConfigMap>();
    let mut policies = [PropagationPolicy::Background, PropagationPolicy::Foreground].into_iter().cycle();
    let mut all = Vec::new();
    for index in 0..20 {
        let name = format!("owner-{index}");
        let made = cluster.create::<ConfigMap>(json!({ "metadata": { "name": name } })).await;
        for dependent in 0..3 {
            cluster
                .secret(&format!("{name}-{dependent}"), &[owner(&made, dependent % 2 == 0)])
                .await;
        }
        all.push((name, policies.next().unwrap()));
    }
    let deletes = all.iter().map(|(name, how)| {
        let (maps, params) = (maps.clone(), policy(how.clone()));
        async move { maps.delete(name, &params).await.map(drop) }
    });
    let (outcomes, ()) = tokio::join!(futures::future::join_all(deletes), async {
        // Controllers that begin anew in the middle of it go on.
        cluster.pause().await;
    });
    assert!(outcomes.iter().all(Result::is_ok));
    cluster.resume();
    let secrets = cluster.api::<Secret>();
    for (name, _) in &all {
        cluster.until_gone(maps.clone(), name).await;
        for dependent in 0..3 {
            cluster.until_gone(secrets.clone(), &format!("{name}-{dependent}")).await;
        }
    }
    cluster.stop().await;
}
