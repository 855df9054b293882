//! What a write changed.
//!
//! Source: upstream `structured-merge-diff/v4/typed/compare.go`.

use std::collections::BTreeMap;

use api::Object;
use api::schema::Schema;
use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Set, Tree};
use super::shape::{Parts, Shape};

/// The paths at which two objects differ.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Only in the first.
    pub(crate) removed: Set,
    /// In both, and different.
    pub(crate) modified: Set,
    /// Only in the second.
    pub(crate) added: Set,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// The same, with some fields and all below them left out.
    pub(crate) fn without(&self, fields: &Set) -> Self {
        Self {
            removed: self.removed.without(fields),
            modified: self.modified.without(fields),
            added: self.added.without(fields),
        }
    }

    /// What the second object set.
    pub(crate) fn set(&self) -> Set {
        self.modified.union(&self.added)
    }

    fn add(&mut self, at: impl FnOnce() -> Element, inner: Inner) {
        if inner.removed.is_empty() && inner.modified.is_empty() && inner.added.is_empty() {
            return;
        }
        let at = at();
        self.removed.add(at.clone(), inner.removed);
        self.modified.add(at.clone(), inner.modified);
        self.added.add(at, inner.added);
    }
}

/// The differences at and below one path.
#[derive(Default)]
struct Inner {
    removed: Tree,
    modified: Tree,
    added: Tree,
}

impl Inner {
    fn of(changes: Changes, old: bool, new: bool) -> Self {
        let tree = |member, below| Tree { member, below };
        Self {
            removed: tree(!new, changes.removed),
            modified: tree(false, changes.modified),
            added: tree(!old, changes.added),
        }
    }
}

/// What changed from one object to the next; from nothing, where there was none.
pub(crate) fn objects(schema: Schema<'_>, old: Option<&Object>, new: &Object) -> Changes {
    let empty = Object::default();
    let old = old.unwrap_or(&empty);
    let shape = Shape::of(schema);
    let mut changes = fields(shape, Some(&old.body), Some(&new.body));
    let (before, after) = metadata(old, new);
    if let Some(shape) = shape.named("metadata") {
        let inner = fields(shape, Some(&before), Some(&after));
        changes.add(|| Element::field("metadata"), Inner::of(inner, true, true));
    }
    changes
}

/// What changed from one whole object, as JSON, to the next.
pub(crate) fn values(schema: Schema<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> Changes {
    let empty = Map::new();
    let mut changes = fields(Shape::of(schema), Some(old), Some(new));
    // Every object has metadata, even one that is not there yet.
    let part = |object: &Map<String, Value>| object.get("metadata").and_then(Value::as_object).cloned();
    if let (None, Some(after), Some(shape)) = (part(old), part(new), Shape::of(schema).named("metadata")) {
        let at = Element::field("metadata");
        changes.added = changes.added.without(&Set::of(&[&["metadata"]]));
        let inner = fields(shape, Some(&empty), Some(&after));
        changes.add(|| at, Inner::of(inner, true, true));
    }
    changes
}

/// The fields of metadata that somebody may own and that differ, of both.
fn metadata(old: &Object, new: &Object) -> (Map<String, Value>, Map<String, Value>) {
    let (mut before, mut after) = (Map::new(), Map::new());
    let (old, new) = (&old.meta, &new.meta);
    let mut keep = |name: &str, old: Option<Value>, new: Option<Value>| {
        for (map, value) in [(&mut before, old), (&mut after, new)] {
            if let Some(value) = value {
                map.insert(name.to_owned(), value);
            }
        }
    };
    let texts = |map: &BTreeMap<String, String>| {
        let entries = map.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str())));
        Value::Object(entries.collect())
    };
    if old.labels != new.labels {
        keep("labels", old.labels.as_ref().map(texts), new.labels.as_ref().map(texts));
    }
    if old.annotations != new.annotations {
        keep(
            "annotations",
            old.annotations.as_ref().map(texts),
            new.annotations.as_ref().map(texts),
        );
    }
    if old.finalizers != new.finalizers {
        keep(
            "finalizers",
            old.finalizers.clone().map(Value::from),
            new.finalizers.clone().map(Value::from),
        );
    }
    if old.owner_references != new.owner_references {
        let json = |owners: &Vec<api::typed::OwnerReference>| serde_json::to_value(owners).unwrap_or_default();
        let (old, new) = (old.owner_references.as_ref().map(json), new.owner_references.as_ref().map(json));
        keep("ownerReferences", old, new);
    }
    if old.generate_name != new.generate_name {
        let (old, new) = (
            old.generate_name.clone().map(Value::from),
            new.generate_name.clone().map(Value::from),
        );
        keep("generateName", old, new);
    }
    (before, after)
}

