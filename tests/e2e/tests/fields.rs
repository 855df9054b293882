//! What becomes of a Pod's own fields, through the stock `kubectl`: its
//! metadata, where it may go, its last words, its status.

use std::fs;
use std::time::Duration;

use e2e::Platform;
use e2e::platform::{Build, restarts};
use e2e::wait;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

/// A pod named in `metadata`, with these fields in its `spec` and in its
/// container's.
fn pod(metadata: &str, spec: &str, container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{{metadata}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{spec}  containers:\n  - name: c\n    image: busybox:1.30\n{container}"
    )
}

fn sleeper(name: &str, spec: &str) -> String {
    pod(&format!("name: {name}"), spec, "    command: [sleep, '3600']\n")
}

fn got(platform: &Platform, name: &str) -> Value {
    platform.get("default", "pod", name).unwrap().unwrap_or_default()
}

fn condition(pod: &Value, kind: &str) -> Value {
    let list = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// What is said of a manifest that is refused.
fn refused(platform: &Platform, manifest: &str) -> String {
    format!("{:#}", platform.create(manifest).unwrap_err())
}

/// Seconds since the epoch of a time on the wire.
fn seconds(time: &Value) -> u64 {
    let text = time.as_str().unwrap_or_default();
    let output = std::process::Command::new("date").args(["-u", "-d", text, "+%s"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_default()
}

fn now_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Sends a body as it is to the API.
fn post(platform: &Platform, path: &str, body: &str) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), body).unwrap();
    let answer = platform
        .kubectl(&["create", "--raw", path, "-f", &file.path().to_string_lossy()])
        .unwrap();
    let said = String::from_utf8_lossy(&answer.stderr).into_owned() + &String::from_utf8_lossy(&answer.stdout);
    (answer.status.success(), said)
}

