//! Every verb of kubectl as a conversation: what it was told, what it asked the
//! server, what it printed. The conversations stand in `golden/`, to be read;
//! `LIFEPOD_BLESS=1` writes them anew from the newest kubectl.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use clients::{Kubectl, Server, kubectls};

#[path = "kubectl/more.rs"]
mod more;
#[path = "kubectl/objects.rs"]
mod objects;

/// A conversation: a name, files to have, and what kubectl is told in turn.
struct Conversation {
    name: &'static str,
    files: &'static [(&'static str, &'static str)],
    lines: &'static [&'static str],
}

const MAP: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\n  labels:\n    app: a\ndata:\n  k: v\n";
const MAP_CHANGED: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  k: w\n  l: x\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n    app: a\nspec:\n  nodeName: node1\n  containers:\n  - name: c\n    image: busybox:1.30\n    ports:\n    - containerPort: 80\n";
/// Without the volume of a random name, which kubectl 1.33 describes in other words than 1.31.
const POD_WITHOUT_TOKEN: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  labels:\n    app: a\nspec:\n  automountServiceAccountToken: false\n  nodeName: node1\n  containers:\n  - name: c\n    image: busybox:1.30\n    ports:\n    - containerPort: 80\n";
const POD_CHANGED: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  nodeName: node1\n  containers:\n  - name: c\n    image: busybox:1.31\n    ports:\n    - containerPort: 80\n";
const POD_FORBIDDEN: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  nodeName: node1\n  containers:\n  - name: c\n    image: busybox:1.31\n    command: [sleep]\n";
const TYPO: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: typo\nspec: {}\n";
const CONTROLLER: &str = "apiVersion: v1\nkind: ReplicationController\nmetadata:\n  name: r\nspec:\n  replicas: 1\n  selector: {app: r}\n  template:\n    metadata:\n      labels: {app: r}\n    spec:\n      containers:\n      - name: c\n        image: busybox:1.30\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata:\n  name: s\nspec:\n  clusterIP: None\n  selector: {app: a}\n  ports:\n  - {name: web, port: 80, targetPort: 8080}\n";
const TWO_CONTAINERS: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: two\nspec:\n  containers:\n  - name: a\n    image: busybox:1.30\n  - name: b\n    image: busybox:1.30\n";
const ROLE: &str = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: reader\n  namespace: default\nrules:\n- apiGroups: ['']\n  resources: [pods, pods/log]\n  verbs: [get]\n";
const EDITOR: &str = "#!/bin/sh\nsed -i 's/k: v/k: edited/' \"$1\"\n";

