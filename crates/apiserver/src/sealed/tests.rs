use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::testing::Rig;

const KEY: &str = "/registry/secrets/default/s";

fn put(key: &str, value: &'static str) -> Txn {
    Txn {
        compare: vec![],
        ops: vec![Op::Put(key.to_owned(), Bytes::from_static(value.as_bytes()))],
    }
}

struct Scratch {
    dir: tempfile::TempDir,
    inner: Arc<dyn Store>,
    keys: Keys,
}

fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let inner: Arc<dyn Store> = Arc::new(store::Embedded::open(&dir.path().join("store"), store::Options::default()).unwrap());
    let keys = Keys::open_or_create(&dir.path().join("keys")).unwrap();
    Scratch { dir, inner, keys }
}

impl Scratch {
    fn sealed(&self) -> Sealed {
        Sealed::new(Arc::clone(&self.inner), self.keys.clone())
    }

    async fn raw(&self, key: &str) -> Bytes {
        self.inner.get(key).await.unwrap().unwrap().value
    }
}

#[tokio::test]
async fn what_is_sealed_is_not_on_disk_and_reads_as_it_was() {
    let scratch = scratch();
    let sealed = scratch.sealed();
    let mut watch = sealed.watch("/registry/secrets/", sealed.revision()).await.unwrap();
    sealed.commit(put(KEY, r#"{"data":"hunter2"}"#)).await.unwrap();
    sealed
        .commit(put("/registry/configmaps/default/c", r#"{"data":"plain"}"#))
        .await
        .unwrap();
    let raw = scratch.raw(KEY).await;
    assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:key1:"), "{raw:?}");
    assert!(!raw.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(scratch.raw("/registry/configmaps/default/c").await, r#"{"data":"plain"}"#);
    assert_eq!(sealed.get(KEY).await.unwrap().unwrap().value, r#"{"data":"hunter2"}"#);
    let range = sealed.range("/registry/", None, Page::default()).await.unwrap();
    assert_eq!(range.entries[1].1.value, r#"{"data":"hunter2"}"#);
    loop {
        if let WatchMessage::Events(events) = watch.next().await.unwrap().unwrap() {
            assert_eq!(events[0].value.as_ref().unwrap().value, r#"{"data":"hunter2"}"#);
            break;
        }
    }
    // The same value never looks the same.
    sealed
        .commit(put("/registry/secrets/default/t", r#"{"data":"hunter2"}"#))
        .await
        .unwrap();
    assert_ne!(scratch.raw("/registry/secrets/default/t").await, raw);
    let mode = std::fs::metadata(scratch.dir.path().join("keys")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_value_moved_or_altered_does_not_open() {
    let scratch = scratch();
    let sealed = scratch.sealed();
    sealed.commit(put(KEY, "{}")).await.unwrap();
    let raw = scratch.raw(KEY).await;
    assert!(matches!(
        scratch.keys.open("/registry/secrets/default/other", &raw),
        Err(KeysError::Altered)
    ));
    for at in 0..raw.len() {
        let mut altered = raw.to_vec();
        altered[at] ^= 1;
        let opened = scratch.keys.open(KEY, &altered.into());
        // A broken envelope is no envelope: what it holds is no JSON either.
        assert!(opened.is_err() || !opened.unwrap().plain.starts_with(b"{"), "byte {at}");
    }
    for cut in 0..raw.len() {
        let opened = scratch.keys.open(KEY, &raw.slice(..cut));
        assert!(opened.is_err() || !opened.unwrap().plain.starts_with(b"{"), "cut at {cut}");
    }
    let other = Keys::open_or_create(&scratch.dir.path().join("others")).unwrap();
    assert!(matches!(other.open(KEY, &raw), Err(KeysError::Altered)));
    let renamed = other.with_new().unwrap().newest_only();
    assert!(matches!(renamed.open(KEY, &raw), Err(KeysError::Unknown { name }) if name == "key1"));
}

#[tokio::test]
async fn plain_values_and_old_keys_are_sealed_anew() {
    let scratch = scratch();
    for n in 0..100 {
        scratch
            .inner
            .commit(put(&format!("/registry/secrets/default/s{n}"), r#"{"n":1}"#))
            .await
            .unwrap();
    }
    let sealed = scratch.sealed();
    assert_eq!(
        sealed.get("/registry/secrets/default/s7").await.unwrap().unwrap().value,
        r#"{"n":1}"#
    );
    assert_eq!(sealed.reseal().await.unwrap().count, 100);
    assert_eq!(sealed.reseal().await.unwrap().count, 0);
    assert!(scratch.raw("/registry/secrets/default/s99").await.starts_with(b"k8s:enc:"));

    // A rotation: both keys, seal anew, the new key alone.
    let path = scratch.dir.path().join("keys");
    let both = scratch.keys.with_new().unwrap();
    both.write(&path).unwrap();
    let both = Keys::open_or_create(&path).unwrap();
    assert_eq!(both.newest(), "key2");
    assert_eq!(
        Sealed::new(Arc::clone(&scratch.inner), both.clone()).reseal().await.unwrap().count,
        100
    );
    both.newest_only().write(&path).unwrap();
    let alone = Sealed::new(Arc::clone(&scratch.inner), Keys::open_or_create(&path).unwrap());
    assert_eq!(
        alone.get("/registry/secrets/default/s7").await.unwrap().unwrap().value,
        r#"{"n":1}"#
    );
    assert!(
        scratch
            .raw("/registry/secrets/default/s7")
            .await
            .starts_with(b"k8s:enc:aesgcm:v1:key2:")
    );
    // With the old key alone nothing opens, and nothing is touched.
    let old = scratch.sealed().reseal().await.unwrap();
    assert_eq!((old.count, old.unreadable.len()), (0, 100));
    assert!(matches!(&old.unreadable[0], (_, KeysError::Unknown { name }) if name == "key2"));
}

#[tokio::test]
async fn an_api_server_over_it_notices_nothing() {
    let scratch = scratch();
    let rig = Rig::over(Arc::new(scratch.sealed())).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let made = rig
        .post(secrets, &json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}))
        .await;
    assert_eq!(made.code, 201);
    let raw = scratch.raw(KEY).await;
    assert!(raw.starts_with(b"k8s:enc:"));
    let again = Rig::over(Arc::new(scratch.sealed())).await;
    for rig in [&rig, &again] {
        assert_eq!(rig.get(&format!("{secrets}/s")).await.json()["data"]["password"], "aHVudGVyMg==");
        assert_eq!(rig.get(secrets).await.json()["items"][0]["data"]["password"], "aHVudGVyMg==");
    }
    let patched = rig
        .patch(&format!("{secrets}/s"), "merge-patch", &json!({"data": {"more": "eA=="}}))
        .await;
    assert_eq!(patched.code, 200);
    assert_ne!(scratch.raw(KEY).await, raw);
    // One value that does not open leaves the others alone; a list of all of
    // them says so.
    scratch
        .inner
        .commit(put(
            "/registry/secrets/default/broken",
            "k8s:enc:aesgcm:v1:gone:xxxxxxxxxxxxxxxxxxxxx",
        ))
        .await
        .unwrap();
    let third = Rig::over(Arc::new(scratch.sealed())).await;
    assert_eq!(third.get(&format!("{secrets}/s")).await.code, 200);
    assert_eq!(third.get(&format!("{secrets}/broken")).await.code, 500);
    assert_eq!(third.get(secrets).await.code, 500);
}
