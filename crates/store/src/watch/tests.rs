//! Who is found by a key, and who has left.

use std::collections::BTreeMap;

use super::*;
use crate::engine::Limits;

fn event(key: &str, revision: u64) -> Event {
    Event {
        revision: Revision(revision),
        key: key.to_owned(),
        value: None,
        previous: None,
    }
}

#[test]
fn a_watcher_is_found_once_however_many_events_concern_it() {
    let mut registry = Registry::default();
    let one = registry.add("a/", Revision(1));
    let two = registry.add("a/", Revision(1));
    registry.add("b/", Revision(1));
    let concerned = registry.concerned(&[event("a/1", 2), event("a/2", 2), event("a", 3)]);
    assert_eq!(concerned.iter().map(|watcher| watcher.id).collect::<Vec<_>>(), [one.id, two.id]);
}

#[test]
fn the_slowest_is_the_one_furthest_behind() {
    let mut registry = Registry::default();
    assert_eq!(registry.slowest(), None);
    let one = registry.add("a/", Revision(5));
    let two = registry.add("b/", Revision(3));
    assert_eq!(registry.slowest(), Some(Revision(3)));
    two.advance(Revision(9));
    assert_eq!(registry.slowest(), Some(Revision(5)));
    registry.remove(&one);
    assert_eq!(registry.slowest(), Some(Revision(9)));
}

#[test]
fn a_dropped_watch_leaves_nothing_behind() {
    let state = Arc::new(RwLock::new(State::new(BTreeMap::new(), Revision(1), Limits::default())));
    let watches: Vec<Watch> = ["", "a/", "a/", "ab"]
        .iter()
        .map(|prefix| subscribe(&state, prefix, Revision(1)).unwrap())
        .collect();
    assert_eq!(crate::engine::read(&state).everyone().len(), 4);
    drop(watches);
    assert!(crate::engine::read(&state).everyone().is_empty());
    let mut registry = Registry::default();
    let watcher = registry.add("a/", Revision(1));
    registry.remove(&watcher);
    assert!(registry.slots.is_empty() && registry.lengths.is_empty());
}
