//! A kind that is added to a running server and removed from it, as every
//! kubectl sees it.

use std::time::{Duration, Instant};

use api::ResourceId;
use apiserver::registry::{Cell, Column, Resource, Subresource};
use apiserver::{kinds, table};
use clients::{Kubectl, Server, kubectls};
use serde_json::json;

/// How long a kubectl may take to begin its watch.
const BEGINS: Duration = Duration::from_secs(30);
/// How long controllers may take to do what they do.
const CONTROLLED: Duration = Duration::from_secs(60);

const WIDGET: &str = "apiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: w\nspec:\n  size: 3\n";

fn widgets() -> Resource {
    let id = ResourceId::new("example.com", "v1", "Widget", "widgets");
    let document = json!({"type": "object", "description": "Widget is made of parts.", "properties": {
        "spec": {"type": "object", "description": "What is wanted.", "required": ["size"], "properties": {
            "size": {"type": "integer", "format": "int32", "description": "How many parts it may have."},
            "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Slow"},
            "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        }},
    }});
    let schema = api::schema::declare(&id, &document).unwrap();
    Resource {
        short_names: vec!["wd".to_owned()],
        columns: vec![
            table::name_column(),
            Column::path("Size", Cell::Integer, "spec.size"),
            table::age_column(),
        ],
        ..kinds::custom_resource(id, "example.com/widgets", schema, vec![Subresource::Status])
    }
}

fn says(kubectl: &Kubectl, server: &Server, arguments: &str, stdin: &str) -> String {
    let run = kubectl.run(server, arguments, stdin).unwrap();
    let context = format!("kubectl 1.{} {arguments}: {}{}", kubectl.minor, run.stdout, run.stderr);
    assert_eq!(run.code, 0, "{context}");
    run.stdout
}

fn fails(kubectl: &Kubectl, server: &Server, arguments: &str, stdin: &str) -> String {
    let run = kubectl.run(server, arguments, stdin).unwrap();
    assert_ne!(run.code, 0, "kubectl 1.{} {arguments}: {}", kubectl.minor, run.stdout);
    run.stderr
}

/// Waits until a watch was asked for.
fn watched(server: &Server) {
    let begun = Instant::now();
    while !server.asked().iter().any(|line| line.contains("watch=true")) {
        assert!(begun.elapsed() < BEGINS, "no watch was asked for within {BEGINS:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn a_kind_comes_and_goes(kubectl: &Kubectl) {
    let server = Server::start().unwrap();
    let none = fails(kubectl, &server, "get widgets", "");
    assert_eq!(none, "error: the server doesn't have a resource type \"widgets\"\n");

    server.add(widgets()).unwrap();
    assert_eq!(says(kubectl, &server, "apply -f -", WIDGET), "widget.example.com/w created\n");
    assert_eq!(says(kubectl, &server, "apply -f -", WIDGET), "widget.example.com/w unchanged\n");
    let table = says(kubectl, &server, "get wd", "");
    let cells: Vec<&str> = table.split_whitespace().take(5).collect();
    assert_eq!(cells, ["NAME", "SIZE", "AGE", "w", "3"]);
    assert_eq!(says(kubectl, &server, "get wd w -o jsonpath={.spec.mode}", ""), "Slow");
    let explained = says(kubectl, &server, "explain widget.spec", "");
    for part in [
        "GROUP:      example.com\nKIND:       Widget\nVERSION:    v1\n",
        "FIELD: spec <Object>",
        "  mode\t<string>\n  enum: Fast, Slow\n",
        "  parts\t<[]Object>\n",
        "  size\t<integer> -required-\n    How many parts it may have.\n",
    ] {
        assert!(explained.contains(part), "kubectl 1.{} lacks {part:?}: {explained}", kubectl.minor);
    }
    let typo = WIDGET.replace("size: 3", "size: 3\n  colour: red");
    let refused = fails(kubectl, &server, "apply -f -", &typo);
    assert!(refused.contains("unknown field \"spec.colour\""), "{refused}");
    let strategic = fails(kubectl, &server, "patch wd w --type=strategic -p {\"spec\":{\"size\":4}}", "");
    assert!(
        strategic.contains("UnsupportedMediaType") || strategic.contains("strategic"),
        "{strategic}"
    );
    says(
        kubectl,
        &server,
        "apply --server-side --force-conflicts -f -",
        &WIDGET.replace("3", "5"),
    );

    // A watch sees a change.
    std::thread::scope(|scope| {
        drop(server.asked());
        let waiting = scope.spawn(|| says(kubectl, &server, "wait wd/w --for=jsonpath={.spec.size}=7 --timeout=60s", ""));
        watched(&server);
        says(kubectl, &server, "patch wd w --type=merge -p {\"spec\":{\"size\":7}}", "");
        assert_eq!(waiting.join().unwrap(), "widget.example.com/w condition met\n");
    });
    // It ends with the kind.
    let seen = std::thread::scope(|scope| {
        drop(server.asked());
        let watching = scope.spawn(|| says(kubectl, &server, "get wd --watch --no-headers", ""));
        watched(&server);
        assert!(server.remove("example.com", "v1", "widgets").unwrap());
        watching.join().unwrap()
    });
    assert_eq!(seen.split_whitespace().take(2).collect::<Vec<_>>(), ["w", "7"], "{seen}");
    let gone = fails(kubectl, &server, "get wd", "");
    assert!(
        gone.contains("could not find the requested resource") || gone.contains("doesn't have a resource type"),
        "{gone}"
    );

    server.add(widgets()).unwrap();
    assert_eq!(says(kubectl, &server, "get wd w -o jsonpath={.spec.size}", ""), "7");
    assert_eq!(says(kubectl, &server, "delete wd w", ""), "widget.example.com \"w\" deleted\n");
}

#[test]
fn every_kubectl_follows_a_kind_that_comes_and_goes() {
    for kubectl in kubectls().unwrap() {
        a_kind_comes_and_goes(&kubectl);
    }
}

/// Waits until a kubectl prints what is wanted.
fn until(kubectl: &Kubectl, server: &Server, arguments: &str, wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    loop {
        let said = says(kubectl, server, arguments, "");
        if wanted(&said) {
            return;
        }
        assert!(begun.elapsed() < CONTROLLED, "{arguments}: {said:?} after {CONTROLLED:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn until_gone(kubectl: &Kubectl, server: &Server, object: &str) {
    until(kubectl, server, &format!("get {object} --ignore-not-found -o name"), str::is_empty);
}

/// Makes an object that another owns.
fn owned(kubectl: &Kubectl, server: &Server, (owner, owner_kind): (&str, &str), (name, kind): (&str, &str), finalizers: &[&str]) {
    let uid = says(kubectl, server, &format!("get {owner} -o jsonpath={{.metadata.uid}}"), "");
    let of = |kind: &str| if kind == "Widget" { "example.com/v1" } else { "v1" };
    let owner = json!({"apiVersion": of(owner_kind), "kind": owner_kind, "name": owner.split_once('/').unwrap().1,
        "uid": uid, "blockOwnerDeletion": true});
    let metadata = json!({"name": name, "finalizers": finalizers, "ownerReferences": [owner]});
    let mut object = json!({"apiVersion": of(kind), "kind": kind, "metadata": metadata});
    if kind == "Widget" {
        object["spec"] = json!({"size": 1});
    }
    says(kubectl, server, "create -f -", &object.to_string());
}

const HOLD: &[&str] = &["example.com/hold"];
const RELEASE: &str = "--type=merge -p {\"metadata\":{\"finalizers\":null}}";

#[test]
fn namespaces_are_emptied_of_a_kind_that_came_later() {
    let kubectl = kubectls().unwrap().pop().unwrap();
    let server = Server::start().unwrap();
    server.collect().unwrap();
    server.add(widgets()).unwrap();
    let (kubectl, server) = (&kubectl, &server);
    for namespace in ["shop", "other"] {
        says(kubectl, server, &format!("create namespace {namespace}"), "");
        says(kubectl, server, &format!("create -n {namespace} -f -"), WIDGET);
    }
    let held = WIDGET.replace("name: w", "name: held\n  finalizers: [example.com/hold]");
    says(kubectl, server, "create -n shop -f -", &held);
    says(kubectl, server, "delete namespace shop --wait=false", "");
    until_gone(kubectl, server, "-n shop widget/w");
    let said = |kind: &str| format!("get namespace shop -o jsonpath={{.status.conditions[?(@.type==\"{kind}\")].message}}");
    until(kubectl, server, &said("NamespaceContentRemaining"), |said| {
        said == "Some resources are remaining: widgets.example.com has 1 resource instances"
    });
    until(kubectl, server, &said("NamespaceFinalizersRemaining"), |said| {
        said == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
    });
    let refused = fails(kubectl, server, "create -n shop -f -", WIDGET);
    assert!(refused.contains("because it is being terminated"), "{refused}");
    says(kubectl, server, &format!("patch -n shop widget/held {RELEASE}"), "");
    until_gone(kubectl, server, "namespace/shop");
    assert_eq!(
        says(kubectl, server, "get widgets -A -o jsonpath={.items[*].metadata.namespace}", ""),
        "other"
    );
}

#[test]
fn garbage_of_a_kind_that_came_later_is_collected() {
    let kubectl = kubectls().unwrap().pop().unwrap();
    let server = Server::start().unwrap();
    server.collect().unwrap();
    let (kubectl, server) = (&kubectl, &server);
    says(kubectl, server, "create configmap owner", "");
    // The collector is at work before there is such a kind.
    owned(kubectl, server, ("configmap/owner", "ConfigMap"), ("m", "ConfigMap"), &[]);
    server.add(widgets()).unwrap();
    owned(kubectl, server, ("configmap/owner", "ConfigMap"), ("w", "Widget"), &[]);
    says(kubectl, server, "delete configmap owner", "");
    until_gone(kubectl, server, "widget/w");
    until_gone(kubectl, server, "configmap/m");

    // As an owner: in the background, in the foreground, and of orphans.
    let widget = WIDGET.replace("name: w", "name: owner");
    says(kubectl, server, "create -f -", &widget);
    owned(kubectl, server, ("widget/owner", "Widget"), ("m", "ConfigMap"), &[]);
    says(kubectl, server, "delete widget owner", "");
    until_gone(kubectl, server, "configmap/m");

    says(kubectl, server, "create -f -", &widget);
    owned(kubectl, server, ("widget/owner", "Widget"), ("part", "Widget"), HOLD);
    says(kubectl, server, "delete widget owner --cascade=foreground --wait=false", "");
    until(
        kubectl,
        server,
        "get widget part -o jsonpath={.metadata.deletionTimestamp}",
        |said| !said.is_empty(),
    );
    let waits = says(
        kubectl,
        server,
        "get widget owner -o jsonpath={.metadata.finalizers}:{.metadata.generation}",
        "",
    );
    assert_eq!(waits, "[\"foregroundDeletion\"]:2");
    says(kubectl, server, &format!("patch widget part {RELEASE}"), "");
    until_gone(kubectl, server, "widget/owner");
    until_gone(kubectl, server, "widget/part");

    says(kubectl, server, "create -f -", &widget);
    owned(kubectl, server, ("widget/owner", "Widget"), ("part", "Widget"), &[]);
    says(kubectl, server, "delete widget owner --cascade=orphan", "");
    assert_eq!(
        says(kubectl, server, "get widget part -o jsonpath={.metadata.ownerReferences}", ""),
        ""
    );

    // What lost its owner while its kind was not served goes when it is again.
    says(kubectl, server, "create configmap owner", "");
    owned(kubectl, server, ("configmap/owner", "ConfigMap"), ("w", "Widget"), &[]);
    assert!(server.remove("example.com", "v1", "widgets").unwrap());
    says(kubectl, server, "delete configmap owner", "");
    server.add(widgets()).unwrap();
    until_gone(kubectl, server, "widget/w");
    assert_eq!(says(kubectl, server, "get widgets -o name", ""), "widget.example.com/part\n");
}
