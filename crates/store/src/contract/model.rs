//! Random histories, checked against a model that keeps every state it was ever
//! in.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Subject, message};
use crate::{Compare, Event, Key, Op, Page, Range, Revision, Store, StoreError, Txn, Versioned, WatchMessage};

/// One thing a client does. Revisions are given as how far back they are.
#[derive(Clone, Debug)]
enum Step {
    Commit {
        compare: Vec<(u8, Key, u64)>,
        ops: BTreeMap<Key, Option<u8>>,
    },
    Range {
        prefix: &'static str,
        back: Option<u64>,
        after: Option<Key>,
        limit: Option<usize>,
    },
    Watch {
        prefix: &'static str,
        back: u64,
    },
    Compact {
        back: u64,
    },
}

fn key() -> impl Strategy<Value = Key> {
    // Siblings, a key that is a prefix of others, and characters of several bytes.
    prop::sample::select(vec!["a", "a/1", "a/2", "a/é", "a/ü", "b/1", "b/2", "é"]).prop_map(str::to_owned)
}

fn prefix() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "a", "a/", "a/é", "b/", "c", "é"])
}

fn step() -> impl Strategy<Value = Step> {
    let compare = vec((0_u8..3, key(), 0_u64..4), 0..2);
    let changes = prop::collection::btree_map(key(), prop::option::weighted(0.7, any::<u8>()), 0..4);
    prop_oneof![
        8 => (compare, changes).prop_map(|(compare, ops)| Step::Commit { compare, ops }),
        3 => (prefix(), prop::option::of(0_u64..12), prop::option::of(key()), prop::option::of(0_usize..4))
            .prop_map(|(prefix, back, after, limit)| Step::Range { prefix, back, after, limit }),
        2 => (prefix(), 0_u64..12).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0_u64..12).prop_map(|back| Step::Compact { back }),
    ]
}

