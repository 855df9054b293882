use std::cell::Cell;

use proptest::prelude::*;
use serde_json::json;

use super::super::state::{Bounds, State};
use super::*;

const BOUNDS: Bounds = Bounds {
    ring_changes: 4,
    ring_bytes: 1 << 20,
    queue_changes: 4,
};

fn entry(namespace: u8, name: usize, labels: &serde_json::Value, revision: u64) -> Arc<Entry> {
    let key = format!("/registry/x/n{namespace}/o{name:05}");
    let object = json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": name.to_string(), "labels": labels}});
    let stored = object.to_string().into_bytes().into_boxed_slice().into();
    Entry::new(&key, serde_json::from_value(object).unwrap(), stored, revision)
}

fn event(key: &str, entry: Option<&Arc<Entry>>, revision: u64) -> store::Event {
    store::Event {
        key: key.to_owned(),
        revision: store::Revision(revision),
        value: entry.map(|entry| store::Versioned {
            value: entry.stored.clone(),
            created: store::Revision(revision),
            modified: store::Revision(revision),
        }),
        previous: None,
    }
}

/// What a list by a selector gives, and how many objects it looked at.
fn list(state: &mut State, selector: &str, prefix: &str, after: Option<&str>, limit: Option<usize>) -> (Vec<(String, u64)>, usize) {
    let selector: Selector = selector.parse().unwrap();
    let looked_at = Cell::new(0);
    let (snapshot, lacking) = state.chosen(&selector, prefix, after, limit, |entry| {
        looked_at.set(looked_at.get() + 1);
        entry
            .object
            .meta
            .labels
            .as_ref()
            .map_or_else(|| selector.matches(&BTreeMap::new()), |labels| selector.matches(labels))
    });
    if let Some(label) = lacking {
        state.follow_label(label);
    }
    let found = snapshot.entries.iter().map(|entry| (entry.key.clone(), entry.revision));
    (found.collect(), looked_at.get())
}

/// A list that asks every object.
fn scan(state: &State, selector: &str, prefix: &str, after: Option<&str>, limit: Option<usize>) -> Vec<(String, u64)> {
    let selector: Selector = selector.parse().unwrap();
    let matches = |entry: &Entry| {
        entry
            .object
            .meta
            .labels
            .as_ref()
            .map_or_else(|| selector.matches(&BTreeMap::new()), |labels| selector.matches(labels))
    };
    let snapshot = state.page(prefix, after, limit, matches);
    snapshot.entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect()
}

#[test]
fn a_label_is_followed_once_a_list_by_it_has_looked_at_many_to_find_few() {
    let mut state = State::new(BOUNDS, None);
    let labels = |index: usize| json!({"app": if index.is_multiple_of(100) { "few" } else { "many" }, "tier": if index.is_multiple_of(2) { "a" } else { "b" }});
    state.reset(1, (0..MANY).map(|index| entry(0, index, &labels(index), 1)).collect(), Vec::new());
    let prefix = "/registry/x/";
    let mut looked_at = |selector: &str| list(&mut state, selector, prefix, None, None).1;
    assert_eq!(
        (looked_at("app=many"), looked_at("app=many")),
        (MANY, MANY),
        "most of them are found"
    );
    assert_eq!((looked_at("app!=many"), looked_at("app!=many")), (MANY, MANY), "any other value");
    assert_eq!((looked_at("app=few"), looked_at("app=few")), (MANY, 10));
    assert_eq!(
        (looked_at("tier=a,app=few"), looked_at("app in (few, none)"), looked_at("app=none")),
        (10, 10, 0)
    );
    assert_eq!(looked_at("tier=a"), MANY);
}

#[test]
fn as_many_labels_are_followed_as_there_is_room_for() {
    let mut state = State::new(BOUNDS, None);
    let labels: serde_json::Value = (0..=FOLLOWED)
        .map(|label| (format!("l{label}"), json!("x")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    state.reset(1, (0..MANY).map(|index| entry(0, index, &labels, 1)).collect(), Vec::new());
    let mut looked_at = |label: usize| list(&mut state, &format!("l{label}=none"), "/registry/x/", None, None).1;
    for label in 0..FOLLOWED {
        assert_eq!((looked_at(label), looked_at(label)), (MANY, 0));
    }
    assert_eq!((looked_at(FOLLOWED), looked_at(FOLLOWED)), (MANY, MANY), "the others are in use");
    for _ in 0..UNUSED {
        for label in 1..FOLLOWED {
            looked_at(label);
        }
    }
    assert_eq!((looked_at(FOLLOWED), looked_at(FOLLOWED), looked_at(0)), (MANY, 0, MANY));
}

proptest! {
    /// Whatever is written, a list by followed labels is what asking every
    /// object gives.
    #[test]
    fn lists_by_followed_labels_leave_nothing_out(
        writes in prop::collection::vec((0_u8..2, 0_usize..12, prop::option::of((prop::option::of(0_u8..3), prop::option::of(0_u8..2)))), 0..60),
        from in 0_usize..60,
        after in prop::option::of(0_usize..12),
        limit in prop::option::of(1_usize..6),
    ) {
        let mut state = State::new(BOUNDS, None);
        let written = super::super::written::Written::default();
        for (index, (namespace, name, labels)) in writes.iter().enumerate() {
            if index == from {
                state.follow_label("app".to_owned());
                state.follow_label("tier".to_owned());
            }
            let revision = index as u64 + 2;
            let labels = labels.map(|(app, tier)| {
                let label = |name: &str, value: Option<u8>| value.map(|value| (name.to_owned(), json!(value.to_string())));
                label("app", app).into_iter().chain(label("tier", tier)).collect::<serde_json::Map<_, _>>()
            });
            let new = labels.map(|labels| entry(*namespace, *name, &labels.into(), revision));
            let key = format!("/registry/x/n{namespace}/o{name:05}");
            state.apply(vec![event(&key, new.as_ref(), revision)], &written);
        }
        for selector in ["app=0", "app==2,tier=1", "app in (0,1)", "app in (1,9),tier!=0", "tier=1", "app=0,app=1", "!app", "tier notin (1),app=1"] {
            for prefix in ["/registry/x/", "/registry/x/n1/"] {
                let after = after.map(|name| format!("/registry/x/n1/o{name:05}"));
                let asked = scan(&state, selector, prefix, after.as_deref(), limit);
                prop_assert_eq!(list(&mut state, selector, prefix, after.as_deref(), limit).0, asked, "{} {}", selector, prefix);
            }
        }
    }
}
