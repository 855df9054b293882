//! Who may do what, as stock clients see it; and what of it is on disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use e2e::Platform;
use e2e::host::run;
use e2e::platform::Build;
use e2e::wait;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// Every `kubectl` on the search path: the default one, and those with a
/// version in their name.
fn kubectls() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found = Vec::new();
    for directory in std::env::split_paths(&path) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "kubectl" || name.strip_prefix("kubectl.1.").is_some_and(|minor| minor.parse::<u32>().is_ok()) {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there is no kubectl on the search path");
    found
}

/// Settings of another user of the same server.
struct User {
    dir: tempfile::TempDir,
}

impl User {
    fn new(platform: &Platform, credentials: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(platform.kubeconfig()).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = credentials.clone();
        std::fs::write(dir.path().join("config"), config.to_string()).unwrap();
        Self { dir }
    }

    fn kubectl(&self, platform: &Platform, binary: &Path, args: &[&str]) -> Output {
        let mut command = platform.host.command(&binary.to_string_lossy());
        command
            .env("KUBECONFIG", self.dir.path().join("config"))
            .env("HOME", self.dir.path());
        command.env("KUBECACHEDIR", self.dir.path().join("cache"));
        command.args(args).stdin(Stdio::null()).output().unwrap()
    }
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}

fn roles_and_reviews(platform: &Platform) {
    platform.ok(&["create", "namespace", "dev"]).unwrap();
    platform.ok(&["create", "serviceaccount", "bot", "-n", "dev"]).unwrap();
    let token = platform.ok(&["create", "token", "bot", "-n", "dev", "--duration=20m"]).unwrap();
    let bot = User::new(platform, &json!({"token": token.trim()}));
    let all = kubectls();
    let first = &all[0];
    let refused = text(&bot.kubectl(platform, first, &["get", "pods", "-n", "dev"]));
    assert_eq!(
        refused,
        r#"Error from server (Forbidden): pods is forbidden: User "system:serviceaccount:dev:bot" cannot list resource "pods" in API group "" in the namespace "dev""#
    );
    platform
        .ok(&["create", "role", "reader", "-n", "dev", "--verb=get,list", "--resource=pods"])
        .unwrap();
    platform
        .ok(&[
            "create",
            "rolebinding",
            "reader",
            "-n",
            "dev",
            "--role=reader",
            "--serviceaccount=dev:bot",
        ])
        .unwrap();
    for kubectl in &all {
        let shown = kubectl.display();
        let asked = |args: &[&str]| text(&bot.kubectl(platform, kubectl, args));
        let pods = asked(&["get", "pods", "-n", "dev"]);
        assert!(pods.contains("No resources found in dev namespace."), "{shown}: {pods}");
        assert_eq!(asked(&["auth", "can-i", "list", "pods", "-n", "dev"]), "yes", "{shown}");
        assert_eq!(asked(&["auth", "can-i", "delete", "pods", "-n", "dev"]), "no", "{shown}");
        let rules = asked(&["auth", "can-i", "--list", "-n", "dev"]);
        assert!(
            rules.lines().any(|line| line.starts_with("pods ") && line.ends_with("[get list]")),
            "{shown}: {rules}"
        );
        let who = asked(&["auth", "whoami"]);
        if shown.to_string().ends_with("kubectl.1.27") {
            // It knows only the alpha and beta of a kind that is v1 now.
            assert!(who.contains("the selfsubjectreviews API is not enabled"), "{shown}: {who}");
            continue;
        }
        assert!(
            who.contains("system:serviceaccount:dev:bot") && who.contains("system:authenticated"),
            "{shown}: {who}"
        );
        let token = asked(&["create", "token", "bot", "-n", "dev"]);
        assert!(
            token.contains(r#"cannot create resource "serviceaccounts/token""#),
            "{shown}: {token}"
        );
        let as_bot = ["auth", "can-i", "list", "pods", "-n", "dev", "--as=system:serviceaccount:dev:bot"];
        let mut impersonating = platform.host.command(&kubectl.to_string_lossy());
        impersonating.env("KUBECONFIG", platform.kubeconfig()).env("HOME", bot.dir.path());
        assert_eq!(text(&impersonating.args(as_bot).output().unwrap()), "yes", "{shown}");
    }
    platform.ok(&["delete", "serviceaccount", "bot", "-n", "dev"]).unwrap();
    let gone = text(&bot.kubectl(platform, first, &["get", "pods", "-n", "dev"]));
    assert!(gone.contains("You must be logged in to the server"), "{gone}");
}

fn aggregation(platform: &Platform) {
    platform.create(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: more, labels: {rbac.authorization.k8s.io/aggregate-to-view: 'true'}}, \
         rules: [{apiGroups: [acme.com], resources: [rockets], verbs: [get]}]}",
    )
    .unwrap();
    for role in ["view", "edit", "admin"] {
        wait::until("the aggregated role to have the rule", LIMIT, || {
            let rules = platform.ok(&["get", "clusterrole", role, "-o", "jsonpath={.rules}"])?;
            Ok(if rules.contains("rockets") {
                Ok(())
            } else {
                Err(format!("{role}: {rules}"))
            })
        })
        .unwrap();
    }
}

