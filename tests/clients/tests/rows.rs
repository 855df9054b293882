//! A kind that is added to a running server and removed from it, as every
//! kubectl sees it.

use std::time::{Duration, Instant};

use api::ResourceId;
use apiserver::registry::{Cell, Column, Resource, Subresource};
use apiserver::table;
use clients::{Kubectl, Server, kubectls};
use serde_json::json;

/// How long a kubectl may take to begin its watch.
const BEGINS: Duration = Duration::from_secs(30);

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
    Resource {
        short_names: vec!["wd".to_owned()],
        columns: vec![
            table::name_column(),
            Column::path("Size", Cell::Integer, "spec.size"),
            table::age_column(),
        ],
        subresources: vec![Subresource::Status],
        ..Resource::plain(id.clone(), "example.com/widgets", api::schema::declare(&id, &document).unwrap())
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
