use std::collections::BTreeMap;

use super::*;
use crate::Limits;

#[tokio::test]
async fn a_watch_begins_with_what_is_there_and_goes_on() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let mut watching = rig.watch(&format!("{MAPS}?watch=true")).await;
    assert_eq!(watching.brief().await, "ADDED a");
    rig.config_map("b", &json!({})).await;
    rig.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"k": "2"}})).await;
    rig.delete(&format!("{MAPS}/b"), None).await;
    assert_eq!(watching.brief().await, "ADDED b");
    let modified = watching.next().await.unwrap();
    assert_eq!(
        (&modified["type"], &modified["object"]["data"]["k"]),
        (&json!("MODIFIED"), &json!("2"))
    );
    let deleted = watching.next().await.unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("b"))
    );
    // The revision of a deletion is its own, not the object's last one.
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], rig.store.revision().to_string());
}

#[tokio::test]
async fn a_watch_from_a_revision_has_all_that_followed() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let at = rig.get(MAPS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    rig.config_map("b", &json!({})).await;
    rig.delete(&format!("{MAPS}/a"), None).await;
    let mut watching = rig.watch(&format!("{MAPS}?watch=true&resourceVersion={at}")).await;
    rig.config_map("c", &json!({})).await;
    assert_eq!(
        [watching.brief().await, watching.brief().await, watching.brief().await],
        ["ADDED b", "DELETED a", "ADDED c"]
    );
}

#[tokio::test]
async fn an_object_that_stops_matching_is_deleted_for_the_watcher() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({"app": "x"})).await;
    rig.config_map("other", &json!({"app": "y"})).await;
    let mut watching = rig.watch(&format!("{MAPS}?watch=true&labelSelector=app%3Dx")).await;
    assert_eq!(watching.brief().await, "ADDED a");
    let label = |app: &str| json!({"metadata": {"labels": {"app": app}}});
    rig.patch(&format!("{MAPS}/a"), "merge-patch", &label("y")).await;
    let gone = watching.next().await.unwrap();
    assert_eq!(
        (&gone["type"], &gone["object"]["metadata"]["labels"]["app"]),
        (&json!("DELETED"), &json!("x"))
    );
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], rig.store.revision().to_string());
    rig.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"k": "unseen"}}))
        .await;
    rig.patch(&format!("{MAPS}/a"), "merge-patch", &label("x")).await;
    assert_eq!(watching.brief().await, "ADDED a");
}

#[tokio::test]
async fn one_object_can_be_watched_by_name() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    rig.config_map("ab", &json!({})).await;
    let mut by_field = rig.watch(&format!("{MAPS}?watch=true&fieldSelector=metadata.name%3Da")).await;
    let mut by_path = rig.watch(&format!("{MAPS}/a?watch=true")).await;
    rig.patch(&format!("{MAPS}/ab"), "merge-patch", &json!({"data": {"k": "2"}})).await;
    rig.delete(&format!("{MAPS}/a"), None).await;
    for watching in [&mut by_field, &mut by_path] {
        assert_eq!([watching.brief().await, watching.brief().await], ["ADDED a", "DELETED a"]);
    }
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_gone() {
    let rig = Rig::with(Limits {
        hub_events: 2,
        ..Limits::default()
    })
    .await;
    rig.config_map("a", &json!({})).await;
    let at = rig.get(MAPS).await.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    for name in ["b", "c", "d"] {
        rig.config_map(name, &json!({})).await;
    }
    // A list waits until the hub has seen them all, and dropped what is over.
    assert_eq!(rig.get(MAPS).await.code, 200);
    let mut watching = rig.watch(&format!("{MAPS}?watch=true&resourceVersion={at}")).await;
    let event = watching.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]["code"], &event["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert!(
        event["object"]["message"]
            .as_str()
            .unwrap()
            .starts_with(&format!("too old resource version: {at} ("))
    );
    assert!(watching.next().await.is_none());
}

