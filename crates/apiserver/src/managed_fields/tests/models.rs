//! Sets, comparison and apply against small dumb models.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::apply::{Config, apply};
use super::super::owners::{Owners, Writer};
use super::*;
use crate::kinds;

/// A set of field paths as a set of lists of names.
type Paths = BTreeSet<Vec<String>>;

fn paths() -> impl Strategy<Value = Paths> {
    let path = prop::collection::vec("[abc]", 1..4);
    prop::collection::btree_set(path, 0..12)
}

fn tree(paths: &Paths) -> Set {
    let mut set = Set::default();
    for path in paths {
        let elements: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
        set.insert(&elements);
    }
    set
}

proptest! {
    #[test]
    fn sets_do_what_sets_of_paths_do(left in paths(), right in paths()) {
        let (a, b) = (tree(&left), tree(&right));
        prop_assert_eq!(a.union(&b), tree(&left.union(&right).cloned().collect()));
        prop_assert_eq!(a.intersection(&b), tree(&left.intersection(&right).cloned().collect()));
        prop_assert_eq!(a.difference(&b), tree(&left.difference(&right).cloned().collect()));
        let below = |path: &Vec<String>| (1..=path.len()).any(|length| right.contains(&path[..length]));
        prop_assert_eq!(a.without(&b), tree(&left.iter().filter(|path| !below(path)).cloned().collect()));
        let text = serde_json::to_string(&a).unwrap();
        prop_assert_eq!(serde_json::from_str::<Set>(&text).unwrap(), a.clone());
        prop_assert_eq!(a.paths().len(), left.len());
    }
}

/// What one manager does to the data of a ConfigMap.
#[derive(Clone, Debug)]
enum Act {
    /// It applies exactly these keys.
    Apply { force: bool, data: BTreeMap<String, String> },
    /// It sets or removes one key.
    Set { key: String, value: Option<String> },
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let (key, value) = ("[a-d]", "[xy]");
    let apply = (any::<bool>(), prop::collection::btree_map(key, value, 0..4)).prop_map(|(force, data)| Act::Apply { force, data });
    let set = (key, prop::option::of(value)).prop_map(|(key, value)| Act::Set { key, value });
    prop::collection::vec((0..3_usize, prop_oneof![3 => apply, 1 => set]), 1..14)
}

/// Values of keys, and who owns each: managers that apply, and those that set.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    values: BTreeMap<String, String>,
    appliers: BTreeMap<String, BTreeSet<usize>>,
    setters: BTreeMap<String, BTreeSet<usize>>,
}

impl Model {
    fn owned(owners: &BTreeMap<String, BTreeSet<usize>>, key: &str, but: Option<usize>) -> bool {
        owners.get(key).is_some_and(|owners| owners.iter().any(|owner| Some(*owner) != but))
    }

    /// False for a conflict.
    fn apply(&mut self, who: usize, force: bool, data: &BTreeMap<String, String>) -> bool {
        let changed: Vec<&String> = data
            .iter()
            .filter(|(key, value)| self.values.get(*key) != Some(value))
            .map(|(key, _)| key)
            .collect();
        let disputed = |key: &&String| Self::owned(&self.appliers, key, Some(who)) || Self::owned(&self.setters, key, None);
        if !force && changed.iter().any(disputed) {
            return false;
        }
        let dropped: Vec<String> = self
            .appliers
            .iter()
            .filter(|(key, owners)| owners.contains(&who) && !data.contains_key(*key))
            .map(|(key, _)| key.clone())
            .collect();
        for key in changed {
            self.appliers.remove(key);
            self.setters.remove(key);
        }
        for key in dropped {
            self.appliers.entry(key.clone()).or_default().remove(&who);
            if !Self::owned(&self.appliers, &key, None) && !Self::owned(&self.setters, &key, None) {
                self.values.remove(&key);
            }
        }
        for (key, value) in data {
            self.values.insert(key.clone(), value.clone());
            self.appliers.entry(key.clone()).or_default().insert(who);
        }
        true
    }

    fn set(&mut self, who: usize, key: &str, value: Option<&String>) {
        if self.values.get(key) == value {
            return;
        }
        self.appliers.remove(key);
        self.setters.remove(key);
        match value {
            Some(value) => {
                self.values.insert(key.to_owned(), value.clone());
                self.setters.entry(key.to_owned()).or_default().insert(who);
            }
            None => {
                self.values.remove(key);
            }
        }
    }

