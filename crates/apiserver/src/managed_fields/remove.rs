//! An object without some of its paths.
//!
//! Source: upstream `structured-merge-diff/v4/typed/remove.go`.

use serde_json::{Map, Value};

use super::element::Element;
use super::set::Set;
use super::shape::{Parts, Shape};

/// The object without the paths of the set. What becomes empty is gone.
pub(crate) fn objects(shape: Shape<'_>, object: &Map<String, Value>, paths: &Set) -> Map<String, Value> {
    let mut out = Map::new();
    for (name, value) in object {
        let kept = match (paths.get(&Element::field(name)), shape.named(name)) {
            (Some(tree), _) if tree.member => None,
            (Some(tree), Some(child)) => values(child, value, &tree.below),
            _ => Some(value.clone()),
        };
        out.extend(kept.map(|kept| (name.clone(), kept)));
    }
    out
}

fn values(shape: Shape<'_>, value: &Value, paths: &Set) -> Option<Value> {
    match (shape.parts(), value) {
        (Parts::Fields, Value::Object(object)) => {
            let kept = objects(shape, object, paths);
            (!kept.is_empty()).then_some(Value::Object(kept))
        }
        (Parts::Items, Value::Array(array)) => {
            let item = shape.item()?;
            let kept = array.iter().filter_map(|value| {
                let Ok(at) = shape.element(value) else { return Some(value.clone()) };
                match paths.get(&at) {
                    Some(tree) if tree.member => None,
                    // An item that is left without fields is no item.
                    Some(tree) => values(item, value, &tree.below),
                    None => Some(value.clone()),
                }
            });
            let kept: Vec<Value> = kept.collect();
            (!kept.is_empty()).then_some(Value::Array(kept))
        }
        _ => Some(value.clone()),
    }
}
