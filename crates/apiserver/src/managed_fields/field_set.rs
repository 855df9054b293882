//! The paths an applied configuration states.
//!
//! Source: upstream `structured-merge-diff/v4/typed/tofieldset.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::set::{Set, Tree};
use super::shape::{Parts, Shape};

/// The paths of an object.
pub(crate) fn of(shape: Shape<'_>, object: &Map<String, Value>) -> Set {
    let mut set = Set::default();
    for (name, value) in object {
        let Some(child) = shape.named(name) else { continue };
        let mut tree = at(child, value);
        // Keys of maps are owned, fields of objects only where nothing in
        // them is.
        tree.member |= value.is_null() || value.as_object().is_some_and(Map::is_empty) || !shape.declares(name);
        set.add(Element::field(name), tree);
    }
    set
}

fn at(shape: Shape<'_>, value: &Value) -> Tree {
    let below = |below| Tree { member: false, below };
    match (shape.parts(), value) {
        (Parts::Leaf, _) => Tree::member(),
        (Parts::Fields, Value::Object(object)) => below(of(shape, object)),
        (Parts::Items, Value::Array(array)) => below(items(shape, array)),
        // Null; `check` has refused everything else.
        _ => Tree::default(),
    }
}

fn items(shape: Shape<'_>, array: &[Value]) -> Set {
    let mut found: BTreeMap<Element, (usize, Tree)> = BTreeMap::new();
    for value in array {
        let (Some(item), Ok(element)) = (shape.item(), shape.element(value)) else {
            continue;
        };
        let seen = found.entry(element).or_default();
        seen.0 += 1;
        if seen.0 == 1 {
            seen.1 = at(item, value);
        } else {
            // Duplicates are owned together.
            seen.1 = Tree::default();
        }
        seen.1.member = true;
    }
    let mut set = Set::default();
    for (element, (_, tree)) in found {
        set.add(element, tree);
    }
    set
}
