//! Rows that come and go, seen by clients.

use api::ResourceId;
use http::{Method, Request};
use serde_json::{Value, json};

use super::AddError;
use crate::body;
use crate::registry::{Cell, Column, Field, Resource, Subresource};
use crate::testing::{Answer, Rig};
use crate::{Identity, kinds, table};

const GROUP: &str = "/apis/example.com/v1";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";
const STRICT: &str = "/apis/example.com/v1/namespaces/default/widgets?fieldValidation=Strict";

/// A row made of a document, as a definition of a custom resource would be.
fn widgets() -> Resource {
    widgets_with(vec![Subresource::Status])
}

fn widgets_with(subresources: Vec<Subresource>) -> Resource {
    let id = ResourceId::new("example.com", "v1", "Widget", "widgets");
    let document = json!({"type": "object", "description": "Widget is made of parts.", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "format": "int32", "description": "How many parts it may have."},
            "mode": {"type": "string", "enum": ["Fast", "Slow"], "default": "Slow"},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "properties": {"name": {"type": "string"}, "weight": {"type": "integer"}}}},
        }},
        "status": {"type": "object", "properties": {"ready": {"type": "boolean"}}},
    }});
    let schema = api::schema::declare(&id, &document).unwrap();
    // Nothing of it is known when the program is built.
    let column = |name: &str, path: &str| Column::path(name.to_owned(), Cell::Integer, path.to_owned()).described(format!("At {path}."));
    Resource {
        short_names: vec!["wd".to_owned()],
        fields: vec![Field::path("spec.size".to_owned())],
        columns: vec![table::name_column(), column("Size", ".spec.size"), table::age_column()],
        deprecation: Some(format!("{} v1 is deprecated; use v2", id.kind).into()),
        ..kinds::custom_resource(id, "example.com/widgets".to_owned(), schema, subresources)
    }
}

fn widget(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name, "labels": {"app": name}}, "spec": {"size": 3}})
}