const CONVERSATIONS: &[Conversation] = &[
    Conversation {
        name: "apply",
        files: &[
            ("m.yaml", MAP),
            ("changed.yaml", MAP_CHANGED),
            ("p.yaml", POD),
            ("p-changed.yaml", POD_CHANGED),
            ("p-forbidden.yaml", POD_FORBIDDEN),
            ("typo.yaml", TYPO),
        ],
        lines: &[
            "apply -f m.yaml",
            "apply -f m.yaml",
            "apply -f changed.yaml --dry-run=server -o yaml",
            "apply -f changed.yaml",
            "apply view-last-applied configmap m",
            "apply -f p.yaml",
            "apply -f p-changed.yaml",
            "apply -f p-forbidden.yaml",
            "apply -f typo.yaml",
            "apply -f typo.yaml --validate=ignore",
        ],
    },
    Conversation {
        name: "apply-server-side",
        files: &[
            ("m.yaml", MAP),
            ("changed.yaml", MAP_CHANGED),
            ("p.yaml", POD),
            ("p-changed.yaml", POD_CHANGED),
            ("typo.yaml", TYPO),
        ],
        lines: &[
            "apply --server-side -f m.yaml",
            "apply --server-side -f m.yaml",
            "apply --server-side -f changed.yaml --dry-run=server -o yaml --show-managed-fields",
            "apply --server-side -f changed.yaml",
            "apply --server-side -f m.yaml --field-manager other",
            "apply --server-side -f m.yaml --field-manager other --force-conflicts",
            "get configmap m -o yaml --show-managed-fields",
            "apply --server-side -f p.yaml",
            "apply --server-side -f p-changed.yaml",
            "apply --server-side -f typo.yaml",
        ],
    },
    Conversation {
        name: "apply-migrates",
        files: &[("m.yaml", MAP), ("changed.yaml", MAP_CHANGED)],
        lines: &[
            "apply -f m.yaml",
            "apply --server-side -f changed.yaml",
            "get configmap m -o yaml --show-managed-fields",
            "apply -f m.yaml",
        ],
    },
    Conversation {
        name: "diff",
        files: &[("m.yaml", MAP), ("changed.yaml", MAP_CHANGED)],
        lines: &[
            "apply -f m.yaml",
            "diff -f m.yaml",
            "diff -f changed.yaml",
            "diff --server-side -f changed.yaml --force-conflicts",
            "get configmap m -o jsonpath={.data}",
        ],
    },
    Conversation {
        name: "edit",
        files: &[("m.yaml", MAP), ("editor", EDITOR)],
        lines: &[
            "apply -f m.yaml",
            "edit configmap m",
            "edit configmap m",
            "get configmap m -o yaml --show-managed-fields",
        ],
    },
    Conversation {
        name: "replace",
        files: &[("m.yaml", MAP), ("changed.yaml", MAP_CHANGED), ("p.yaml", POD)],
        lines: &[
            "replace -f m.yaml",
            "create -f m.yaml",
            "replace -f changed.yaml",
            "get configmap m -o jsonpath={.data}",
            "replace --force -f m.yaml",
            "create -f m.yaml",
        ],
    },
    Conversation {
        name: "label-annotate",
        files: &[("m.yaml", MAP)],
        lines: &[
            "create -f m.yaml",
            "label configmap m app=b",
            "label configmap m app=b --overwrite",
            "label configmap m app-",
            "label configmaps --all x=y",
            "annotate configmap m 'note=a note'",
            "annotate configmap m note-",
            "get configmaps -l x=y",
        ],
    },
    Conversation {
        name: "set",
        files: &[("p.yaml", POD), ("r.yaml", CONTROLLER)],
        lines: &[
            "create -f p.yaml -f r.yaml",
            "set image pod/p c=busybox:1.31",
            "set image pod/p nobody=busybox:1.31",
            "set env rc/r A=b",
            "set env rc/r --list",
            "set env rc/r A-",
            "set resources rc/r --limits=cpu=200m,memory=64Mi",
            "scale rc/r --replicas=3",
            "scale rc/r --replicas=2 --current-replicas=9",
            "get rc r -o jsonpath={.spec.replicas}",
        ],
    },
    Conversation {
        name: "patch",
        files: &[("m.yaml", MAP), ("p.yaml", POD)],
        lines: &[
            "create -f m.yaml -f p.yaml",
            "patch configmap m -p '{\"data\":{\"a\":\"b\"}}'",
            "patch configmap m -p '{\"data\":{\"a\":\"b\"}}'",
            "patch configmap m --type=merge -p '{\"data\":{\"a\":null}}'",
            "patch configmap m --type=json -p '[{\"op\":\"add\",\"path\":\"/data/b\",\"value\":\"c\"}]'",
            "patch configmap m --type=json -p '[{\"op\":\"remove\",\"path\":\"/data/none\"}]'",
            "patch pod p -p '{\"spec\":{\"containers\":[{\"name\":\"c\",\"image\":\"busybox:1.31\"}]}}'",
            "patch pod p --subresource=status -p '{\"status\":{\"message\":\"hello\"}}'",
            "patch pod p --subresource=status --type=merge -p '{\"spec\":{\"nodeName\":\"x\"}}'",
            "patch pod p -p '{\"spec\":{\"nodeName\":\"x\"}}'",
            "get pod p -o jsonpath={.status.message}",
        ],
    },
    Conversation {
        name: "create-get-delete",
        files: &[("p.yaml", POD)],
        lines: &[
            "create -f p.yaml",
            "create configmap c --from-literal=a=b",
            "get pods",
            "get configmap c -o yaml",
            "get pod none",
            "delete pod p --grace-period=0 --force",
            "delete configmap c",
            "create namespace n",
            "delete namespace none",
        ],
    },
    Conversation {
        name: "describe",
        files: &[
            ("m.yaml", MAP),
            ("p.yaml", POD_WITHOUT_TOKEN),
            ("r.yaml", CONTROLLER),
            ("s.yaml", SERVICE),
        ],
        lines: &[
            "create -f m.yaml -f p.yaml -f r.yaml -f s.yaml",
            "describe configmap m",
            "describe pod p",
            "describe rc r",
            "describe service s",
            "describe namespace default",
            "describe serviceaccount default",
            "describe pods -l app=none",
            "describe pod none",
        ],
    },
    // What a container wrote is told by its node; here there is none.
    Conversation {
        name: "logs",
        files: &[("p.yaml", POD), ("two.yaml", TWO_CONTAINERS)],
        lines: &[
            "create -f p.yaml -f two.yaml",
            "logs two -c a",
            "logs two",
            "logs two -c none",
            "logs two --all-containers --tail=5 --timestamps",
            "logs p",
            "logs p --previous --since=1h --limit-bytes=100",
            "logs p --tail=-5",
            "logs none",
        ],
    },
    Conversation {
        name: "wait",
        files: &[("m.yaml", MAP), ("p.yaml", POD)],
        lines: &[
            "create -f m.yaml -f p.yaml",
            "wait --for=jsonpath={.data.k}=v configmap/m --timeout=10s",
            "wait --for=create configmap/m --timeout=10s",
            "wait --for=delete configmap/none --timeout=10s",
            "wait --for=condition=Ready pod/p --timeout=1s",
            "wait --for=condition=Ready pod/none --timeout=1s",
        ],
    },
    Conversation {
        name: "explain",
        files: &[],
        lines: &[
            "explain pod",
            "explain pod.spec.containers.lifecycle --recursive",
            "explain service.spec.ports.targetPort",
            "explain pod.spec.nothing",
            "explain nothing",
        ],
    },
    Conversation {
        name: "auth",
        files: &[("role.yaml", ROLE)],
        lines: &[
            "auth whoami",
            "auth can-i create pods",
            "auth can-i create pods --as=bob",
            "create role reader --verb=get,list --resource=pods",
            "create rolebinding reads --role=reader --user=bob",
            "auth can-i get pods --as=bob",
            "auth can-i get pods/log --as=bob",
            "auth can-i get pods --as=bob -n kube-system",
            "auth can-i --list --as=bob",
            "auth whoami --as=bob --as-group=people",
            "auth reconcile -f role.yaml",
            "get pods --as=eve",
        ],
    },
    // No kind that rolls out is served; what is said is what a server without
    // them is told.
    Conversation {
        name: "rollout",
        files: &[("r.yaml", CONTROLLER)],
        lines: &[
            "create -f r.yaml",
            "rollout status rc/r",
            "rollout history rc/r",
            "rollout restart rc/r",
            "rollout status deployment/d",
        ],
    },
    Conversation {
        name: "top",
        files: &[("p.yaml", POD)],
        lines: &["create -f p.yaml", "top pods", "top pod p", "top pod none", "top nodes"],
    },
];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{name}.txt"))
}