/// Fields: apiVersion kind metadata metadata.name metadata.namespace metadata.generateName
/// Fields: metadata.creationTimestamp metadata.uid metadata.resourceVersion metadata.generation metadata.managedFields.*
/// Fields: metadata.deletionGracePeriodSeconds metadata.deletionTimestamp metadata.finalizers
/// Fields: status.observedGeneration status.conditions[].observedGeneration
#[test]
fn root_what_a_pod_is_called_and_who_wrote_what() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("metadata", &build).unwrap();
    let pods = "/api/v1/namespaces/default/pods";
    let body = |head: &str, meta: &str| {
        format!(
            "{{{head}, \"metadata\": {{{meta}}}, \"spec\": {{\"containers\": [{{\"name\": \"c\", \"image\": \"busybox:1.30\", \"command\": [\"sleep\", \"3600\"]}}]}}}}"
        )
    };
    let right = r#""apiVersion": "v1", "kind": "Pod""#;
    for (head, meta, said) in [
        (
            r#""apiVersion": "v2", "kind": "Pod""#,
            r#""name": "x""#,
            "(v2) does not match the expected",
        ),
        (
            r#""apiVersion": "v1", "kind": "Secret""#,
            r#""name": "x""#,
            "the kind in the data (Secret) does not match the expected kind (Pod)",
        ),
        (right, r#""labels": {}"#, "name or generateName is required"),
        (right, r#""name": "Not_A_Name""#, "metadata.name: Invalid value"),
        (
            right,
            r#""name": "x", "namespace": "elsewhere""#,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
    ] {
        let (created, answer) = post(&platform, pods, &body(head, meta));
        assert!(!created && answer.contains(said), "{said}\n{answer}");
    }
    let (created, answer) = post(&platform, pods, &body(right, r#""generateName": "many-""#));
    assert!(created, "{answer}");
    let many: Value = serde_json::from_str(&answer).unwrap();
    let name = many["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("many-") && name.len() == 10, "{name}");

    platform
        .create(&sleeper("held", "").replace("{name: held}", "{name: held, finalizers: [example.org/wait]}"))
        .unwrap();
    let made = got(&platform, "held");
    let meta = &made["metadata"];
    assert_eq!((&meta["name"], &meta["namespace"]), (&"held".into(), &"default".into()));
    assert_ne!(meta["uid"], many["metadata"]["uid"]);
    assert!(seconds(&meta["creationTimestamp"]).abs_diff(now_seconds()) < 60, "{meta}");
    platform.wait_status("default", "held", "Running", LIMIT).unwrap();
    platform
        .ok(&["patch", "pod", "held", "-p", r#"{"spec": {"activeDeadlineSeconds": 3000}}"#])
        .unwrap();
    let changed = got(&platform, "held");
    let revision = |pod: &Value| pod["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&changed) > revision(&made));
    // One for its creation, one for the change of what it should be; the
    // kubelet's statuses are none.
    assert_eq!((&meta["generation"], &changed["metadata"]["generation"]), (&1.into(), &2.into()));
    platform
        .wait_pod("default", "held", "its status is about the change", LIMIT, |pod| {
            let conditions = pod["status"]["conditions"].as_array()?;
            let all = conditions.iter().all(|condition| condition["observedGeneration"] == 2);
            (all && conditions.len() == 5 && pod["status"]["observedGeneration"] == 2).then_some(())
        })
        .unwrap();
    let shown = platform.ok(&["get", "pod", "held", "-o", "json", "--show-managed-fields"]).unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let writers = shown["metadata"]["managedFields"].as_array().unwrap();
    let wrote = |manager: &str, subresource: &Value, field: &str| {
        let writer = writers
            .iter()
            .find(|writer| writer["manager"] == manager && writer["subresource"] == *subresource)
            .unwrap_or_else(|| panic!("{manager} wrote nothing: {writers:#?}"));
        assert_eq!(
            (&writer["apiVersion"], &writer["operation"], &writer["fieldsType"]),
            (&"v1".into(), &"Update".into(), &"FieldsV1".into())
        );
        assert!(seconds(&writer["time"]).abs_diff(now_seconds()) < 60, "{writer}");
        assert!(writer["fieldsV1"].to_string().contains(field), "{field} of {writer}");
    };
    wrote("kubectl-create", &Value::Null, "f:finalizers");
    wrote("kubectl-patch", &Value::Null, "f:activeDeadlineSeconds");
    wrote("kubelet", &"status".into(), "f:phase");

    // It ends on its node and stays until who wanted it kept lets it go.
    platform.ok(&["delete", "pod", "held", "--grace-period=7", "--wait=false"]).unwrap();
    let going = got(&platform, "held");
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 7);
    let going = platform
        .wait_pod("default", "held", "its end", LIMIT, |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })
        .unwrap();
    let until = seconds(&going["metadata"]["deletionTimestamp"]);
    assert!(until.abs_diff(now_seconds()) < 60, "{going}");
    assert_eq!(going["metadata"]["finalizers"], serde_json::json!(["example.org/wait"]));
    platform
        .ok(&["patch", "pod", "held", "-p", r#"{"metadata": {"finalizers": null}}"#])
        .unwrap();
    wait::until("the pod to be gone", LIMIT, || {
        Ok(platform.get("default", "pod", "held")?.map_or(Ok(()), |pod| Err(pod.to_string())))
    })
    .unwrap();
}

/// A Pod goes with its owner; deleted in the foreground, the owner waits for
/// those that say so.
/// Fields: metadata.ownerReferences.* metadata.labels metadata.annotations
#[test]
fn root_a_pod_goes_with_its_owner() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("owners", &build).unwrap();
    for owner in ["first", "second"] {
        platform.ok(&["create", "configmap", owner]).unwrap();
    }
    let owned = |owner: &str, more: &str| {
        let uid = platform.ok(&["get", "cm", owner, "-o", "jsonpath={.metadata.uid}"]).unwrap();
        format!("{{apiVersion: v1, kind: ConfigMap, name: {owner}, uid: {uid}{more}}}")
    };
    let both = format!(
        "name: x, ownerReferences: [{}, {}]",
        owned("first", ", controller: true"),
        owned("second", ", controller: true")
    );
    let said = refused(&platform, &pod(&both, "", ""));
    assert!(said.contains("Only one reference can have Controller set to true"), "{said}");
    let said = refused(
        &platform,
        &pod(
            "name: x, ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: first, uid: ''}]",
            "",
            "",
        ),
    );
    assert!(
        said.contains("metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"),
        "{said}"
    );

    let of_first = format!(
        "name: of-first, labels: {{tier: back}}, annotations: {{note: kept}}, ownerReferences: [{}]",
        owned("first", ", controller: true")
    );
    platform.create(&pod(&of_first, "", "    command: [sleep, '3600']\n")).unwrap();
    // It takes its time to end.
    let of_second = format!(
        "name: of-second, ownerReferences: [{}]",
        owned("second", ", blockOwnerDeletion: true")
    );
    let hook = "    command: [sleep, '3600']\n    lifecycle: {preStop: {sleep: {seconds: 12}}}\n";
    platform
        .create(&pod(&of_second, "", hook).replace("terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 20"))
        .unwrap();
    for name in ["of-first", "of-second"] {
        platform.wait_status("default", name, "Running", LIMIT).unwrap();
    }
    let described = platform.ok(&["describe", "pod", "of-first"]).unwrap();
    assert!(described.contains("Controlled By:  ConfigMap/first"), "{described}");
    assert_eq!(
        platform
            .ok(&[
                "get",
                "pods",
                "-l",
                "tier=back",
                "-o",
                "jsonpath={.items[*].metadata.annotations.note}"
            ])
            .unwrap(),
        "kept"
    );
    platform.ok(&["delete", "configmap", "first"]).unwrap();
    wait::until("the owned pod to be gone", LIMIT, || {
        Ok(platform
            .get("default", "pod", "of-first")?
            .map_or(Ok(()), |pod| Err(pod["metadata"].to_string())))
    })
    .unwrap();
    platform
        .ok(&["delete", "configmap", "second", "--cascade=foreground", "--wait=false"])
        .unwrap();
    let waits = platform.get("default", "configmap", "second").unwrap().unwrap();
    assert_eq!(
        waits["metadata"]["finalizers"],
        serde_json::json!(["foregroundDeletion"]),
        "{waits}"
    );
    platform
        .wait_pod("default", "of-second", "its deletion", LIMIT, |pod| {
            pod["metadata"]["deletionTimestamp"].is_string().then_some(())
        })
        .unwrap();
    wait::until("owner and owned to be gone", LIMIT, || {
        let (owner, owned) = (
            platform.get("default", "configmap", "second")?,
            platform.get("default", "pod", "of-second")?,
        );
        assert!(owner.is_some() || owned.is_none(), "the owner went first");
        Ok(if owner.is_none() && owned.is_none() {
            Ok(())
        } else {
            Err(format!("{owner:?} {owned:?}"))
        })
    })
    .unwrap();
}

/// Affinity, tolerations, gates, the scheduler's name and priority say where a
/// Pod goes, and when.
/// Fields: spec spec.affinity spec.affinity.nodeAffinity spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.*
/// Fields: spec.tolerations spec.tolerations[].key spec.tolerations[].operator spec.tolerations[].value spec.tolerations[].effect
/// Fields: spec.schedulingGates.* spec.schedulerName spec.priority spec.priorityClassName
/// Fields: status.conditions[].type status.conditions[].status status.conditions[].reason status.conditions[].message
#[test]
fn root_a_pod_goes_only_where_its_fields_allow() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("placement", &build).unwrap();
    platform.ok(&["label", "node", "node1", "zone=a", "cores=8"]).unwrap();
    platform
        .ok(&["taint", "node", "node1", "example.org/only=them:NoSchedule"])
        .unwrap();
    let key = "key: example.org/only";
    let tolerates = |toleration: &str| format!("  tolerations: [{{{toleration}}}]\n");
    let any = tolerates("operator: Exists");
    let affinity = |term: &str| {
        format!("{any}  affinity: {{nodeAffinity: {{requiredDuringSchedulingIgnoredDuringExecution: {{nodeSelectorTerms: [{term}]}}}}}}\n")
    };
    let expression = |key: &str, operator: &str, values: &str| {
        affinity(&format!("{{matchExpressions: [{{key: {key}, operator: {operator}{values}}}]}}"))
    };
    let named = |name: &str| {
        affinity(&format!(
            "{{matchFields: [{{key: metadata.name, operator: In, values: [{name}]}}]}}"
        ))
    };
    let tainted = Some("0/1 nodes are available: 1 node(s) had untolerated taint {example.org/only: them}.");
    let elsewhere = Some("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.");
    let rows = [
        ("intolerant", String::new(), tainted),
        (
            "equal",
            tolerates(&format!("{key}, operator: Equal, value: them, effect: NoSchedule")),
            None,
        ),
        (
            "other-value",
            tolerates(&format!("{key}, operator: Equal, value: others, effect: NoSchedule")),
            tainted,
        ),
        ("other-key", tolerates("key: example.org/just, operator: Exists"), tainted),
        (
            "other-effect",
            tolerates(&format!("{key}, operator: Exists, effect: NoExecute")),
            tainted,
        ),
        ("exists", tolerates(&format!("{key}, operator: Exists")), None),
        ("in", expression("zone", "In", ", values: [b, a]"), None),
        ("not-in", expression("zone", "NotIn", ", values: [a]"), elsewhere),
        ("there", expression("zone", "Exists", ""), None),
        ("not-there", expression("zone", "DoesNotExist", ""), elsewhere),
        ("more", expression("cores", "Gt", ", values: ['7']"), None),
        ("less", expression("cores", "Lt", ", values: ['8']"), elsewhere),
        (
            "either",
            affinity("{matchExpressions: [{key: zone, operator: In, values: [b]}]}, {matchExpressions: [{key: cores, operator: Exists}]}"),
            None,
        ),
        ("this-node", named("node1"), None),
        ("that-node", named("node2"), elsewhere),
    ];
    for (name, fields, _) in &rows {
        platform.create(&sleeper(name, fields)).unwrap();
    }
    for (name, _, refusal) in &rows {
        let Some(words) = refusal else {
            platform.wait_status("default", name, "Running", LIMIT).unwrap();
            continue;
        };
        let seen = platform
            .wait_pod("default", name, "a verdict", LIMIT, |pod| {
                let scheduled = condition(pod, "PodScheduled");
                (!scheduled.is_null()).then_some(scheduled)
            })
            .unwrap();
        assert_eq!(
            (&seen["status"], &seen["reason"]),
            (&"False".into(), &"Unschedulable".into()),
            "{name}: {seen}"
        );
        assert!(seen["message"].as_str().unwrap().starts_with(words), "{name}: {seen}");
    }

    gates_schedulers_and_priorities(&platform, &any);
}

fn gates_schedulers_and_priorities(platform: &Platform, any: &str) {
    // Nobody of this name schedules; who waits behind a gate waits.
    let gated = format!("{any}  schedulingGates: [{{name: example.org/one}}, {{name: example.org/two}}]\n");
    platform
        .create(&sleeper("others", &format!("{any}  schedulerName: theirs\n")))
        .unwrap();
    platform.create(&sleeper("gated", &gated)).unwrap();
    platform.create(&sleeper("after", any)).unwrap();
    platform.wait_status("default", "after", "Running", LIMIT).unwrap();
    let others = got(platform, "others");
    assert!(
        others["spec"]["nodeName"].is_null() && condition(&others, "PodScheduled").is_null(),
        "{others}"
    );
    assert_eq!(got(platform, "after")["spec"]["schedulerName"], "default-scheduler");
    platform.wait_status("default", "gated", "SchedulingGated", LIMIT).unwrap();
    let waits = condition(&got(platform, "gated"), "PodScheduled");
    assert_eq!(
        (&waits["reason"], &waits["message"]),
        (
            &"SchedulingGated".into(),
            &"Scheduling is blocked due to non-empty scheduling gates".into()
        )
    );
    let open = |left: &str| {
        let patch = format!(r#"[{{"op": "replace", "path": "/spec/schedulingGates", "value": [{left}]}}]"#);
        platform.ok(&["patch", "pod", "gated", "--type=json", "-p", &patch]).unwrap();
    };
    open(r#"{"name": "example.org/two"}"#);
    assert_eq!(got(platform, "gated")["spec"]["nodeName"], Value::Null);
    open("");
    platform.wait_status("default", "gated", "Running", LIMIT).unwrap();

    // The number follows from the class, and nothing else may be said.
    platform.ok(&["create", "priorityclass", "high", "--value=1000"]).unwrap();
    platform
        .create(&sleeper("high", &format!("{any}  priorityClassName: high\n")))
        .unwrap();
    let spec = &got(platform, "high")["spec"];
    assert_eq!((&spec["priority"], &spec["priorityClassName"]), (&1000.into(), &"high".into()));
    assert_eq!(got(platform, "after")["spec"]["priority"], 0);
    let said = refused(platform, &sleeper("bold", "  priorityClassName: high\n  priority: 5\n"));
    assert!(
        said.contains("the integer value of priority (5) must not be provided in pod spec; priority admission controller computed 1000"),
        "{said}"
    );
}

/// Ready waits for conditions that others set.
/// Fields: spec.readinessGates.* status.conditions[].lastTransitionTime
#[test]
fn root_a_pod_is_ready_when_its_gates_are() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("gates", &build).unwrap();
    platform
        .create(&sleeper("waits", "  readinessGates: [{conditionType: example.org/fed}]\n"))
        .unwrap();
    let ready = |status: &'static str, reason: &'static str, message: &'static str| {
        platform
            .wait_pod("default", "waits", message, LIMIT, |pod| {
                let ready = condition(pod, "Ready");
                let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
                ((text("status"), text("reason"), text("message")) == (status.into(), reason.into(), message.into())).then_some(ready)
            })
            .unwrap()
    };
    let set = |status: &str| {
        let patch = format!(r#"{{"status": {{"conditions": [{{"type": "example.org/fed", "status": "{status}"}}]}}}}"#);
        platform
            .ok(&["patch", "pod", "waits", "--subresource=status", "-p", &patch])
            .unwrap();
    };
    let gate = "corresponding condition of pod readiness gate \"example.org/fed\" does not exist.";
    let first = ready("False", "ReadinessGatesNotReady", gate);
    let contained = condition(&got(&platform, "waits"), "ContainersReady");
    assert_eq!(contained["status"], "True", "{contained}");
    set("False");
    let second = ready(
        "False",
        "ReadinessGatesNotReady",
        "the status of pod readiness gate \"example.org/fed\" is not \"True\", but False",
    );
    assert_eq!(
        first["lastTransitionTime"], second["lastTransitionTime"],
        "its status has not changed"
    );
    assert!(platform.ok(&["get", "pod", "waits", "-o", "wide"]).unwrap().contains("0/1"));
    wait::until("the next second", LIMIT, || {
        let later = now_seconds() > seconds(&second["lastTransitionTime"]);
        Ok(if later { Ok(()) } else { Err(String::new()) })
    })
    .unwrap();
    set("True");
    let third = ready("True", "", "");
    assert!(
        seconds(&third["lastTransitionTime"]) > seconds(&second["lastTransitionTime"]),
        "{third}"
    );
}

/// What a container leaves behind, by its path and its policy.
/// Fields: spec.containers[].terminationMessagePath spec.containers[].terminationMessagePolicy
/// Fields: status.containerStatuses[].state.terminated.message
#[test]
fn root_last_words_come_from_where_the_pod_says() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("words", &build).unwrap();
    let says = |script: &str, fields: &str| format!("    command: [sh, -c, '{script}']\n{fields}");
    let path = "    terminationMessagePath: /var/last\n";
    let falls_back = "    terminationMessagePolicy: FallbackToLogsOnError\n";
    let rows = [
        ("usual", says("echo words > /dev/termination-log; exit 1", ""), Some("words\n")),
        (
            "own-path",
            says("echo mine > /var/last; echo not > /tmp/not; exit 1", path),
            Some("mine\n"),
        ),
        ("from-log", says("echo logged; exit 1", falls_back), Some("logged\n")),
        (
            "file-first",
            says("echo logged; echo written > /dev/termination-log; exit 1", falls_back),
            Some("written\n"),
        ),
        ("succeeded", says("echo logged; exit 0", falls_back), None),
        ("file-only", says("echo logged; exit 1", ""), None),
    ];
    for (name, fields, _) in &rows {
        platform
            .create(&pod(&format!("name: {name}"), "  restartPolicy: Never\n", fields))
            .unwrap();
    }
    for (name, _, words) in &rows {
        let ended = platform
            .wait_pod("default", name, "its end", LIMIT, |pod| {
                let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
                ended.is_object().then(|| ended.clone())
            })
            .unwrap();
        assert_eq!(ended["message"].as_str(), *words, "{name}: {ended}");
    }
    let said = refused(&platform, &pod("name: x", "", "    terminationMessagePolicy: Shout\n"));
    assert!(said.contains("terminationMessagePolicy: Unsupported value: \"Shout\""), "{said}");
}

/// The old name of a Pod's account.
/// Fields: spec.serviceAccount spec.serviceAccountName
#[test]
fn root_the_old_name_of_the_account_is_the_account() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("account", &build).unwrap();
    platform.ok(&["create", "serviceaccount", "builder"]).unwrap();
    platform.create(&sleeper("old", "  serviceAccount: builder\n")).unwrap();
    let spec = &got(&platform, "old")["spec"];
    assert_eq!(
        (&spec["serviceAccount"], &spec["serviceAccountName"]),
        (&"builder".into(), &"builder".into())
    );
    platform.wait_status("default", "old", "Running", LIMIT).unwrap();
    let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    let claims = platform
        .ok(&[
            "exec",
            "old",
            "--",
            "sh",
            "-c",
            &format!("cut -d. -f2 {token} | tr _- /+ | base64 -d 2>/dev/null; true"),
        ])
        .unwrap();
    assert!(claims.contains("system:serviceaccount:default:builder"), "{claims}");
}

/// Everything a status tells of a pod's containers, over a restart.
/// Fields: status status.phase status.startTime status.hostIP status.hostIPs.* status.podIP status.podIPs.* status.qosClass
/// Fields: status.initContainerStatuses status.containerStatuses status.containerStatuses[].name status.containerStatuses[].image status.containerStatuses[].imageID
/// Fields: status.containerStatuses[].containerID status.containerStatuses[].restartCount status.containerStatuses[].ready status.containerStatuses[].started
/// Fields: status.containerStatuses[].state status.containerStatuses[].state.running.* status.containerStatuses[].lastState status.containerStatuses[].volumeMounts.*
/// Fields: status.containerStatuses[].lastState.terminated status.containerStatuses[].lastState.terminated.containerID status.containerStatuses[].lastState.terminated.exitCode status.containerStatuses[].lastState.terminated.reason
/// Fields: status.containerStatuses[].lastState.terminated.message status.containerStatuses[].lastState.terminated.startedAt status.containerStatuses[].lastState.terminated.finishedAt
/// Fields: status.containerStatuses[].state.terminated status.containerStatuses[].state.terminated.containerID status.containerStatuses[].state.terminated.startedAt status.containerStatuses[].state.terminated.finishedAt
/// Fields: spec.initContainers
#[test]
fn root_a_status_tells_everything_of_its_containers() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("status", &build).unwrap();
    let spec = "  volumes: [{name: kept, emptyDir: {}}]\n  initContainers: [{name: before, image: 'busybox:1.30', command: [sleep, '1'], volumeMounts: [{name: kept, mountPath: /kept}]}]\n";
    let container = "    command: [sh, -c, 'if [ -e /kept/again ]; then exec sleep 3600; fi; echo first > /dev/termination-log; touch /kept/again; sleep 1; exit 4']\n    volumeMounts: [{name: kept, mountPath: /kept}, {name: kept, mountPath: /seen, readOnly: true, recursiveReadOnly: IfPossible}]\n";
    let asked = now_seconds();
    platform.create(&pod("name: told", spec, container)).unwrap();
    let told = platform
        .wait_pod("default", "told", "a restart", LIMIT, |pod| {
            let runs = pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
            (restarts(pod) == 1 && runs).then(|| pod.clone())
        })
        .unwrap();
    let status = &told["status"];
    let near = |time: &Value| (asked..=asked + 60).contains(&seconds(time));
    assert!(near(&status["startTime"]), "{status}");
    assert_eq!(status["hostIPs"][0]["ip"], status["hostIP"]);
    assert_eq!(status["podIPs"][0]["ip"], status["podIP"]);
    assert!(status["podIP"].as_str().unwrap().starts_with("10.244.0."), "{status}");
    assert_eq!((&status["phase"], &status["qosClass"]), (&"Running".into(), &"BestEffort".into()));

    let ids = platform
        .ok(&["get", "pod", "told", "-o", "jsonpath={.status.containerStatuses[0].containerID}"])
        .unwrap();
    let is_id = |id: &Value| {
        let hex = id
            .as_str()
            .unwrap_or_default()
            .strip_prefix("lifepod://")
            .unwrap_or_default()
            .to_owned();
        hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let one = &status["containerStatuses"][0];
    assert_eq!((&one["name"], &one["image"]), (&"c".into(), &"busybox:1.30".into()));
    assert!(one["imageID"].as_str().unwrap().contains("sha256:"), "{one}");
    assert_eq!((&one["ready"], &one["started"]), (&true.into(), &true.into()));
    assert!(is_id(&one["containerID"]) && one["containerID"] == ids.as_str(), "{one}");
    assert!(near(&one["state"]["running"]["startedAt"]), "{one}");
    assert_eq!(one["state"].as_object().unwrap().len(), 1, "one state at a time: {one}");
    let last = &one["lastState"]["terminated"];
    assert_eq!(
        (&last["exitCode"], &last["reason"], &last["message"]),
        (&4.into(), &"Error".into(), &"first\n".into())
    );
    assert!(is_id(&last["containerID"]) && last["containerID"] != one["containerID"], "{one}");
    assert!(
        near(&last["startedAt"]) && seconds(&last["finishedAt"]) > seconds(&last["startedAt"]),
        "{one}"
    );
    assert_eq!(one["lastState"].as_object().unwrap().len(), 1, "what is past has ended: {one}");
    assert!(last["signal"].is_null(), "no runtime of this interface tells it: {last}");
    let mounts = one["volumeMounts"].as_array().unwrap();
    let mount = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path).cloned().unwrap_or_default();
    assert_eq!(mount("/kept"), serde_json::json!({"name": "kept", "mountPath": "/kept"}));
    assert_eq!(
        (
            &mount("/seen")["name"],
            &mount("/seen")["readOnly"],
            &mount("/seen")["recursiveReadOnly"]
        ),
        (&"kept".into(), &true.into(), &"Enabled".into()),
        "{mounts:#?}"
    );

    let before = &status["initContainerStatuses"][0];
    let ended = &before["state"]["terminated"];
    assert_eq!((&before["name"], &before["ready"]), (&"before".into(), &true.into()));
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&0.into(), &"Completed".into()));
    assert!(
        is_id(&ended["containerID"]) && ended["containerID"] == before["containerID"],
        "{before}"
    );
    assert!(
        near(&ended["startedAt"]) && seconds(&ended["finishedAt"]) > seconds(&ended["startedAt"]),
        "{before}"
    );
    assert!(seconds(&ended["finishedAt"]) <= seconds(&last["startedAt"]), "{status}");
}
