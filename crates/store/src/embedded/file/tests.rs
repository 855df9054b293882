//! A disk that fails on demand.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::*;
use crate::engine::batch::Change;

/// What the disk is told to refuse.
#[derive(Debug)]
pub(in crate::embedded) struct Faults {
    /// Writes that still succeed; negative is no limit.
    writes_left: AtomicI64,
    sync_fails: AtomicBool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            writes_left: AtomicI64::new(-1),
            sync_fails: AtomicBool::new(false),
        }
    }
}

impl Faults {
    pub(super) fn write(&self) -> io::Result<()> {
        let took = self
            .writes_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                0 => None,
                left if left < 0 => Some(left),
                left => Some(left - 1),
            });
        took.map(drop).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        if self.sync_fails.load(Ordering::SeqCst) {
            Err(io::Error::other("the disk is gone"))
        } else {
            Ok(())
        }
    }

    fn fill_after(&self, writes: i64) {
        self.writes_left.store(writes, Ordering::SeqCst);
    }

    fn free(&self) {
        self.fill_after(-1);
    }
}

fn directory_lock(directory: &Path) -> File {
    File::open(directory).unwrap()
}

fn value(text: &str, created: u64, modified: u64) -> Option<Versioned> {
    Some(Versioned {
        value: Bytes::copy_from_slice(text.as_bytes()),
        created: Revision(created),
        modified: Revision(modified),
    })
}

fn batch(from: u64, changes: impl IntoIterator<Item = (&'static str, Option<Versioned>, Option<Versioned>)>) -> Batch {
    let changes = changes
        .into_iter()
        .map(|(key, before, after)| (key.to_owned(), Change { before, after }))
        .collect();
    Batch {
        from: Revision(from),
        to: Revision(from + 1),
        changes,
    }
}

fn reopened(directory: &Path) -> Contents {
    DataFile::open(directory, directory_lock(directory), Options::default()).unwrap().1
}

/// Wherever in a commit the disk fills up, the commit fails, is not found
/// afterwards, and the next one goes through once there is room.
#[test]
fn a_full_disk_fails_a_commit_and_nothing_else() {
    let mut failed = 0;
    for writes in 0..12 {
        let directory = tempfile::tempdir().unwrap();
        let (mut file, contents) = DataFile::open(directory.path(), directory_lock(directory.path()), Options::default()).unwrap();
        assert_eq!(contents.newest, FIRST);
        file.commit(&batch(1, [("a", None, value("old", 2, 2)), ("b", None, value("old", 2, 2))]))
            .unwrap();
        file.health.faults.fill_after(writes);
        let doomed = batch(
            2,
            [
                ("a", value("old", 2, 2), value("new", 2, 3)),
                ("b", value("old", 2, 2), None),
                ("c", None, value("new", 3, 3)),
            ],
        );
        let Err(error) = file.commit(&doomed) else { continue };
        failed += 1;
        assert!(error.to_string().contains("store.redb"), "{error}");
        assert!(file.commit(&doomed).is_err(), "the disk is still full");
        file.health.faults.free();
        file.commit(&batch(2, [("d", None, value("later", 3, 3))])).unwrap();
        file.close().unwrap();
        let contents = reopened(directory.path());
        assert_eq!(contents.newest, Revision(3));
        let expected = [("a", value("old", 2, 2)), ("b", value("old", 2, 2)), ("d", value("later", 3, 3))];
        assert_eq!(
            contents.live,
            expected.into_iter().map(|(key, value)| (key.to_owned(), value.unwrap())).collect(),
            "after {writes} writes"
        );
    }
    assert!(failed >= 2, "the faults were never met");
}

/// A batch that reached the disk although its commit failed is taken back.
#[test]
fn a_failed_commit_that_landed_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, _) = DataFile::open(directory.path(), directory_lock(directory.path()), Options::default()).unwrap();
    file.commit(&batch(1, [("a", None, value("old", 2, 2))])).unwrap();
    let landed = batch(2, [("a", value("old", 2, 2), value("new", 2, 3)), ("b", None, value("new", 3, 3))]);
    file.commit(&landed).unwrap();
    // As if the commit had reported an error.
    file.database = None;
    file.unsettled = Some(landed);
    file.commit(&batch(2, [("c", None, value("later", 3, 3))])).unwrap();
    file.close().unwrap();
    let contents = reopened(directory.path());
    assert_eq!(contents.newest, Revision(3));
    assert_eq!(contents.live.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert_eq!(Some(contents.live["a"].clone()), value("old", 2, 2));
}

/// What the disk holds after a failed sync is uncertain: no more commits.
#[test]
fn after_a_failed_sync_nothing_is_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (mut file, _) = DataFile::open(directory.path(), directory_lock(directory.path()), Options::default()).unwrap();
    file.health.faults.sync_fails.store(true, Ordering::SeqCst);
    assert!(file.commit(&batch(1, [("a", None, value("x", 2, 2))])).is_err());
    file.health.faults.sync_fails.store(false, Ordering::SeqCst);
    let error = file.commit(&batch(1, [("a", None, value("x", 2, 2))])).unwrap_err();
    assert!(error.to_string().contains("restart lifepod"), "{error}");
    let health = Arc::clone(&file.health);
    drop(file);
    assert!(health.sync_failed.load(Ordering::SeqCst));
}