/// What differs from run to run, by what it is.
fn normalized(text: &str, server: &Server) -> String {
    // Some kubectls colour what they say of the cluster.
    let text = ["\u{1b}[0;32m", "\u{1b}[0;33m", "\u{1b}[0m"]
        .iter()
        .fold(text.to_owned(), |text, colour| text.replace(colour, ""));
    let text = text.replace(&server.directory().display().to_string(), "DIR");
    let mut out = String::new();
    for line in text.lines() {
        let blank = |line: &str, key: &str| {
            line.find(key).map(|at| {
                let (head, tail) = line.split_at(at + key.len());
                let quote = tail.starts_with('"');
                let end = tail[usize::from(quote)..]
                    .find(['"', ',', ' ', '\t'])
                    .map_or(tail.len(), |end| end + 2 * usize::from(quote));
                format!("{head}<>{}", &tail[end.min(tail.len())..])
            })
        };
        let mut line = line.to_owned();
        for key in [
            "uid: ",
            "resourceVersion: ",
            "creationTimestamp: ",
            "time: ",
            "deletionTimestamp: ",
            "lastTransitionTime: ",
        ] {
            line = blank(&line, key).unwrap_or(line);
        }
        // `diff` names the files it compares and when they were written.
        if line.starts_with("--- ") || line.starts_with("+++ ") || line.starts_with("diff ") {
            line = line.split_whitespace().next().unwrap_or_default().to_owned();
        }
        // A token is never the same, nor is a port.
        if line.starts_with("eyJ") {
            line = "<TOKEN>".to_owned();
        }
        if let Some((before, after)) = line.split_once("https://127.0.0.1:") {
            line = format!(
                "{before}https://127.0.0.1:<>{}",
                after.trim_start_matches(|c: char| c.is_ascii_digit())
            );
        }
        // Ages are the last column, or the one after it.
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(age) = words.last().filter(|age| is_age(age)) {
            line = format!("{}<AGE>", &line[..line.len() - age.len()]);
        }
        // Or amid them, with the blanks that make a column of it.
        let amid = words_at(&line).find(|(_, word)| is_age(word)).map(|(at, age)| (at, at + age.len()));
        if let Some((at, end)) = amid {
            line = format!("{}<AGE> {}", &line[..at], line[end..].trim_start());
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// Seconds, as tables show them.
fn is_age(word: &str) -> bool {
    word.len() < 4 && word.strip_suffix('s').is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The words of a line and where they begin.
fn words_at(line: &str) -> impl Iterator<Item = (usize, &str)> {
    line.split_whitespace()
        .map(|word| (word.as_ptr() as usize - line.as_ptr() as usize, word))
}

/// A request with the terms of its field selector in order, which kubectl
/// takes from a map, and without the UID among them.
fn selected(asked: &str) -> String {
    const KEY: &str = "fieldSelector=";
    let Some(start) = asked.find(KEY).map(|at| at + KEY.len()) else {
        return asked.to_owned();
    };
    let end = asked[start..].find(['&', ' ']).map_or(asked.len(), |end| start + end);
    let mut terms: Vec<&str> = asked[start..end].split("%2C").collect();
    for term in &mut terms {
        if term.starts_with("involvedObject.uid") {
            *term = "involvedObject.uid%3D<>";
        }
    }
    terms.sort_unstable();
    format!("{}{}{}", &asked[..start], terms.join("%2C"), &asked[end..])
}

/// What was asked, with requests for logs that follow each other in order:
/// kubectl takes the containers of `--all-containers` from a map.
fn logs_in_order(mut asked: Vec<String>) -> Vec<String> {
    for run in asked.chunk_by_mut(|one, next| one.contains("/log?") && next.contains("/log?")) {
        run.sort_unstable();
    }
    asked
}

fn told(kubectl: &Kubectl, conversation: &Conversation) -> String {
    let server = Server::start().unwrap();
    for (name, text) in conversation.files {
        let path = server.directory().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Discovery is asked for once and kept.
    kubectl.run(&server, "get namespaces", "").unwrap();
    let mut out = String::new();
    let _ = server.asked();
    for line in conversation.lines {
        let run = kubectl.run(&server, line, "").unwrap();
        let _ = writeln!(out, "$ kubectl {line}");
        for asked in logs_in_order(server.asked()) {
            // Kubectls before 1.33 ask for the version first; the rest is one
            // conversation. The hash is that of the document; revisions and the
            // patience of a watch are never the same.
            if asked.starts_with("GET /version") {
                continue;
            }
            let mut asked = asked;
            for key in ["hash=", "resourceVersion=", "timeoutSeconds="] {
                let value = asked.find(key).map(|at| at + key.len());
                let end = value.and_then(|at| asked[at..].find(['&', ' ']).map(|end| at + end));
                if let Some((value, end)) = value.zip(end) {
                    asked.replace_range(value..end, "<>");
                }
            }
            writeln!(out, "  {}", selected(&asked)).unwrap();
        }
        for (mark, text) in [("> ", &run.stdout), ("! ", &run.stderr)] {
            for line in normalized(text, &server).lines() {
                let _ = writeln!(out, "{mark}{line}");
            }
        }
        if run.code != 0 {
            let _ = writeln!(out, "exit {}", run.code);
        }
        out.push('\n');
    }
    out
}

#[test]
fn every_kubectl_asks_and_prints_what_was_reviewed() {
    let (kubectls, older): (Vec<_>, Vec<_>) = kubectls().unwrap().into_iter().partition(Kubectl::is_reviewed);
    older.iter().for_each(gets_by);
    let mut differ = Vec::new();
    let bless = std::env::var_os("LIFEPOD_BLESS").is_some();
    for conversation in CONVERSATIONS.iter().chain(more::MORE) {
        let said: Vec<String> = std::thread::scope(|scope| {
            let running: Vec<_> = kubectls.iter().map(|kubectl| scope.spawn(|| told(kubectl, conversation))).collect();
            running.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let common = golden(conversation.name);
        if bless {
            std::fs::write(&common, &said[said.len() - 1]).unwrap();
        }
        for (kubectl, said) in kubectls.iter().zip(said) {
            // What one version does differently stands in a file of its own.
            let own = golden(&format!("{}.1.{}", conversation.name, kubectl.minor));
            let reviewed = std::fs::read_to_string(&own)
                .or_else(|_| std::fs::read_to_string(&common))
                .unwrap_or_default();
            if bless && reviewed != said {
                std::fs::write(&own, &said).unwrap();
            } else if reviewed != said {
                let how = difference(&reviewed, &said);
                differ.push(format!("{} with kubectl 1.{}:\n{how}", conversation.name, kubectl.minor));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// A kubectl of another version, where no other is there: its conversations
/// are not reviewed, its ordinary use works all the same.
fn gets_by(kubectl: &Kubectl) {
    let server = Server::start().unwrap();
    std::fs::write(server.directory().join("m.yaml"), MAP).unwrap();
    for line in [
        "apply -f m.yaml",
        "get configmap m -o yaml",
        "label configmap m x=y",
        "delete -f m.yaml",
    ] {
        let run = kubectl.run(&server, line, "").unwrap();
        assert_eq!(run.code, 0, "kubectl 1.{} {line}: {}", kubectl.minor, run.stderr);
    }
}

fn difference(reviewed: &str, said: &str) -> String {
    let (reviewed, said): (Vec<&str>, Vec<&str>) = (reviewed.lines().collect(), said.lines().collect());
    let same = reviewed.iter().zip(&said).take_while(|(a, b)| a == b).count();
    let part = |lines: &[&str]| {
        lines
            .iter()
            .skip(same.saturating_sub(3))
            .take(12)
            .map(|line| format!("    {line}\n"))
            .collect::<String>()
    };
    format!("  reviewed, line {}:\n{}  said:\n{}", same + 1, part(&reviewed), part(&said))
}
