use serde_json::json;

use crate::testing::Rig;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn binding(pod: &str, node: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod, "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": node}})
}

#[tokio::test]
async fn a_binding_gives_a_pod_its_node_once() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let bound = rig.post(&format!("{PODS}/a/binding"), &binding("a", "n1")).await;
    assert_eq!((bound.code, bound.json()["status"].as_str().unwrap()), (201, "Success"));
    let pod = rig.get(&format!("{PODS}/a")).await.json();
    assert_eq!(
        (&pod["spec"]["nodeName"], &pod["metadata"]["annotations"]["a"]),
        (&json!("n1"), &json!("b"))
    );
    assert_eq!(pod["metadata"]["generation"], 1);
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": "2027-01-15T08:00:00Z", "observedGeneration": 1});
    assert!(
        pod["status"]["conditions"].as_array().unwrap().contains(&condition),
        "{}",
        pod["status"]
    );
    let again = rig.post(&format!("{PODS}/a/binding"), &binding("a", "n2")).await;
    assert_eq!(
        again.brief(),
        "409 Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"n1\""
    );
}

#[tokio::test]
async fn a_binding_that_makes_no_sense_is_refused() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let path = format!("{PODS}/a/binding");
    assert_eq!(rig.post(&path, &binding("b", "n1")).await.code, 400);
    assert_eq!(rig.post(&path, &binding("a", "")).await.code, 422);
    let mut elsewhere = binding("a", "n1");
    elsewhere["target"]["kind"] = json!("Moon");
    assert_eq!(rig.post(&path, &elsewhere).await.code, 422);
    let mut stranger = binding("a", "n1");
    stranger["metadata"]["uid"] = json!("other");
    assert_eq!(rig.post(&path, &stranger).await.code, 409);
    assert_eq!(rig.post(&format!("{PODS}/none/binding"), &binding("none", "n1")).await.code, 404);
    assert_eq!(rig.get(&path).await.code, 405);
    assert_eq!(rig.post("/api/v1/namespaces/default/bindings", &binding("a", "n1")).await.code, 201);
    assert_eq!(rig.get(&format!("{PODS}/a")).await.json()["spec"]["nodeName"], "n1");
}

#[tokio::test]
async fn logs_come_from_the_pod_s_node() {
    let rig = Rig::new().await;
    rig.pod("a", Some("n1")).await;
    let answer = rig
        .get(&format!(
            "{PODS}/a/log?follow=true&tailLines=5&timestamps=true&previous=false&sinceSeconds=3&limitBytes=9"
        ))
        .await;
    assert_eq!(
        answer.text,
        "n1 /containerLogs/default/a/c?tailLines=5&sinceSeconds=3&limitBytes=9&follow=true&timestamps=true"
    );
    assert_eq!(answer.headers["content-type"], "text/plain");
    assert_eq!(
        rig.get(&format!("{PODS}/a/log?container=x")).await.brief(),
        "400 container x is not valid for pod a"
    );
    assert_eq!(rig.get(&format!("{PODS}/a/log?tailLines=-1")).await.code, 422);
    assert_eq!(rig.get(&format!("{PODS}/a/log?limitBytes=0")).await.code, 422);
    assert_eq!(rig.get(&format!("{PODS}/none/log")).await.code, 404);
    rig.pod("waiting", None).await;
    let nothing = rig.get(&format!("{PODS}/waiting/log")).await;
    assert_eq!((nothing.code, nothing.text.len()), (200, 0));
    rig.pod("lost", Some("gone")).await;
    assert_eq!(
        rig.get(&format!("{PODS}/lost/log")).await.brief(),
        "503 node gone cannot be reached"
    );
}