#[tokio::test]
async fn bookmarks_say_how_far_a_quiet_watch_is() {
    let rig = Rig::with(Limits {
        bookmark_interval: std::time::Duration::from_millis(20),
        ..Limits::default()
    })
    .await;
    let mut watching = rig.watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true")).await;
    rig.pod("p", None).await;
    let newest = rig.store.revision().to_string();
    // Bookmarks keep coming; one of the next has the revision of the pod.
    loop {
        let event = watching.next().await.unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["kind"]),
            (&json!("BOOKMARK"), &json!("ConfigMap"))
        );
        if event["object"]["metadata"]["resourceVersion"] == newest.as_str() {
            break;
        }
    }
}

#[tokio::test]
async fn initial_events_end_with_a_marked_bookmark() {
    let rig = Rig::new().await;
    rig.config_map("a", &json!({})).await;
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watching = rig.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watching.brief().await, "ADDED a");
    let mark = watching.next().await.unwrap();
    assert_eq!(
        (
            &mark["type"],
            &mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"]
        ),
        (&json!("BOOKMARK"), &json!("true"))
    );
    assert_eq!(mark["object"]["metadata"]["resourceVersion"], rig.store.revision().to_string());
    rig.config_map("b", &json!({})).await;
    assert_eq!(watching.brief().await, "ADDED b");
    assert_eq!(rig.get(&format!("{MAPS}?watch=true&sendInitialEvents=true")).await.code, 422);
    let mut later = rig
        .watch(&format!(
            "{MAPS}?watch=true&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
        ))
        .await;
    rig.config_map("c", &json!({})).await;
    assert_eq!(later.brief().await, "ADDED c");
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over_or_the_server_closes() {
    let rig = Rig::new().await;
    let mut timed = rig
        .watch(&format!("{MAPS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true"))
        .await;
    assert_eq!(timed.brief().await, "BOOKMARK ");
    let mut rest = Vec::new();
    while let Some(event) = timed.next().await {
        rest.push(event["type"].clone());
    }
    assert!(rest.iter().all(|kind| kind == "BOOKMARK"), "{rest:?}");
    let mut open = rig.watch(&format!("{MAPS}?watch=true")).await;
    rig.server.close().await;
    assert!(open.next().await.is_none());
    assert_eq!(rig.get(MAPS).await.code, 503);
}

#[tokio::test]
async fn a_table_watch_describes_its_columns_once() {
    let rig = Rig::new().await;
    rig.pod("a", None).await;
    let mut watching = rig
        .watch_as(&format!("{PODS}?watch=true"), "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await;
    let first = watching.next().await.unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]),
        (&json!("ADDED"), &json!("Table"), &json!("a"))
    );
    assert!(first["object"]["columnDefinitions"].is_array());
    rig.delete(&format!("{PODS}/a"), None).await;
    let second = watching.next().await.unwrap();
    assert_eq!(
        (&second["type"], &second["object"]["columnDefinitions"]),
        (&json!("DELETED"), &Value::Null)
    );
}