fn names(list: &Answer) -> Vec<String> {
    let list = list.json();
    let items = list["items"].as_array().unwrap_or_else(|| panic!("{list}"));
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

fn etag(answer: &Answer) -> String {
    answer.headers[http::header::ETAG].to_str().unwrap().to_owned()
}

/// What clients learn of what is served.
async fn told(rig: &Rig) -> (bool, bool, bool, bool) {
    let groups = rig.get("/apis").await.json();
    let groups = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .any(|group| group["name"] == "example.com");
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = rig.get_as("/apis", aggregated).await.json();
    let aggregated = aggregated["items"]
        .as_array()
        .unwrap()
        .iter()
        .any(|group| group["metadata"]["name"] == "example.com");
    let v3 = rig.get("/openapi/v3").await.json()["paths"].get("apis/example.com/v1").is_some();
    let v2 = rig.get("/openapi/v2").await.json()["definitions"]
        .get("com.example.v1.Widget")
        .is_some();
    (groups, aggregated, v3, v2)
}

#[tokio::test]
async fn a_row_is_served_from_when_it_is_added_until_it_is_removed_and_again() {
    let rig = Rig::new().await;
    let mut maps = rig.watch("/api/v1/namespaces/default/configmaps?watch=1&resourceVersion=0").await;
    let nothing = rig.get(WIDGETS).await;
    assert_eq!(nothing.brief(), "404 the server could not find the requested resource");
    assert_eq!(told(&rig).await, (false, false, false, false));
    let (index, core_v1) = (rig.get("/openapi/v3").await, rig.get("/openapi/v3/api/v1").await);

    rig.server.add(widgets()).await.unwrap();
    assert_eq!(told(&rig).await, (true, true, true, true));
    assert_ne!(etag(&rig.get("/openapi/v3").await), etag(&index));
    assert_eq!(etag(&rig.get("/openapi/v3/api/v1").await), etag(&core_v1));
    let resources = rig.get(GROUP).await.json();
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(resources["resources"][1]["name"], "widgets/status");

    let mut watching = rig.watch(&format!("{WIDGETS}?watch=1&labelSelector=app%3Da")).await;
    assert_eq!(
        rig.post(WIDGETS, &widget("a")).await.json()["spec"],
        json!({"size": 3, "mode": "Slow"})
    );
    assert_eq!(rig.post(WIDGETS, &widget("b")).await.code, 201);
    assert_eq!(watching.brief().await, "ADDED a");
    assert_eq!(names(&rig.get(WIDGETS).await), ["a", "b"]);
    assert_eq!(names(&rig.get("/apis/example.com/v1/widgets?labelSelector=app%3Db").await), ["b"]);
    assert_eq!(names(&rig.get(&format!("{WIDGETS}?fieldSelector=metadata.name%3Da")).await), ["a"]);
    let table = rig.get_as(WIDGETS, "application/json;as=Table;v=v1;g=meta.k8s.io").await.json();
    assert_eq!(table["columnDefinitions"][1]["name"], "Size");
    assert_eq!(table["columnDefinitions"][1]["description"], "At .spec.size.");
    assert_eq!(table["rows"][0]["cells"][1], 3);
    let sized = rig.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D3")).await;
    assert_eq!(
        (names(&sized), sized.warnings()),
        (
            vec!["a".to_owned(), "b".to_owned()],
            vec!["299 - \"Widget v1 is deprecated; use v2\"".to_owned()]
        )
    );
    assert_eq!(names(&rig.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D4")).await), [""; 0]);
    let before = rig.store.revision().0;

    assert!(rig.server.remove("example.com", "v1", "widgets").await);
    assert_eq!(watching.brief().await, "END");
    for (method, path) in [(Method::GET, WIDGETS), (Method::POST, WIDGETS), (Method::GET, GROUP)] {
        let gone = rig.send(method, path, "application/json", widget("c").to_string()).await;
        assert_eq!(gone.brief(), "404 the server could not find the requested resource", "{path}");
    }
    assert_eq!(told(&rig).await, (false, false, false, false));
    assert_eq!(etag(&rig.get("/openapi/v3").await), etag(&index));
    assert!(!rig.server.remove("example.com", "v1", "widgets").await);
    let stored = rig
        .store
        .range("/registry/example.com/widgets/", None, store::Page::default())
        .await
        .unwrap();
    assert_eq!(stored.entries.len(), 2);
    // Nobody else noticed.
    rig.config_map("m", &json!({})).await;
    assert_eq!((maps.brief().await, rig.get("/readyz").await.code), ("ADDED m".to_owned(), 200));
    let metrics = rig.get("/metrics").await;
    assert!(
        !String::from_utf8_lossy(&metrics.text).contains("widgets.example.com\"} "),
        "its objects are not told"
    );

    rig.server.add(widgets()).await.unwrap();
    assert_eq!(names(&rig.get(WIDGETS).await), ["a", "b"]);
    // The hub is a new one: what happened before has to be listed.
    let mut late = rig.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", before - 1)).await;
    let expired = late.next().await.unwrap();
    assert_eq!((&expired["type"], &expired["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let mut again = rig.watch(&format!("{WIDGETS}?watch=1")).await;
    assert_eq!(
        (again.brief().await, again.brief().await),
        ("ADDED a".to_owned(), "ADDED b".to_owned())
    );
    rig.delete(&format!("{WIDGETS}/a"), None).await;
    assert_eq!(again.brief().await, "DELETED a");
}

#[tokio::test]
async fn the_document_says_what_is_a_widget() {
    let rig = Rig::new().await;
    rig.server.add(widgets()).await.unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut widget = widget("a");
        change(&mut widget);
        widget
    };
    let unknown = with(&|widget| widget["spec"]["colour"] = json!("red"));
    assert_eq!(
        rig.post(STRICT, &unknown).await.brief(),
        "400 Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: unknown field \"spec.colour\""
    );
    let warned = rig.post(&format!("{WIDGETS}?dryRun=All&fieldValidation=Warn"), &unknown).await;
    assert_eq!(
        (warned.code, &warned.warnings()[0]),
        (201, &"299 - \"unknown field \\\"spec.colour\\\"\"".to_owned())
    );
    assert_eq!(warned.json()["spec"].get("colour"), None);
    let wrong = with(&|widget| widget["spec"] = json!({"size": "3", "mode": "Warp"}));
    assert_eq!(
        rig.post(WIDGETS, &wrong).await.brief(),
        "422 Widget.example.com \"a\" is invalid: [spec.mode: Unsupported value: \"Warp\": supported values: \"Fast\", \"Slow\", \
         spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"]"
    );
    let without = with(&|widget| widget["spec"] = json!({}));
    assert_eq!(
        rig.post(WIDGETS, &without).await.brief(),
        "422 Widget.example.com \"a\" is invalid: spec.size: Required value"
    );

    // No keys to merge lists by, and no protobuf form.
    assert_eq!(rig.post(WIDGETS, &widget("a")).await.code, 201);
    let one = format!("{WIDGETS}/a");
    assert_eq!(
        rig.patch(&one, "strategic-merge-patch", &json!({"spec": {"size": 4}}))
            .await
            .brief(),
        "415 the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    assert_eq!(
        rig.patch(&one, "merge-patch", &json!({"spec": {"size": 4}})).await.json()["spec"]["size"],
        4
    );
    assert_eq!(rig.get_as(&one, "application/vnd.kubernetes.protobuf").await.code, 406);
    let status = rig
        .patch(
            &format!("{one}/status"),
            "merge-patch",
            &json!({"spec": {"size": 9}, "status": {"ready": true}}),
        )
        .await
        .json();
    assert_eq!((&status["spec"]["size"], &status["status"]), (&json!(4), &json!({"ready": true})));

    let document = rig.get("/openapi/v3/apis/example.com/v1").await.json();
    let shape = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(
        shape["properties"]["spec"]["properties"]["size"]["description"],
        "How many parts it may have."
    );
    assert_eq!(shape["properties"]["spec"]["required"], json!(["size"]));
    assert_eq!(
        shape["properties"]["spec"]["properties"]["parts"]["x-kubernetes-list-map-keys"],
        json!(["name"])
    );
    assert_eq!(shape["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(document["components"]["schemas"].get("com.example.v1.WidgetList").is_some());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    let bodies: Vec<&String> = patch["requestBody"]["content"].as_object().unwrap().keys().collect();
    assert_eq!(
        bodies,
        [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json"
        ]
    );
}

/// Source: upstream `apiextensions-apiserver/pkg/registry/customresource/strategy_test.go`.
#[tokio::test]
async fn generations_count_what_is_wanted() {
    let rig = Rig::new().await;
    let one = format!("{WIDGETS}/a");
    let generation = |answer: &Answer| answer.json()["metadata"]["generation"].clone();
    let change = async |path: &str, patch: Value| {
        let answer = rig.patch(path, "merge-patch", &patch).await;
        assert_eq!(answer.code, 200, "{}", answer.brief());
        generation(&answer)
    };
    rig.server.add(widgets()).await.unwrap();
    let mut first = widget("a");
    first["metadata"]["generation"] = json!(7);
    first["status"] = json!({"ready": true});
    let made = rig.post(WIDGETS, &first).await;
    assert_eq!((generation(&made), made.json().get("status")), (json!(1), None));
    assert_eq!(change(&one, json!({"metadata": {"labels": {"x": "y"}}})).await, 1);
    assert_eq!(
        change(&one, json!({"metadata": {"generation": 5}, "status": {"ready": true}})).await,
        1
    );
    assert_eq!(change(&one, json!({"spec": {"size": 4}})).await, 2);
    assert_eq!(change(&one, json!({"spec": {"size": 4}})).await, 2);
    let status = format!("{one}/status");
    let both = json!({"metadata": {"labels": {"x": "z"}, "annotations": {"a": "b"}}, "spec": {"size": 5}, "status": {"ready": true}});
    assert_eq!(change(&status, both).await, 2);
    let now = rig.get(&one).await.json();
    assert_eq!(
        (
            &now["spec"]["size"],
            &now["status"],
            &now["metadata"]["labels"]["x"],
            now["metadata"].get("annotations")
        ),
        (&json!(4), &json!({"ready": true}), &json!("y"), None)
    );

    let emptied = json!({"metadata": {"labels": {}, "finalizers": [], "ownerReferences": []}});
    assert_eq!(change(&one, emptied).await, 2);
    let labels = json!({"metadata": {"labels": {"app": null, "x": null}}});
    assert_eq!(change(&one, labels).await, 2);
    let now = rig.get(&one).await.json();
    let has = |field: &str| now["metadata"].get(field).is_some();
    assert_eq!(
        (has("labels"), has("finalizers"), has("ownerReferences")),
        (false, false, false),
        "{now}"
    );

    // Without the subresource, status is a field as any other.
    assert!(rig.server.remove("example.com", "v1", "widgets").await);
    rig.server.add(widgets_with(Vec::new())).await.unwrap();
    assert_eq!(
        rig.patch(&status, "merge-patch", &json!({"status": {"ready": false}})).await.code,
        404
    );
    assert_eq!(change(&one, json!({"status": {"ready": false}})).await, 3);
    assert_eq!(change(&one, json!({"metadata": {"labels": {"x": "w"}}})).await, 3);
    let mut whole = widget("b");
    whole["status"] = json!({"ready": true});
    let made = rig.post(WIDGETS, &whole).await;
    assert_eq!((generation(&made), &made.json()["status"]), (json!(1), &json!({"ready": true})));
}

#[tokio::test]
async fn server_side_apply_owns_by_the_document() {
    let rig = Rig::new().await;
    rig.server.add(widgets()).await.unwrap();
    let one = format!("{WIDGETS}/a");
    let config = |spec: &str| format!("apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: a}}\nspec: {spec}");
    let made = rig.apply(&one, "first", &config("{size: 3, parts: [{name: x, weight: 1}]}")).await;
    assert_eq!(made.code, 201, "{:?}", made.text);
    let both = rig.apply(&one, "second", &config("{parts: [{name: z, weight: 2}]}")).await;
    let parts = json!([{"name": "x", "weight": 1}, {"name": "z", "weight": 2}]);
    assert_eq!(
        (both.code, &both.json()["spec"]["parts"]),
        (200, &parts),
        "lists are merged by their keys"
    );
    let conflict = rig.apply(&one, "second", &config("{size: 5, parts: [{name: z, weight: 2}]}")).await;
    assert_eq!(
        conflict.brief(),
        "409 Apply failed with 1 conflict: conflict with \"first\": .spec.size"
    );
    let dropped = rig.apply(&one, "first", &config("{size: 3}")).await.json();
    assert_eq!(dropped["spec"]["parts"], json!([{"name": "z", "weight": 2}]));
    let wrong = rig.apply(&one, "first", &config("{size: 3, colour: red}")).await;
    assert!(
        wrong.message().ends_with(".spec.colour: field not declared in schema"),
        "{}",
        wrong.message()
    );
}

#[tokio::test]
async fn roles_hold_for_a_row_that_came_later() {
    let rig = Rig::new().await;
    let ask = async |path: &str| {
        let request = Request::get(path).body(body::empty()).unwrap();
        rig.request(Some(Identity::new("jane", &[])), request).await.brief()
    };
    let role =
        json!({"metadata": {"name": "widgets"}, "rules": [{"apiGroups": ["example.com"], "resources": ["widgets"], "verbs": ["list"]}]});
    let binding = json!({"metadata": {"name": "widgets"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "widgets"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    let refused = "403 widgets.example.com is forbidden: User \"jane\" cannot list resource \"widgets\" in API group \"example.com\" in the namespace \"default\"";
    assert_eq!(ask(WIDGETS).await, refused);
    for (plural, object) in [("clusterroles", &role), ("clusterrolebindings", &binding)] {
        assert_eq!(
            rig.post(&format!("/apis/rbac.authorization.k8s.io/v1/{plural}"), object).await.code,
            201
        );
    }
    assert_eq!(ask(WIDGETS).await, "404 the server could not find the requested resource");
    rig.server.add(widgets()).await.unwrap();
    assert_eq!(ask(WIDGETS).await, "200 ");
    assert!(ask(&format!("{WIDGETS}/a")).await.starts_with("403 "));
}

#[tokio::test]
async fn a_storage_is_read_as_long_as_one_of_its_rows_is_served() {
    let rig = Rig::new().await;
    let (core, events) = (
        "/api/v1/namespaces/default/events",
        "/apis/events.k8s.io/v1/namespaces/default/events",
    );
    let mut by_core = rig.watch(&format!("{core}?watch=1")).await;
    let mut by_group = rig.watch(&format!("{events}?watch=1")).await;
    assert!(rig.server.remove("events.k8s.io", "v1", "events").await);
    assert_eq!((by_group.brief().await, rig.get(events).await.code), ("END".to_owned(), 404));
    let event = json!({"metadata": {"name": "e"}, "involvedObject": {"namespace": "default"}, "reason": "R", "type": "Normal"});
    assert_eq!(rig.post(core, &event).await.code, 201);
    assert_eq!(by_core.brief().await, "ADDED e");
    // A built-in row is added as any other.
    let again = kinds::rows().into_iter().find(|row| row.id.group == "events.k8s.io").unwrap();
    rig.server.add(again).await.unwrap();
    assert_eq!(names(&rig.get(events).await), ["e"]);
    assert!(rig.server.remove("", "v1", "events").await);
    assert_eq!(
        (by_core.brief().await, names(&rig.get(events).await)),
        ("END".to_owned(), vec!["e".to_owned()])
    );
}

#[tokio::test]
async fn what_is_taken_is_not_added() {
    let rig = Rig::new().await;
    rig.server.add(widgets()).await.unwrap();
    let why = async |row: Resource| rig.server.add(row).await.unwrap_err().to_string();
    assert_eq!(
        why(widgets()).await,
        "widgets.example.com is not served: the resource widgets of example.com/v1 is served already"
    );
    let mut other = widgets();
    "gadgets".clone_into(&mut other.id.plural);
    assert_eq!(
        why(other).await,
        "gadgets.example.com is not served: the kind Widget of example.com/v1 is served already"
    );
    let mut shared = widgets();
    shared.id = ResourceId::new("example.com", "v2", "Widget", "widgets");
    shared.ttl = Some(std::time::Duration::from_secs(60));
    let refused = rig.server.add(shared).await.unwrap_err();
    assert!(matches!(refused, AddError::Storage { .. }), "{refused}");
    assert_eq!(rig.get("/apis/example.com/v2").await.code, 404);
}

/// Requests of all kinds meet a row that comes and goes. Each is answered as by
/// a server with the row or by one without; what was acknowledged is there in
/// the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_under_way_are_answered_with_the_row_or_without() {
    const WRITERS: usize = 4;
    const EACH: usize = 40;
    let rig = Rig::new().await;
    rig.server.add(widgets()).await.unwrap();
    let rig = &rig;
    let writer = async |writer: usize| {
        let mut made = Vec::new();
        for n in 0..EACH {
            let name = format!("w{writer}-{n}");
            let answer = rig.post(WIDGETS, &widget(&name)).await;
            assert!(matches!(answer.code, 201 | 404), "{}", answer.brief());
            if answer.code == 201 {
                made.push(name.clone());
            }
            for (path, codes) in [
                (WIDGETS.to_owned(), [200, 404]),
                (format!("{WIDGETS}/{name}"), [200, 404]),
                ("/readyz".to_owned(), [200, 200]),
            ] {
                let answer = rig.get(&path).await;
                assert!(codes.contains(&answer.code), "{path}: {} {:?}", answer.code, answer.text);
            }
            assert_eq!(rig.get("/api/v1/namespaces/default/configmaps").await.code, 200);
        }
        made
    };
    let changes = async {
        for _ in 0..EACH {
            assert!(rig.server.remove("example.com", "v1", "widgets").await);
            tokio::task::yield_now().await;
            rig.server.add(widgets()).await.unwrap();
            // A watch of the row, which its next removal ends.
            let mut watching = rig.watch(&format!("{WIDGETS}?watch=1&timeoutSeconds=1")).await;
            let _ = tokio::time::timeout(std::time::Duration::from_millis(1), watching.next()).await;
        }
    };
    let (made, ()) = futures::join!(futures::future::join_all((0..WRITERS).map(writer)), changes);
    let mut made: Vec<String> = made.concat();
    made.sort();
    assert!(!made.is_empty());
    let mut there = names(&rig.get(WIDGETS).await);
    there.sort();
    assert_eq!(there, made);
}