fn certificates(platform: &Platform) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    run(Command::new("openssl").args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &at("key")])).unwrap();
    run(Command::new("openssl").args(["req", "-new", "-key", &at("key"), "-subj", "/O=dev/CN=jane", "-out", &at("csr")])).unwrap();
    let csr = run(Command::new("base64").args(["-w0", &at("csr")])).unwrap();
    let request = format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: jane}}, spec: {{request: {}, \
         signerName: kubernetes.io/kube-apiserver-client, expirationSeconds: 3600, usages: [client auth]}}}}",
        String::from_utf8_lossy(&csr.stdout).trim()
    );
    platform.create(&request).unwrap();
    platform.ok(&["certificate", "approve", "jane"]).unwrap();
    let certificate = wait::until("the certificate", LIMIT, || {
        let found = platform.ok(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"])?;
        let state = platform.ok(&["get", "csr", "jane"])?;
        Ok(if found.is_empty() { Err(state) } else { Ok(found) })
    })
    .unwrap();
    let key = run(Command::new("base64").args(["-w0", &at("key")])).unwrap();
    let key = String::from_utf8_lossy(&key.stdout).into_owned();
    let jane = User::new(platform, &json!({"client-certificate-data": certificate, "client-key-data": key}));
    let who = text(&jane.kubectl(platform, Path::new("kubectl"), &["auth", "whoami"]));
    assert!(who.contains("jane") && who.contains("dev"), "{who}");
    let shown = platform.ok(&["get", "csr", "jane", "--no-headers"]).unwrap();
    assert!(shown.contains("Approved,Issued"), "{shown}");
}

/// One platform for all of it: what is asked leaves nothing behind.
#[test]
fn root_stock_clients_get_what_their_roles_say() {
    let build = Build::from_env().unwrap();
    let platform = Platform::start("auth", &build).unwrap();
    roles_and_reviews(&platform);
    aggregation(&platform);
    certificates(&platform);
}

/// Whether any file below a directory holds some bytes.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(directory).unwrap().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        std::fs::read(&path)
            .unwrap_or_default()
            .windows(bytes.len())
            .any(|window| window == bytes)
    })
}

#[test]
fn root_secrets_are_encrypted_on_disk_and_their_key_can_be_changed() {
    let build = Build::from_env().unwrap();
    let mut platform = Platform::start("sealed", &build).unwrap();
    let marker = "correct-horse-battery-staple";
    let literal = format!("--from-literal=password={marker}");
    platform.ok(&["create", "secret", "generic", "s", &literal]).unwrap();
    platform
        .ok(&["create", "configmap", "c", "--from-literal=word=plain-as-day"])
        .unwrap();
    platform.stop().unwrap();
    let store = platform.data_dir().join("store");
    // As it is, and in base64 at each of the three offsets' common part.
    for form in [marker, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ"] {
        assert!(!holds(&store, form.as_bytes()), "{form} is on disk");
    }
    assert!(holds(&store, b"plain-as-day"), "this is how it would have been found");
    let audit = std::fs::read_to_string(platform.data_dir().join("audit/audit.log")).unwrap();
    assert!(
        audit
            .lines()
            .any(|line| line.contains(r#""resource":"secrets""#) && line.contains(r#""verb":"create""#)),
        "{audit}"
    );
    assert!(!audit.contains(marker));

    let keys = || std::fs::read_to_string(platform.data_dir().join("encryption.json")).unwrap();
    let before = keys();
    let rotated = run(&mut platform.lifepod(&["secrets", "rotate-key"])).unwrap();
    let said = String::from_utf8_lossy(&rotated.stdout).into_owned();
    assert!(said.contains("encrypted with the new key key2"), "{said}");
    let after = keys();
    assert!(before.contains("key1") && after.contains("key2") && !after.contains("key1"));
    platform.up().unwrap();
    let read = platform.ok(&["get", "secret", "s", "-o", "jsonpath={.data.password}"]).unwrap();
    assert_eq!(read, "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==");
    let busy = platform.lifepod(&["secrets", "rotate-key"]).output().unwrap();
    assert!(text(&busy).contains("is in use by process"), "{}", text(&busy));
}
