//! How much history is kept, and what that means for those who want more.

use super::*;
use crate::engine::batch::plan;
use crate::{Op, Txn};

fn state(history_events: usize, history_bytes: usize) -> State {
    State::new(
        BTreeMap::new(),
        Revision(1),
        Limits {
            history_events,
            history_bytes,
            ..Limits::default()
        },
    )
}

/// Commits one transaction; the values are of the given size.
fn commit(state: &mut State, keys: &[&str], size: usize) -> Vec<Arc<Watcher>> {
    let ops = keys.iter().map(|key| Op::Put((*key).to_owned(), vec![b'x'; size].into())).collect();
    let plan = plan(state.live(), state.newest(), [Txn { compare: vec![], ops }]);
    state.apply(plan.batch, plan.events)
}

fn oldest(state: &State) -> Revision {
    match state.range("", Some(Revision(0)), &Page::default()) {
        Err(StoreError::Compacted { oldest, .. }) => oldest,
        other => panic!("revision 0 never exists, but: {other:?}"),
    }
}

fn drain(state: &State, watcher: &Watcher) -> (Vec<Revision>, Option<StoreError>) {
    let mut seen = Vec::new();
    loop {
        match state.pull(watcher) {
            Pull::Message(WatchMessage::Events(events)) => seen.extend(events.into_iter().map(|event| event.revision)),
            Pull::Message(WatchMessage::Progress(_)) => {}
            Pull::Wait => return (seen, None),
            Pull::End(error) => return (seen, Some(error)),
        }
    }
}

#[test]
fn history_is_bounded_by_events() {
    let mut state = state(10, usize::MAX);
    for _ in 0..25 {
        commit(&mut state, &["a", "b"], 1);
        assert!(state.history.events.len() <= 10);
    }
    assert_eq!(state.newest(), Revision(26));
    assert_eq!(oldest(&state), Revision(21), "five transactions of two events are left");
    assert_eq!(
        state.range("", Some(Revision(21)), &Page::default()).unwrap().entries[0].1.modified,
        Revision(21)
    );
}

#[test]
fn history_is_bounded_by_what_it_keeps_in_memory() {
    let mut state = state(usize::MAX, 10_000);
    for _ in 0..25 {
        commit(&mut state, &["a"], 1_000);
        assert!(state.history.bytes <= 10_000);
        let counted: usize = state.history.events.iter().map(event_bytes).sum();
        assert_eq!(state.history.bytes, counted);
    }
    let kept = state.newest().0 - oldest(&state).0;
    assert!(
        (5..10).contains(&kept),
        "{kept} values of 1,000 bytes and their overhead fit 10,000 bytes"
    );
}

#[test]
fn the_newest_batch_is_kept_however_large() {
    let mut state = state(1, 1);
    let Ok(watcher) = state.subscribe("", Revision(1)) else {
        panic!("the revision exists")
    };
    commit(&mut state, &["a", "b", "c"], 1_000);
    assert_eq!(drain(&state, &watcher).0, [Revision(2); 3]);
    commit(&mut state, &["a"], 1_000);
    assert_eq!(drain(&state, &watcher).0, [Revision(3)]);
    assert_eq!(oldest(&state), Revision(2));
}

#[test]
fn a_watch_lags_only_when_an_event_of_its_own_was_dropped() {
    let mut state = state(4, usize::MAX);
    let slow = state.subscribe("busy/", Revision(1)).unwrap();
    let idle = state.subscribe("idle/", Revision(1)).unwrap();
    for _ in 0..4 {
        commit(&mut state, &["busy/x"], 1);
    }
    let kept_up = state.subscribe("busy/", Revision(1)).unwrap();
    assert_eq!(drain(&state, &kept_up).0.len(), 4);
    for _ in 0..2 {
        commit(&mut state, &["busy/x"], 1);
    }
    commit(&mut state, &["idle/x"], 1);
    let (seen, error) = drain(&state, &slow);
    assert!(seen.is_empty(), "not some of them: {seen:?}");
    assert!(matches!(error, Some(StoreError::Lagged { at: Revision(1) })), "{error:?}");
    assert_eq!(drain(&state, &idle).0, [Revision(8)], "nothing it wanted was dropped");
    assert_eq!(drain(&state, &kept_up).0, [Revision(6), Revision(7)]);
}

#[test]
fn compaction_waits_for_running_watches_but_not_for_ever() {
    let mut state = state(4, usize::MAX);
    let running = state.subscribe("", Revision(1)).unwrap();
    commit(&mut state, &["a"], 1);
    commit(&mut state, &["a"], 1);
    state.compact(Revision(3)).unwrap();
    assert_eq!(oldest(&state), Revision(3));
    assert_eq!(state.history.events.len(), 2, "the watch has yet to take them");
    assert_eq!(drain(&state, &running).0, [Revision(2), Revision(3)]);
    commit(&mut state, &["a"], 1);
    assert_eq!(
        state.history.events.len(),
        1,
        "the compacted events are dropped with the next batch"
    );
    for _ in 0..6 {
        commit(&mut state, &["a"], 1);
    }
    assert!(matches!(drain(&state, &running).1, Some(StoreError::Lagged { at: Revision(3) })));
}

#[test]
fn a_batch_wakes_those_it_concerns() {
    let mut state = state(100, usize::MAX);
    let prefixes = ["", "a", "a/", "a/b", "b/", "é", "a/b/c/d"];
    let _watchers: Vec<_> = prefixes
        .iter()
        .map(|prefix| state.subscribe(prefix, Revision(1)).unwrap())
        .collect();
    let woken = |watchers: Vec<Arc<Watcher>>| -> Vec<String> { watchers.iter().map(|watcher| watcher.prefix().to_owned()).collect() };
    assert_eq!(woken(commit(&mut state, &["a/b/c", "a/b/d"], 1)), ["", "a", "a/", "a/b"]);
    assert_eq!(woken(commit(&mut state, &["é/x"], 1)), ["", "é"]);
    assert_eq!(woken(commit(&mut state, &["ê"], 1)), [""], "half a character is no prefix");
}

#[test]
fn long_histories_come_in_messages_of_whole_transactions() {
    let mut state = state(usize::MAX, usize::MAX);
    let watcher = state.subscribe("", Revision(1)).unwrap();
    for _ in 0..400 {
        commit(&mut state, &["a", "b", "c"], 1);
    }
    let mut sizes = Vec::new();
    while let Pull::Message(WatchMessage::Events(events)) = state.pull(&watcher) {
        sizes.push(events.len());
    }
    assert_eq!(sizes, [513, 513, 174]);
}