#[tokio::test]
async fn a_bookmark_of_a_table_watch_is_a_table_of_one_row() {
    let rig = Rig::new().await;
    let query = "watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan";
    let mut watching = rig
        .watch_as(&format!("{PODS}?{query}"), "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await;
    let mark = watching.next().await.unwrap();
    let (table, revision) = (&mark["object"], rig.store.revision().to_string());
    assert_eq!(
        (&mark["type"], &table["kind"], &table["metadata"]["resourceVersion"]),
        (&json!("BOOKMARK"), &json!("Table"), &json!(revision))
    );
    assert!(
        table["columnDefinitions"].is_array(),
        "the first event describes the columns, whatever it is"
    );
    let row = &table["rows"][0];
    assert_eq!(
        row["cells"].as_array().unwrap()[..5],
        [json!(""), json!("0/0"), json!(""), json!("0"), json!("<unknown>")]
    );
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(
        row["object"]["metadata"],
        json!({"resourceVersion": revision, "annotations": {"k8s.io/initial-events-end": "true"}})
    );
    rig.pod("a", None).await;
    let second = watching.next().await.unwrap();
    assert_eq!(
        (&second["type"], &second["object"]["columnDefinitions"]),
        (&json!("ADDED"), &Value::Null)
    );
}

/// What a watcher has put together from its events.
#[derive(Default)]
struct Mirror {
    objects: BTreeMap<String, Value>,
    revision: u64,
}

impl Mirror {
    fn apply(&mut self, event: &Value) {
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let revision: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(revision > self.revision, "revision {revision} after {}", self.revision);
        self.revision = revision;
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(self.objects.insert(name, object.clone()).is_none(), "added twice"),
            "MODIFIED" => assert!(self.objects.insert(name, object.clone()).is_some(), "modified before it was added"),
            "DELETED" => assert!(self.objects.remove(&name).is_some(), "deleted before it was added"),
            other => panic!("{other}"),
        }
    }
}

/// Several writers at once; watchers that begin in the middle, from a list or
/// from a revision, miss nothing and see nothing twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_under_concurrent_writers_see_every_change_once() {
    let rig = Rig::new().await;
    let write = |writer: u32| {
        let rig = &rig;
        async move {
            for round in 0..25 {
                let name = format!("w{writer}-{}", round % 3);
                let path = format!("{MAPS}/{name}");
                match round % 5 {
                    4 => drop(rig.delete(&path, None).await),
                    _ if rig.get(&path).await.code == 404 => drop(rig.config_map(&name, &json!({"round": round.to_string()})).await),
                    _ => drop(rig.patch(&path, "merge-patch", &json!({"data": {"k": round.to_string()}})).await),
                }
            }
        }
    };
    let follow = |late: Option<&'static str>| {
        let rig = &rig;
        async move {
            if let Some(name) = late {
                rig.config_map(name, &json!({})).await;
            }
            let list = rig.get(MAPS).await.json();
            let mut mirror = Mirror {
                revision: list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap(),
                ..Mirror::default()
            };
            for item in list["items"].as_array().unwrap() {
                mirror
                    .objects
                    .insert(item["metadata"]["name"].as_str().unwrap().to_owned(), item.clone());
            }
            let mut watching = rig.watch(&format!("{MAPS}?watch=true&resourceVersion={}", mirror.revision)).await;
            loop {
                let event = watching.next().await.unwrap();
                mirror.apply(&event);
                if event["object"]["metadata"]["name"] == "end" {
                    return mirror.objects;
                }
            }
        }
    };
    let writers = async {
        futures::future::join_all((0..4).map(write)).await;
        rig.config_map("end", &json!({})).await;
    };
    let ((), one, two, three) = tokio::join!(writers, follow(None), follow(Some("late-1")), follow(Some("late-2")));
    let list = rig.get(MAPS).await.json();
    let truth: BTreeMap<String, Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["metadata"]["name"].as_str().unwrap().to_owned(), item.clone()))
        .collect();
    assert_eq!(one, truth);
    assert_eq!(two, truth);
    assert_eq!(three, truth);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_dropped_alone() {
    let rig = Rig::with(Limits {
        watcher_events: 4,
        ..Limits::default()
    })
    .await;
    let mut slow = rig.watch(&format!("{MAPS}?watch=true")).await;
    let mut quick = rig.watch(&format!("{MAPS}?watch=true")).await;
    for index in 0..20 {
        rig.config_map(&format!("m{index:02}"), &json!({})).await;
        assert_eq!(quick.brief().await, format!("ADDED m{index:02}"));
    }
    let mut seen = 0;
    while let Some(event) = slow.next().await {
        assert_eq!(event["object"]["metadata"]["name"], format!("m{seen:02}"));
        seen += 1;
    }
    assert!(seen < 20, "it was not dropped");
}
