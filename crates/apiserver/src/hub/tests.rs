use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use futures::StreamExt;
use store::{Compare, Op, Range, Txn, Versioned};

use super::*;

/// A store whose watches can be made to fail.
struct Flaky {
    inner: Arc<dyn Store>,
    lags: AtomicBool,
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str, at: Option<Revision>, page: Page) -> Result<Range, StoreError> {
        self.inner.range(prefix, at, page).await
    }
    async fn commit(&self, txn: Txn) -> Result<Revision, StoreError> {
        self.inner.commit(txn).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let lags = self.lags.swap(false, Ordering::SeqCst);
        let watch = self.inner.watch(prefix, after).await?;
        // The first change is delivered, then the watch is over.
        Ok(if lags {
            watch
                .take(1)
                .chain(futures::stream::iter([Err(StoreError::Lagged { at: after })]))
                .boxed()
        } else {
            watch
        })
    }
    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.inner.compact(through).await
    }
    fn revision(&self) -> Revision {
        self.inner.revision()
    }
}

struct Rig {
    store: Arc<Flaky>,
    hub: Arc<Hub>,
    tasks: tokio::task::JoinSet<()>,
    _directory: tempfile::TempDir,
}

async fn rig(lags: bool, limits: Limits) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let inner = Arc::new(store::Embedded::open(directory.path(), store::Options::default()).unwrap());
    let store = Arc::new(Flaky {
        inner,
        lags: AtomicBool::new(lags),
    });
    let mut tasks = tokio::task::JoinSet::new();
    let (hub, follow) = Hub::open(
        Arc::clone(&store) as Arc<dyn Store>,
        "/registry/x/",
        Some(|object| object.str_at("spec.nodeName")),
        &limits,
        CancellationToken::new(),
    )
    .await
    .unwrap();
    tasks.spawn(follow);
    Rig {
        store,
        hub,
        tasks,
        _directory: directory,
    }
}

impl Rig {
    async fn put(&self, name: &str) -> u64 {
        let value = format!("{{\"kind\":\"X\",\"metadata\":{{\"name\":\"{name}\"}}}}");
        let txn = Txn {
            compare: Vec::<Compare>::new(),
            ops: vec![Op::Put(format!("/registry/x/{name}"), value.into())],
        };
        self.store.commit(txn).await.unwrap().0
    }

    async fn names(&self) -> Vec<String> {
        assert!(self.hub.reach(self.store.revision().0, Duration::from_secs(20)).await);
        self.hub
            .page("/registry/x/", None, None, |_| true)
            .entries
            .iter()
            .map(|entry| entry.object.name().to_owned())
            .collect()
    }
}

async fn change(subscription: &mut Subscription) -> Option<String> {
    match tokio::time::timeout(Duration::from_secs(20), subscription.changes.recv())
        .await
        .unwrap()?
    {
        Message::Change(change) => Some(format!("{} {}", change.revision, change.key)),
        Message::Progress(revision) => Some(format!("progress {revision}")),
    }
}

#[tokio::test]
async fn what_is_not_an_object_is_left_out() {
    let rig = rig(false, Limits::default()).await;
    rig.put("a").await;
    let txn = Txn {
        compare: Vec::new(),
        ops: vec![Op::Put("/registry/x/broken".into(), "not json".into())],
    };
    rig.store.commit(txn).await.unwrap();
    rig.put("b").await;
    assert_eq!(rig.names().await, ["a", "b"]);
}

#[tokio::test]
async fn a_hub_that_lost_the_store_begins_anew() {
    let mut rig = rig(true, Limits::default()).await;
    let mut before = rig.hub.subscribe("/registry/x/", &From::Now, false).unwrap();
    let first = rig.put("a").await;
    let second = rig.put("b").await;
    assert_eq!(rig.names().await, ["a", "b"]);
    // The watcher saw the first change or not; then it was let go.
    let seen = change(&mut before).await;
    assert!(seen.is_none() || seen == Some(format!("{first} /registry/x/a")), "{seen:?}");
    while change(&mut before).await.is_some() {}
    let third = rig.put("c").await;
    rig.names().await;
    let after = rig.hub.subscribe("/registry/x/", &From::After(second), false).unwrap();
    assert_eq!(after.backlog.iter().map(|change| change.revision).collect::<Vec<_>>(), [third]);
    assert!(rig.tasks.try_join_next().is_none(), "it still follows");
}

#[tokio::test]
async fn the_ring_is_bounded_and_says_so() {
    let rig = rig(
        false,
        Limits {
            hub_events: 3,
            ..Limits::default()
        },
    )
    .await;
    let mut revisions = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        revisions.push(rig.put(name).await);
    }
    rig.names().await;
    let from = |at: u64| {
        rig.hub
            .subscribe("/registry/x/", &From::After(at), false)
            .map(|subscription| subscription.backlog.len())
    };
    assert_eq!(
        from(revisions[0]),
        Err(NoStart::TooOld {
            asked: revisions[0],
            oldest: revisions[1]
        })
    );
    assert_eq!(from(revisions[1]), Ok(3));
    assert_eq!(from(revisions[4]), Ok(0));
}