#[tokio::test]
async fn the_container_of_a_log_must_be_clear() {
    let rig = Rig::new().await;
    let container = |name: &str| json!({"name": name, "image": "i"});
    let mut pod = crate::testing::pod("two");
    pod["spec"] = json!({"nodeName": "n1", "containers": [container("a"), container("b")], "initContainers": [container("i")]});
    assert_eq!(rig.post(PODS, &pod).await.code, 201);
    assert_eq!(
        rig.get(&format!("{PODS}/two/log")).await.brief(),
        "400 a container name must be specified for pod two, choose one of: [a b] or one of the init containers: [i]"
    );
    assert_eq!(
        rig.get(&format!("{PODS}/two/log?container=i")).await.text,
        "n1 /containerLogs/default/two/i"
    );
    pod["metadata"] = json!({"name": "annotated", "annotations": {"kubectl.kubernetes.io/default-container": "b"}});
    assert_eq!(rig.post(PODS, &pod).await.code, 201);
    assert_eq!(
        rig.get(&format!("{PODS}/annotated/log")).await.text,
        "n1 /containerLogs/default/annotated/b"
    );
    pod["metadata"] = json!({"name": "failing"});
    pod["spec"]["containers"] = json!([container("failing")]);
    assert_eq!(rig.post(PODS, &pod).await.code, 201);
    assert_eq!(
        rig.get(&format!("{PODS}/failing/log")).await.brief(),
        "400 container \"failing\" in pod \"p\" is waiting to start: ContainerCreating"
    );
}

#[tokio::test]
async fn ephemeral_containers_are_added_and_stay() {
    let rig = Rig::new().await;
    rig.pod("a", Some("n1")).await;
    let path = format!("{PODS}/a/ephemeralcontainers");
    let add =
        |name: &str, image: &str| json!({"spec": {"ephemeralContainers": [{"name": name, "image": image, "targetContainerName": "c"}]}});
    let patch = "strategic-merge-patch";
    let mut first = add("debugger", "busybox:1.30");
    first["metadata"] = json!({"labels": {"not": "taken"}});
    first["spec"]["activeDeadlineSeconds"] = json!(5);
    let pod = rig.patch(&path, patch, &first).await;
    assert_eq!(pod.code, 200, "{}", pod.brief());
    let spec = pod.json()["spec"].clone();
    let expected = json!([{
        "name": "debugger", "image": "busybox:1.30", "targetContainerName": "c", "imagePullPolicy": "IfNotPresent", "resources": {},
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    }]);
    assert_eq!(
        (&spec["ephemeralContainers"], &spec["activeDeadlineSeconds"]),
        (&expected, &json!(null))
    );
    assert_eq!(
        (&pod.json()["metadata"]["generation"], &pod.json()["metadata"]["labels"]),
        (&json!(2), &json!(null))
    );
    assert_eq!(
        rig.patch(&path, patch, &add("second", "busybox:1.30")).await.json()["spec"]["ephemeralContainers"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    let refused = [
        (
            json!({"spec": {"ephemeralContainers": [{"name": "x", "image": "i", "ports": [{"containerPort": 1}]}]}}),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "x", "image": "i", "restartPolicy": "Always"}]}}),
            "spec.ephemeralContainers[0].restartPolicy: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "x", "image": "i", "targetContainerName": "nobody"}]}}),
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"nobody\"",
        ),
        (
            add("debugger", "other:1"),
            "existing ephemeral containers \"debugger\" may not be changed\n- spec.ephemeralContainers.image: \"busybox:1.30\"\n+ spec.ephemeralContainers.image: \"other:1\"",
        ),
        (
            json!({"spec": {"ephemeralContainers": [{"name": "debugger", "$patch": "delete"}]}}),
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may not be removed\n",
        ),
    ];
    for (body, words) in refused {
        let answer = rig.patch(&path, patch, &body).await;
        assert!(
            answer.code == 422 && answer.json()["message"].as_str().unwrap().contains(words),
            "{words} in {}",
            answer.brief()
        );
    }
    // Through the pod itself they cannot be touched.
    let answer = rig.patch(&format!("{PODS}/a"), patch, &add("third", "busybox:1.30")).await;
    assert!(
        answer.code == 422 && answer.brief().contains("pod updates may not change fields other than"),
        "{}",
        answer.brief()
    );
    let whole = rig.get(&path).await.json();
    assert_eq!(whole["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    let mut put = whole.clone();
    put["spec"]["ephemeralContainers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "third", "image": "busybox:1.30"}));
    put["spec"]["hostname"] = json!("ignored");
    let answer = rig.put(&path, &put).await.json();
    assert_eq!(
        (
            answer["spec"]["ephemeralContainers"].as_array().unwrap().len(),
            &answer["spec"]["hostname"]
        ),
        (3, &json!(null))
    );
}
