//! Opening, closing and opening again.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use futures::StreamExt;
use redb::{Database, TableDefinition};

use super::*;
use crate::contract::Subject;
use crate::{Op, WatchMessage};

async fn make() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    Subject {
        store: Arc::new(store),
        keep: Box::new(directory),
    }
}

mod contract {
    crate::store_contract!(super::make);
}

fn put(key: &str, value: &str) -> Txn {
    Txn {
        compare: Vec::new(),
        ops: vec![Op::Put(key.to_owned(), value.to_owned().into())],
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[tokio::test]
async fn an_empty_store_is_at_revision_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.revision(), Revision(1));
}

#[tokio::test]
async fn values_and_revisions_survive_closing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    let changed = store.commit(put("a", "2")).await.unwrap();
    store.commit(put("b", "1")).await.unwrap();
    let newest = store
        .commit(Txn {
            compare: Vec::new(),
            ops: vec![Op::Delete("b".to_owned())],
        })
        .await
        .unwrap();
    let before = store.get("a").await.unwrap().unwrap();
    store.close().await.unwrap();

    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.revision(), newest, "removals count too");
    assert_eq!(store.get("a").await.unwrap().unwrap(), before);
    assert_eq!(store.get("b").await.unwrap(), None);
    match store.range("", Some(changed), Page::default()).await {
        Err(StoreError::Compacted { asked, oldest }) => assert_eq!((asked, oldest), (changed, newest)),
        other => panic!("history is not kept, but: {other:?}"),
    }
    assert!(matches!(
        store.watch("", changed).await.map(drop),
        Err(StoreError::Compacted { .. })
    ));
    let mut watch = store.watch("", newest).await.unwrap();
    let next = store.commit(put("c", "1")).await.unwrap();
    assert_eq!(next, Revision(newest.0 + 1));
    match watch.next().await.unwrap().unwrap() {
        WatchMessage::Events(events) => assert_eq!(events[0].revision, next),
        WatchMessage::Progress(at) => panic!("progress to {at} where an event was due"),
    }
}

#[tokio::test]
async fn closing_commits_what_is_queued_and_ends_watches() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(directory.path(), Options::default()).unwrap());
    let mut watch = store.watch("", store.revision()).await.unwrap();
    let commits: Vec<_> = (0..20)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.commit(put(&format!("{number:02}"), "x")).await })
        })
        .collect();
    // Queued, all of them: the tasks run one after the other on this thread.
    tokio::task::yield_now().await;
    store.close().await.unwrap();
    for commit in commits {
        commit.await.unwrap().expect("it was queued before the store was closed");
    }
    let mut seen = 0;
    let last = loop {
        match watch.next().await.unwrap() {
            Ok(WatchMessage::Events(events)) => seen += events.len(),
            Ok(WatchMessage::Progress(_)) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(seen, 20);
    assert!(matches!(last, StoreError::Closed), "{last}");
    assert!(watch.next().await.is_none());
    assert!(matches!(store.commit(put("late", "x")).await, Err(StoreError::Closed)));
    assert!(matches!(store.close().await, Err(StoreError::Closed)));
    assert!(matches!(store.watch("", Revision(1)).await.map(drop), Err(StoreError::Closed)));
}

#[tokio::test]
async fn a_second_opening_is_refused_until_the_first_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    let error = Embedded::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    let said = error.to_string();
    assert!(
        said.contains(directory.path().to_str().unwrap()) && said.contains("is another lifepod running?"),
        "{said}"
    );
    store.close().await.unwrap();
    Embedded::open(directory.path(), Options::default()).unwrap();
}

#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("made/on/the/way");
    let _store = Embedded::open(&directory, Options::default()).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join(FILE_NAME)), 0o600);
    let files: Vec<_> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, [FILE_NAME]);
}

#[tokio::test]
async fn what_a_half_made_store_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("store.redb.new"), "half a store").unwrap();
    let store = Embedded::open(directory.path(), Options::default()).unwrap();
    assert_eq!(store.revision(), Revision(1));
    assert!(!directory.path().join("store.redb.new").exists());
}

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

fn set_format(path: &Path, format: Option<u64>) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(META).unwrap();
        match format {
            Some(format) => meta.insert("format", format).unwrap(),
            None => meta.remove("format").unwrap(),
        };
    }
    transaction.commit().unwrap();
    database.close().unwrap();
}

#[tokio::test]
async fn a_newer_format_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    Embedded::open(directory.path(), Options::default()).unwrap().close().await.unwrap();
    set_format(&path, Some(FORMAT + 1));
    let before = std::fs::read(&path).unwrap();
    let error = Embedded::open(directory.path(), Options::default()).unwrap_err();
    assert!(
        matches!(error, OpenError::NewerFormat { found, .. } if found == FORMAT + 1),
        "{error}"
    );
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
    set_format(&path, Some(FORMAT));
    Embedded::open(directory.path(), Options::default()).unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused_untouched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE_NAME);
    for strange in ["", "this is a text"] {
        std::fs::write(&path, strange).unwrap();
        let error = Embedded::open(directory.path(), Options::default()).unwrap_err();
        assert!(chain(&error).contains(path.to_str().unwrap()), "{}", chain(&error));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), strange);
    }
    std::fs::remove_file(&path).unwrap();
    Embedded::open(directory.path(), Options::default()).unwrap().close().await.unwrap();
    set_format(&path, None);
    let error = Embedded::open(directory.path(), Options::default()).unwrap_err();
    assert!(matches!(error, OpenError::NotAStore { .. }), "{error}");
}
