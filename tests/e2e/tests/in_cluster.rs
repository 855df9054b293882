//! A Pod as a client of the API server it runs under: its token, the CA, the
//! address; and that the token is worth nothing once the Pod is gone.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

const ACCOUNT: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: { name: reader }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: { name: reader }
rules: [{ apiGroups: [''], resources: [pods], verbs: [get, list] }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: { name: reader }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader }
subjects: [{ kind: ServiceAccount, name: reader }]
";

/// Finds `curl` and `kubectl` in the directories of the machine, read-only;
/// nothing but the mount and the variables every Pod gets tells them where to
/// go and as whom.
const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: inside }
spec:
  serviceAccountName: reader
  terminationGracePeriodSeconds: 0
  volumes:
  - { name: usr, hostPath: { path: /usr } }
  - { name: lib, hostPath: { path: /lib } }
  - { name: lib64, hostPath: { path: /lib64 } }
  initContainers: [{ name: early, image: 'busybox:1.30', command: [ls, MOUNTPATH] }]
  containers:
  - name: c
    image: busybox:1.30
    env: [{ name: HOME, value: /tmp }]
    volumeMounts:
    - { name: usr, mountPath: /usr, readOnly: true }
    - { name: lib, mountPath: /lib, readOnly: true }
    - { name: lib64, mountPath: /lib64, readOnly: true }
    command:
    - /bin/sh
    - -c
    - |
      own=MOUNTPATH
      server=https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT
      ask() { /usr/bin/curl -s -o /tmp/answer -w '%{http_code}' --max-time 20 --cacert $own/ca.crt "$@"; }
      asme() { ask -H "Authorization: Bearer $(cat $own/token)" "$@"; }
      mkdir -p /tmp
      echo allowed=$(asme $server/api/v1/namespaces/$(cat $own/namespace)/pods)
      echo denied=$(asme $server/api/v1/namespaces/default/secrets)
      echo why=$(cat /tmp/answer)
      echo nobody=$(ask $server/api/v1/namespaces/default/pods)
      echo named=$(asme --resolve kubernetes.default.svc:443:$KUBERNETES_SERVICE_HOST https://kubernetes.default.svc/api/v1/namespaces/default/pods)
      echo stranger=$(/usr/bin/curl -s -o /dev/null --max-time 20 --cacert /dev/null $server/version; echo $?)
      echo kubectl=$(KUBECTL get pods -o name 2>&1)
      echo refused=$(KUBECTL get secrets 2>&1)
      echo whoami=$(KUBECTL auth whoami -o 'jsonpath={.status.userInfo.username}' 2>&1)
      echo write=$(touch $own/x 2>&1)
      echo done
      exec sleep 1000
"#;

fn log(platform: &Platform, pod: &str, wanted: &str) -> String {
    wait::until(&format!("{wanted:?} in the log of {pod}"), LIMIT, || {
        Ok(match platform.ok(&["logs", pod]) {
            Ok(log) if log.lines().any(|line| line == wanted) => Ok(log),
            Ok(log) => Err(log),
            Err(refused) => Err(format!("{refused:#}")),
        })
    })
    .unwrap()
}

/// What a holder of `token` is told of itself.
fn whoami(platform: &Platform, token: &str) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let mut config: Value = serde_json::from_str(&fs::read_to_string(platform.kubeconfig()).unwrap()).unwrap();
    config["users"][0]["user"] = json!({ "token": token });
    fs::write(dir.path().join("config"), config.to_string()).unwrap();
    let mut command = platform.host.command("kubectl");
    command.env("KUBECONFIG", dir.path().join("config")).env("HOME", dir.path());
    command.args(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

/// The token in the volume of a running pod, as the node has it.
fn token(platform: &Platform, pod: &Value) -> String {
    let volumes = platform
        .data_dir()
        .join("volumes/memory")
        .join(pod["metadata"]["uid"].as_str().unwrap());
    let name = pod["spec"]["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| volume["name"].as_str().unwrap());
    let name = name.filter(|name| name.starts_with("kube-api-access-")).collect::<PathBuf>();
    fs::read_to_string(volumes.join(name).join("token")).unwrap()
}

/// Fields: spec.serviceAccountName spec.automountServiceAccountToken
#[test]
fn root_a_pod_is_a_client_of_its_api_server() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("incluster", &build).unwrap();
    platform.create(ACCOUNT).unwrap();
    let kubectl = run(platform.host.command("sh").args(["-c", "readlink -f $(command -v kubectl)"])).unwrap();
    let kubectl = String::from_utf8_lossy(&kubectl.stdout).trim().to_owned();
    let manifest = CLIENT.replace("MOUNTPATH", MOUNT_PATH).replace("KUBECTL", &kubectl);
    platform.create(&manifest).unwrap();
    let said = log(&platform, "inside", "done");
    for line in [
        "allowed=200",
        "denied=403",
        "nobody=401",
        "named=200",
        "kubectl=pod/inside",
        "whoami=system:serviceaccount:default:reader",
    ] {
        assert!(said.lines().any(|found| found == line), "{line:?} in\n{said}");
    }
    let refusal = r#"secrets is forbidden: User \"system:serviceaccount:default:reader\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\""#;
    assert!(said.contains(refusal), "{said}");
    assert!(
        said.contains(&format!("refused=Error from server (Forbidden): {}", refusal.replace('\\', ""))),
        "{said}"
    );
    // Another CA is not taken for the cluster's: curl's codes for that.
    assert!(said.lines().any(|line| line == "stranger=60" || line == "stranger=77"), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert_eq!(
        platform.ok(&["logs", "inside", "-c", "early"]).unwrap(),
        "ca.crt\nnamespace\ntoken\n"
    );

    let described = platform.ok(&["describe", "pod", "inside"]).unwrap();
    for line in [
        "    Type:                    Projected (a volume that contains injected data from multiple sources)",
        "    TokenExpirationSeconds:  3607",
        "    ConfigMapName:           kube-root-ca.crt",
        "    DownwardAPI:             true",
    ] {
        assert!(described.lines().any(|found| found == line), "{line:?} in\n{described}");
    }
    assert!(
        described.contains(&format!("      {MOUNT_PATH} from kube-api-access-")),
        "{described}"
    );

    // Who wants no token has none.
    platform
        .create("apiVersion: v1\nkind: Pod\nmetadata: {name: without}\nspec:\n  automountServiceAccountToken: false\n  restartPolicy: Never\n  containers: [{name: c, image: 'busybox:1.30', command: [sh, -c, 'ls /var/run/secrets; echo done']}]\n")
        .unwrap();
    let said = log(&platform, "without", "done");
    assert!(said.contains("No such file or directory"), "{said}");
    let pod = platform.get("default", "pod", "without").unwrap().unwrap();
    assert_eq!(pod["spec"].get("volumes"), None);

    // The token works as long as its pod is there, and not a moment longer.
    let pod = platform.get("default", "pod", "inside").unwrap().unwrap();
    let token = token(&platform, &pod);
    assert_eq!(whoami(&platform, &token).unwrap(), "system:serviceaccount:default:reader");
    platform.ok(&["delete", "pod", "inside", "--timeout=40s"]).unwrap();
    let refused = whoami(&platform, &token).unwrap_err();
    assert!(refused.contains("You must be logged in to the server"), "{refused}");
    platform.down().unwrap();
    assert_eq!(platform.leftovers().unwrap(), Vec::<String>::new());
}