/// Whatever clients do, the store answers as the model does.
///
/// Builds its own runtime, so that a failing history can be shrunk; call it
/// from a plain test.
pub fn agrees_with_the_model(make: impl AsyncFn() -> Subject) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    // Nothing is written beside the sources: a failure prints its history.
    let mut runner = TestRunner::new(Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&vec(step(), 1..40), |steps| {
        runtime.block_on(async {
            let subject = make().await;
            let mut model = Model::new(subject.store.revision());
            for step in steps {
                model.take(&*subject.store, step).await;
            }
            model.compare_all(&*subject.store).await;
        });
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

type Snapshot = BTreeMap<Key, Versioned>;

/// Every state and every event since the store was new.
struct Model {
    states: BTreeMap<Revision, Snapshot>,
    events: Vec<Event>,
    oldest: Revision,
}

impl Model {
    fn new(base: Revision) -> Self {
        Self {
            states: BTreeMap::from([(base, Snapshot::new())]),
            events: Vec::new(),
            oldest: base,
        }
    }

    fn newest(&self) -> Revision {
        *self.states.keys().next_back().expect("there is always a state")
    }

    fn state(&self) -> &Snapshot {
        &self.states[&self.newest()]
    }

    /// A revision some way back; past the first it stays at the first.
    fn back(&self, by: u64) -> Revision {
        let first = *self.states.keys().next().expect("there is always a state");
        Revision(self.newest().0.saturating_sub(by)).max(first)
    }

    async fn take(&mut self, store: &dyn Store, step: Step) {
        match step {
            Step::Commit { compare, ops } => self.commit(store, compare, ops).await,
            Step::Range {
                prefix,
                back,
                after,
                limit,
            } => {
                let at = back.map(|back| self.back(back));
                let page = Page { after, limit };
                assert_same(store.range(prefix, at, page.clone()).await, self.range(prefix, at, &page));
            }
            Step::Watch { prefix, back } => self.watch(store, prefix, self.back(back)).await,
            Step::Compact { back } => {
                let through = self.back(back);
                store.compact(through).await.expect("an existing revision can be compacted");
                self.oldest = self.oldest.max(through);
            }
        }
        assert_eq!(store.revision(), self.newest());
    }

    async fn commit(&mut self, store: &dyn Store, compare: Vec<(u8, Key, u64)>, ops: BTreeMap<Key, Option<u8>>) {
        let compare: Vec<Compare> = compare
            .into_iter()
            .map(|(what, key, back)| match what {
                0 => Compare::Absent(key),
                1 => Compare::Present(key),
                // Mostly the revision the key has, so that it often holds.
                _ => {
                    let modified = self.state().get(&key).map_or(self.newest(), |found| found.modified);
                    Compare::ModifiedAt(key, Revision(modified.0.saturating_sub(back / 3)))
                }
            })
            .collect();
        let failing = compare.iter().find_map(|compare| match compare {
            Compare::Absent(key) => self.state().contains_key(key).then_some(key),
            Compare::Present(key) => (!self.state().contains_key(key)).then_some(key),
            Compare::ModifiedAt(key, revision) => (self.state().get(key).map(|found| found.modified) != Some(*revision)).then_some(key),
        });
        let txn_ops = ops
            .iter()
            .map(|(key, value)| match value {
                Some(byte) => Op::Put(key.clone(), vec![*byte; usize::from(*byte)].into()),
                None => Op::Delete(key.clone()),
            })
            .collect();
        let outcome = store
            .commit(Txn {
                compare: compare.clone(),
                ops: txn_ops,
            })
            .await;
        if let Some(failing) = failing {
            match outcome {
                Err(StoreError::Conflict { key }) => assert_eq!(&key, failing),
                other => panic!("{failing} should conflict, but: {other:?}"),
            }
            return;
        }
        self.change(ops);
        assert_eq!(outcome.expect("no comparison fails"), self.newest());
    }

    fn change(&mut self, ops: BTreeMap<Key, Option<u8>>) {
        let revision = Revision(self.newest().0 + 1);
        let mut state = self.state().clone();
        let mut events = Vec::new();
        for (key, byte) in ops {
            let previous = state.remove(&key);
            let value = byte.map(|byte| Versioned {
                value: vec![byte; usize::from(byte)].into(),
                created: previous.as_ref().map_or(revision, |previous| previous.created),
                modified: revision,
            });
            if let Some(value) = &value {
                state.insert(key.clone(), value.clone());
            }
            if value.is_some() || previous.is_some() {
                events.push(Event {
                    revision,
                    key,
                    value,
                    previous,
                });
            }
        }
        if !events.is_empty() {
            self.states.insert(revision, state);
            self.events.extend(events);
        }
    }

    fn range(&self, prefix: &str, at: Option<Revision>, page: &Page) -> Result<Range, StoreError> {
        let revision = at.unwrap_or(self.newest());
        if revision < self.oldest {
            return Err(StoreError::Compacted {
                asked: revision,
                oldest: self.oldest,
            });
        }
        let mut entries: Vec<(Key, Versioned)> = self.states[&revision]
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && page.after.as_ref().is_none_or(|after| *key > after))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let all = entries.len();
        entries.truncate(page.limit.unwrap_or(all));
        let remaining = all - entries.len();
        Ok(Range {
            revision,
            entries,
            more: remaining > 0,
            remaining,
        })
    }

    async fn watch(&self, store: &dyn Store, prefix: &str, after: Revision) {
        let started = store.watch(prefix, after).await;
        if after < self.oldest {
            match started.map(drop) {
                Err(StoreError::Compacted { asked, oldest }) => assert_eq!((asked, oldest), (after, self.oldest)),
                other => panic!("{after} is compacted, but: {other:?}"),
            }
            return;
        }
        let mut watch = started.expect("the revision can be watched");
        let (mut at, mut seen) = (after, Vec::new());
        // An up-to-date watch of a quiet store has nothing to say.
        while at < self.newest() {
            match message(&mut watch).await.expect("the watch goes on") {
                WatchMessage::Progress(to) => at = to,
                WatchMessage::Events(events) => {
                    at = events.last().expect("a message of events holds one").revision;
                    seen.extend(events);
                }
            }
        }
        let expected: Vec<Event> = self
            .events
            .iter()
            .filter(|event| event.revision > after && event.key.starts_with(prefix))
            .cloned()
            .collect();
        assert_eq!(seen, expected);
    }

    /// At the end: every state that can still be read, and every key.
    async fn compare_all(&self, store: &dyn Store) {
        for revision in self.states.keys() {
            let page = Page::default();
            assert_same(
                store.range("", Some(*revision), page.clone()).await,
                self.range("", Some(*revision), &page),
            );
        }
        for key in ["a", "a/1", "a/2", "a/é", "a/ü", "b/1", "b/2", "é", "none"] {
            assert_eq!(store.get(key).await.expect("the store reads").as_ref(), self.state().get(key));
        }
    }
}

fn assert_same(got: Result<Range, StoreError>, expected: Result<Range, StoreError>) {
    match (got, expected) {
        (Ok(got), Ok(expected)) => {
            assert_eq!(got.revision, expected.revision);
            assert_eq!(got.entries, expected.entries);
            assert_eq!((got.more, got.remaining), (expected.more, expected.remaining));
        }
        (
            Err(StoreError::Compacted { asked, oldest }),
            Err(StoreError::Compacted {
                asked: asked_model,
                oldest: oldest_model,
            }),
        ) => {
            assert_eq!((asked, oldest), (asked_model, oldest_model));
        }
        (got, expected) => panic!("the store says {got:?}, the model {expected:?}"),
    }
}
