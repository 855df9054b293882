//! What the stock `kubectl` prints of admission, budgets, quotas and deletion.

use std::time::Duration;

use e2e::Platform;
use e2e::platform::Build;
use e2e::wait;

const LIMIT: Duration = Duration::from_secs(90);

fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: web}}}}\nspec:\n  {more}\n  containers: [{{name: c, image: 'busybox:1.30', command: ['sleep', '1000'], resources: {{requests: {{cpu: 10m}}}}}}]\n"
    )
}

/// What is said of a manifest that is refused.
fn refused(platform: &Platform, manifest: &str) -> String {
    platform.create(manifest).unwrap_err().to_string()
}

#[test]
fn root_kubectl_shows_what_admission_refuses_and_budgets_and_quotas_hold() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start_with("admission", &build, &["--baseline-namespaces"]).unwrap();
    let said = refused(&platform, &pod("x", "serviceAccountName: sa"));
    assert!(
        said.contains(r#"pods "x" is forbidden: error looking up service account default/sa: serviceaccount "sa" not found"#),
        "{said}"
    );
    let said = refused(&platform, &pod("x", "priorityClassName: p"));
    assert!(
        said.contains(r#"pods "x" is forbidden: no PriorityClass with name p was found"#),
        "{said}"
    );

    // A namespace made where the flag is set takes no privileged Pods; the
    // first Pod does not have to wait for its account.
    platform.ok(&["create", "namespace", "team"]).unwrap();
    let manifest = pod("p", "hostNetwork: true").replace("{name: p,", "{name: p, namespace: team,");
    let said = refused(&platform, &manifest);
    assert!(
        said.contains(r#"violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)"#),
        "{said}"
    );

    // A quota counts, refuses, and is freed.
    platform.ok(&["create", "quota", "q", "--hard=pods=2,count/configmaps=10"]).unwrap();
    wait::until("the quota is counted", LIMIT, || {
        let used = platform.ok(&["get", "quota", "q", "-o", "jsonpath={.status.used.pods}"])?;
        Ok(if used == "0" { Ok(()) } else { Err(used) })
    })
    .unwrap();
    for name in ["a", "b"] {
        platform.create(&pod(name, "terminationGracePeriodSeconds: 1")).unwrap();
    }
    let said = refused(&platform, &pod("c", "restartPolicy: Always"));
    assert!(
        said.contains(r#"pods "c" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"#),
        "{said}"
    );

    // A budget of one lets one of two go, and not the other.
    for name in ["a", "b"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    platform
        .ok(&["create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=1"])
        .unwrap();
    wait::until("the budget is counted", LIMIT, || {
        let table = platform.ok(&["get", "pdb", "web", "--no-headers"])?;
        let cells: Vec<&str> = table.split_whitespace().collect();
        Ok(if cells.get(1..4) == Some(&["1", "N/A", "1"][..]) {
            Ok(())
        } else {
            Err(table)
        })
    })
    .unwrap();
    let node = platform
        .ok(&["get", "nodes", "-o", "name"])
        .unwrap()
        .trim()
        .trim_start_matches("node/")
        .to_owned();
    let drained = platform
        .kubectl(&["drain", &node, "--force", "--pod-selector=app=web", "--timeout=8s"])
        .unwrap();
    let said = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(
        said.contains("Cannot evict pod as it would violate the pod's disruption budget."),
        "{said}"
    );
    wait::until("one pod is left", LIMIT, || {
        let left = platform.ok(&["get", "pods", "-o", "name"])?;
        Ok(if left.lines().count() == 1 { Ok(()) } else { Err(left) })
    })
    .unwrap();

    // What belongs to a ConfigMap goes with it, and before it if so asked.
    platform.ok(&["create", "configmap", "owner"]).unwrap();
    let uid = platform.ok(&["get", "cm", "owner", "-o", "jsonpath={.metadata.uid}"]).unwrap();
    platform
        .create(&format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: owned\n  ownerReferences: [{{apiVersion: v1, kind: ConfigMap, name: owner, uid: {uid}, blockOwnerDeletion: true}}]\n"
        ))
        .unwrap();
    platform
        .ok(&["delete", "cm", "owner", "--cascade=foreground", "--timeout=60s"])
        .unwrap();
    assert!(platform.get("default", "secret", "owned").unwrap().is_none());
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
