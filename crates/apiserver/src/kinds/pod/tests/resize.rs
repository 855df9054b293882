//! What may change by the `resize` subresource.

use super::*;

fn running(resources: &Value, more: Value) -> Object {
    let mut container = container(more);
    container["resources"] = resources.clone();
    let mut pod = pod(json!({ "containers": [container] }));
    pod.body.insert(
        "status".to_owned(),
        json!({ "phase": "Running", "containerStatuses": [{
            "name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": {} }, "resources": resources,
        }] }),
    );
    pod
}

#[track_caller]
fn resized(resources: &Value, more: Value, becomes: &Value) -> Vec<String> {
    let old = running(resources, more);
    let mut new = old.clone();
    new.body["spec"]["containers"][0]["resources"] = becomes.clone();
    Pod.default(&mut new);
    said(&Pod.validate(&new, Some(&old), Rules::UpdateResize))
}

/// Fields: spec.containers[].resizePolicy spec.containers[].resources.requests spec.containers[].resources.limits
#[test]
fn the_words_of_refused_resizes() {
    let has = json!({ "requests": { "cpu": "100m", "memory": "1Gi" }, "limits": { "memory": "2Gi" } });
    let said = |becomes: Value| resized(&has, json!({}), &becomes);
    let none: [&str; 0] = [];
    let more = json!({ "requests": { "cpu": "2", "memory": "1Gi" }, "limits": { "memory": "3Gi", "cpu": "4" } });
    assert_eq!(said(more), none);
    assert_eq!(
        said(json!({ "requests": { "cpu": "100m" }, "limits": { "memory": "2Gi" } }))[..],
        none,
        "the limit is the request then"
    );
    assert_eq!(
        said(json!({ "requests": { "memory": "1Gi" } })),
        [
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            "spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed",
        ]
    );
    assert_eq!(
        said(json!({ "requests": { "cpu": "100m", "memory": "1Gi" }, "limits": { "memory": "1Gi" } })),
        [
            "spec.containers[0].resources.limits[memory]: Forbidden: memory limits cannot be decreased unless resizePolicy is RestartContainer"
        ]
    );
    assert_eq!(
        said(json!({ "requests": { "cpu": "1", "memory": "2Gi" }, "limits": { "memory": "2Gi", "cpu": "1" } })),
        [r#"spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing"#]
    );
    assert_eq!(
        said(json!({ "requests": { "cpu": "100m", "memory": "1Gi", "ephemeral-storage": "1Gi" }, "limits": { "memory": "2Gi" } })),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
}

#[test]
fn memory_shrinks_where_a_restart_is_allowed() {
    let has = json!({ "requests": { "memory": "1Gi" }, "limits": { "memory": "2Gi" } });
    let restarts = json!({ "resizePolicy": [{ "resourceName": "memory", "restartPolicy": "RestartContainer" }] });
    let less = json!({ "requests": { "memory": "512Mi" }, "limits": { "memory": "1Gi" } });
    assert_eq!(resized(&has, restarts, &less), Vec::<String>::new());
}

#[test]
fn a_node_that_does_not_tell_resources_cannot_change_them() {
    let has = json!({ "requests": { "cpu": "1" } });
    let mut old = running(&has, json!({}));
    let status = &mut old.body["status"]["containerStatuses"][0];
    status.as_object_mut().unwrap().remove("resources");
    let mut new = old.clone();
    new.body["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    assert_eq!(
        said(&Pod.validate(&new, Some(&old), Rules::UpdateResize)),
        ["spec: Forbidden: Pod running on node without support for resize"]
    );
}

#[test]
fn resources_change_in_no_other_way() {
    let has = json!({ "requests": { "cpu": "1" } });
    let old = running(&has, json!({}));
    let mut new = old.clone();
    new.body["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("2");
    let said = updated(&new, &old);
    assert!(
        said.len() == 1 && said[0].contains("pod updates may not change fields other than"),
        "{said:?}"
    );
}
