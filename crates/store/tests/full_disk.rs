//! A store on a file system that is really full.

use std::path::{Path, PathBuf};
use std::process::Command;

use store::{Embedded, Op, Options, Page, Revision, Store, StoreError, Txn};

/// A small file system in memory; gone when dropped.
struct SmallDisk {
    at: PathBuf,
    _parent: tempfile::TempDir,
}

impl SmallDisk {
    fn mount() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let at = parent.path().join("disk");
        std::fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(&at));
        Self { at, _parent: parent }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a failed test may still hold the store open.
        run(Command::new("umount").arg("--lazy").arg(&self.at));
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}

fn put(key: String) -> Txn {
    Txn {
        compare: Vec::new(),
        ops: vec![Op::Put(key, vec![b'x'; 16_384].into())],
    }
}

/// Writes until the disk is full; returns how many commits succeeded.
async fn fill(store: &Embedded) -> (u64, StoreError) {
    for number in 0.. {
        if let Err(error) = store.commit(put(format!("fill/{number:06}"))).await {
            return (number, error);
        }
    }
    unreachable!("a disk of 4 MiB takes no endless number of commits")
}

async fn entries(directory: &Path) -> (usize, Revision) {
    let store = Embedded::open(directory, Options::default()).unwrap();
    let held = store.range("", None, Page::default()).await.unwrap().entries.len();
    let revision = store.revision();
    store.close().await.unwrap();
    (held, revision)
}

#[tokio::test]
async fn root_a_full_disk_refuses_commits_until_there_is_room() {
    let disk = SmallDisk::mount();
    let directory = disk.at.join("store");
    let ballast = disk.at.join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let store = Embedded::open(&directory, Options::default()).unwrap();
    let (filled, error) = fill(&store).await;
    assert!(filled > 5, "the disk takes some");
    assert!(matches!(error, StoreError::Storage { .. }), "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    let full_at = store.revision();
    assert_eq!(full_at, Revision(1 + filled));
    assert_eq!(
        store.range("fill/", None, Page::default()).await.unwrap().entries.len() as u64,
        filled,
        "reads go on"
    );
    assert!(matches!(
        store.commit(put("again".to_owned())).await,
        Err(StoreError::Storage { .. })
    ));
    std::fs::remove_file(&ballast).unwrap();
    let revision = store.commit(put("later".to_owned())).await.expect("there is room again");
    assert_eq!(revision, Revision(full_at.0 + 1));
    store.close().await.unwrap();
    assert_eq!(entries(&directory).await, (usize::try_from(filled).unwrap() + 1, revision));
}