fn fields(shape: Shape<'_>, old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>) -> Changes {
    let mut changes = Changes::default();
    let mut visit = |name: &str| {
        let Some(child) = shape.named(name) else { return };
        let old = old.and_then(|object| shape.get(object, name));
        let new = new.and_then(|object| shape.get(object, name));
        if old.is_some() || new.is_some() {
            changes.add(|| Element::field(name), value(child, old, new));
        }
    };
    for name in new.into_iter().flat_map(Map::keys) {
        visit(name);
    }
    for name in old.into_iter().flat_map(Map::keys) {
        if new.is_none_or(|new| !new.contains_key(name)) {
            visit(name);
        }
    }
    changes
}

/// At least one of both is there.
fn value(shape: Shape<'_>, old: Option<&Value>, new: Option<&Value>) -> Inner {
    let leaf = || {
        let mut inner = Inner::default();
        match (old, new) {
            (None, _) => inner.added = Tree::member(),
            (_, None) => inner.removed = Tree::member(),
            (Some(old), Some(new)) if old != new => inner.modified = Tree::member(),
            _ => {}
        }
        inner
    };
    match shape.parts() {
        Parts::Leaf => leaf(),
        Parts::Fields => {
            let (before, after) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if before.is_none_or(Map::is_empty) && after.is_none_or(Map::is_empty) {
                return leaf();
            }
            Inner::of(fields(shape, before, after), old.is_some(), new.is_some())
        }
        Parts::Items => {
            let (before, after) = (old.and_then(Value::as_array), new.and_then(Value::as_array));
            let (before, after) = (before.map_or(&[][..], Vec::as_slice), after.map_or(&[][..], Vec::as_slice));
            if before.is_empty() && after.is_empty() {
                return leaf();
            }
            Inner::of(items(shape, before, after), old.is_some(), new.is_some())
        }
    }
}

fn items(shape: Shape<'_>, old: &[Value], new: &[Value]) -> Changes {
    let mut changes = Changes::default();
    let Some(item) = shape.item() else { return changes };
    // Items of one element, of both lists; more than one where a list that
    // should not has duplicates.
    let mut found: BTreeMap<Element, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for value in old {
        if let Ok(at) = shape.element(value) {
            found.entry(at).or_default().0.push(value);
        }
    }
    for value in new {
        if let Ok(at) = shape.element(value) {
            found.entry(at).or_default().1.push(value);
        }
    }
    for (at, (old, new)) in found {
        let mut inner = match (old.as_slice(), new.as_slice()) {
            ([], [new]) => value(item, None, Some(new)),
            ([old], []) => value(item, Some(old), None),
            ([old], [new]) => value(item, Some(old), Some(new)),
            // From or to duplicates: the element stands for all of them.
            ([_, _, ..], [new]) => value(item, None, Some(new)),
            ([old], [_, _, ..]) => value(item, Some(old), None),
            _ => Inner::default(),
        };
        match (old.len(), new.len()) {
            (2.., 2..) => inner.modified.member |= old != new,
            (2.., _) => inner.removed.member = true,
            (_, 2..) => inner.added.member = true,
            _ => {}
        }
        changes.add(|| at, inner);
    }
    changes
}