#[tokio::test]
async fn large_objects_leave_room_for_fewer_changes() {
    // Each object is 36 bytes as it is put here.
    let rig = rig(
        false,
        Limits {
            hub_bytes: 80,
            ..Limits::default()
        },
    )
    .await;
    let mut revisions = Vec::new();
    for name in ["a", "b", "c", "d"] {
        revisions.push(rig.put(name).await);
    }
    rig.names().await;
    let refused = rig.hub.subscribe("/registry/x/", &From::After(0), false).map(|_| ());
    let oldest = revisions[1];
    assert_eq!(refused, Err(NoStart::TooOld { asked: 0, oldest }));
}

#[tokio::test]
async fn a_watcher_gets_only_its_prefix_and_progress_if_asked() {
    let rig = rig(
        false,
        Limits {
            bookmark_interval: Duration::from_millis(5),
            ..Limits::default()
        },
    )
    .await;
    rig.names().await;
    let mut narrow = rig.hub.subscribe("/registry/x/b", &From::Now, false).unwrap();
    let mut marked = rig.hub.subscribe("/registry/x/none", &From::Now, true).unwrap();
    rig.put("a").await;
    let at = rig.put("b").await;
    assert_eq!(change(&mut narrow).await.unwrap(), format!("{at} /registry/x/b"));
    while change(&mut marked).await.unwrap() != format!("progress {at}") {}
}

#[tokio::test]
async fn a_hub_s_answer_is_never_older_than_asked() {
    let rig = rig(false, Limits::default()).await;
    assert!(!rig.hub.reach(1_000_000, Duration::from_millis(5)).await);
    assert!(rig.hub.get("/registry/x/a", 1_000_000).is_none());
    let at = rig.put("a").await;
    assert!(rig.hub.reach(at, Duration::from_secs(20)).await);
    assert_eq!(rig.hub.get("/registry/x/a", at).unwrap().unwrap().unwrap().revision, at);
    assert!(rig.hub.get("/registry/x/b", at).unwrap().unwrap().is_none());
}

/// Announces a version and stores it, unless somebody has done so: the entry
/// its writer gets, or what it is given back.
async fn write(rig: &Rig, name: &str) -> Result<Arc<Entry>, Box<Object>> {
    let key = format!("/registry/x/{name}");
    let object: Object = serde_json::from_value(serde_json::json!({"kind": "X", "metadata": {"name": name}})).unwrap();
    let bytes = Bytes::from(serde_json::to_vec(&object).unwrap());
    let expected = rig.hub.expect(object, bytes.clone());
    let txn = Txn {
        compare: vec![Compare::Absent(key.clone())],
        ops: vec![Op::Put(key.clone(), bytes)],
    };
    match rig.store.commit(txn).await {
        Ok(revision) => {
            // Now the news are first, now the writer is.
            if revision.0.is_multiple_of(2) {
                assert!(rig.hub.reach(revision.0, Duration::from_secs(5)).await);
            }
            Ok(expected.stored(&key, revision.0))
        }
        Err(_) => Err(expected.withdraw()),
    }
}

#[tokio::test]
async fn who_wrote_a_version_and_who_reads_the_news_of_it_have_the_same() {
    let rig = rig(false, Limits::default()).await;
    for number in 0..20 {
        let name = format!("n{number}");
        let entry = write(&rig, &name).await.unwrap();
        assert_eq!(entry.object.meta.resource_version, Some(entry.revision.to_string()));
        assert!(rig.hub.reach(entry.revision, Duration::from_secs(5)).await);
        let known = rig.hub.get(&entry.key, entry.revision).unwrap().unwrap().unwrap();
        assert!(Arc::ptr_eq(&known, &entry), "{name} was decoded again");
        let back = write(&rig, &name).await.unwrap_err();
        assert_eq!(back.meta.name.as_deref(), Some(name.as_str()), "it was there before");
    }
    assert_eq!(rig.hub.written.len(), 0);
}

#[tokio::test]
async fn versions_nobody_comes_for_are_forgotten() {
    let rig = rig(false, Limits::default()).await;
    let object = Object::default();
    drop(rig.hub.expect(object.clone(), Bytes::from_static(b"given up")));
    assert_eq!(rig.hub.written.len(), 0);
    // Stored under these bytes, but the store tells of others.
    let key = "/registry/x/sealed";
    let revision = rig.put("sealed").await;
    let expected = rig.hub.expect(object, Bytes::from_static(b"in plain words"));
    assert!(rig.hub.reach(revision, Duration::from_secs(5)).await);
    assert_eq!(expected.stored(key, revision).revision, revision);
    let next = rig.put("next").await;
    assert!(rig.hub.reach(next, Duration::from_secs(5)).await);
    assert_eq!(rig.hub.written.len(), 0);
}