    fn tidy(mut self) -> Self {
        self.appliers.retain(|_, owners| !owners.is_empty());
        self.setters.retain(|_, owners| !owners.is_empty());
        self
    }
}

/// The same, read from an object.
fn observed(object: &Object) -> Model {
    let mut model = Model::default();
    for (key, value) in object.body.get("data").and_then(Value::as_object).into_iter().flatten() {
        model.values.insert(key.clone(), value.as_str().unwrap().to_owned());
    }
    for manager in Owners::decode(object.managed_fields.as_ref()).unwrap().0 {
        let Ok(who) = manager.name.parse::<usize>() else { continue };
        let owners = if manager.applies { &mut model.appliers } else { &mut model.setters };
        for path in manager.fields.paths() {
            if let Some(key) = path.strip_prefix(".data.") {
                owners.entry(key.to_owned()).or_default().insert(who);
            }
        }
    }
    model
}

proptest! {
    #[test]
    fn apply_and_updates_do_what_a_table_of_owners_says(acts in acts()) {
        let registry = kinds::builtin();
        let forms = Forms { row: registry.find("", "v1", "configmaps").unwrap(), registry: &registry };
        let writer = |who: usize| Writer { manager: who.to_string(), subresource: String::new(), api_version: "v1".to_owned(), now: "2027-01-15T08:00:00Z".to_owned() };
        let mut object: Object = serde_json::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": {"made": "by"}}})).unwrap();
        record(&forms, None, &mut object, &Writer { manager: "maker".to_owned(), ..writer(9) }, &Set::default()).unwrap();
        let mut model = Model::default();
        for (who, act) in acts {
            match &act {
                Act::Apply { force, data } => {
                    // An empty object would be owned as such.
                    let stated = if data.is_empty() { json!({}) } else { json!({"data": data}) };
                    let mut config = map(stated);
                    config.extend(map(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}})));
                    let config = Config { object: config, force: *force };
                    match apply(&forms, Some(&object), &config, &writer(who), &Set::default()) {
                        Ok(applied) => {
                            prop_assert!(model.apply(who, *force, data), "{:?} is a conflict", act);
                            object = serde_json::from_value(Value::Object(applied.object)).unwrap();
                            object.managed_fields = applied.managers.encode().unwrap();
                        }
                        Err(status) => {
                            prop_assert_eq!(status.code, 409);
                            prop_assert!(!model.clone().apply(who, *force, data), "{:?} is no conflict: {}", act, status.message);
                        }
                    }
                }
                Act::Set { key, value } => {
                    let mut new = object.clone();
                    let mut data = new.body.get("data").and_then(Value::as_object).cloned().unwrap_or_default();
                    match value {
                        Some(value) => { data.insert(key.clone(), json!(value)); }
                        None => { data.remove(key); }
                    }
                    new.body.insert("data".to_owned(), Value::Object(data));
                    record(&forms, Some(&object), &mut new, &writer(who), &Set::default()).unwrap();
                    object = new;
                    model.set(who, key, value.as_ref());
                }
            }
            prop_assert_eq!(observed(&object), model.clone().tidy(), "after {:?} of {}", act, who);
        }
    }

    /// Comparison finds exactly the leaves that differ.
    #[test]
    fn what_changed_is_what_differs(before in prop::collection::btree_map("[a-d]", "[xy]", 0..4), after in prop::collection::btree_map("[a-d]", "[xy]", 0..4)) {
        let changes = compare::values(schema("ConfigMap"), &map(json!({"data": before})), &map(json!({"data": after})));
        let keys = |set: &Set| -> BTreeSet<String> { set.paths().iter().filter_map(|path| path.strip_prefix(".data.").map(str::to_owned)).collect() };
        let differing = |one: &BTreeMap<String, String>, other: &BTreeMap<String, String>, both: bool| -> BTreeSet<String> {
            one.iter().filter(|(key, value)| match other.get(*key) { Some(there) => both && there != *value, None => !both }).map(|(key, _)| key.clone()).collect()
        };
        prop_assert_eq!(keys(&changes.added), differing(&after, &before, false));
        prop_assert_eq!(keys(&changes.removed), differing(&before, &after, false));
        prop_assert_eq!(keys(&changes.modified), differing(&before, &after, true));
    }
}
