//! Sets of field paths.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use super::element::Element;
use super::shape::Shape;

/// A set of field paths, as a tree: what lies below one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Set(Vec<Node>);

/// A path, and the paths that go on from it. At least one of both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    at: Element,
    tree: Tree,
}

/// The paths at and below some path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The path itself is in the set.
    pub(crate) member: bool,
    /// The paths that go on.
    pub(crate) below: Set,
}

impl Tree {
    /// The path itself, and nothing below.
    pub(crate) fn member() -> Self {
        Self {
            member: true,
            below: Set::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn zip(left: Option<&Self>, right: Option<&Self>, keep: impl Fn(bool, bool) -> bool + Copy) -> Self {
        let member = |tree: Option<&Self>| tree.is_some_and(|tree| tree.member);
        let empty = Set::default();
        let below = |tree: Option<&Self>| -> Vec<Node> { tree.map_or(&empty, |tree| &tree.below).0.clone() };
        let below = match (left, right) {
            (Some(left), Some(right)) => left.below.zip(&right.below, keep),
            // Of one side alone: all of it or nothing.
            (left, None) if keep(true, false) => Set(below(left)),
            (None, right) if keep(false, true) => Set(below(right)),
            _ => Set::default(),
        };
        Self {
            member: keep(member(left), member(right)),
            below,
        }
    }
}

impl Set {
    /// The set of some paths of fields.
    pub(crate) fn of(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let elements: Vec<Element> = path.iter().map(|name| Element::field(name)).collect();
            set.insert(&elements);
        }
        set
    }

    /// Adds a path.
    pub(crate) fn insert(&mut self, path: &[Element]) {
        let Some((first, rest)) = path.split_first() else { return };
        let place = match self.0.binary_search_by(|node| node.at.cmp(first)) {
            Ok(place) => place,
            Err(place) => {
                let (at, tree) = (first.clone(), Tree::default());
                self.0.insert(place, Node { at, tree });
                place
            }
        };
        let tree = &mut self.0[place].tree;
        if rest.is_empty() {
            tree.member = true;
        } else {
            tree.below.insert(rest);
        }
    }

    /// Adds what lies at and below an element that is not in the set yet.
    pub(crate) fn add(&mut self, at: Element, tree: Tree) {
        if tree.is_empty() {
            return;
        }
        match self.0.binary_search_by(|node| node.at.cmp(&at)) {
            Ok(place) => {
                let both = Tree::zip(Some(&self.0[place].tree), Some(&tree), |left, right| left || right);
                self.0[place].tree = both;
            }
            Err(place) => self.0.insert(place, Node { at, tree }),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What lies at and below an element.
    pub(crate) fn get(&self, at: &Element) -> Option<&Tree> {
        let place = self.0.binary_search_by(|node| node.at.cmp(at)).ok()?;
        Some(&self.0[place].tree)
    }

    fn zip(&self, other: &Self, keep: impl Fn(bool, bool) -> bool + Copy) -> Self {
        let mut out = Vec::with_capacity(self.0.len());
        let (mut left, mut right) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Self(out),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.at.cmp(&right.at),
            };
            let (left, right) = (
                if order.is_le() { left.next() } else { None },
                if order.is_ge() { right.next() } else { None },
            );
            let tree = Tree::zip(left.map(|node| &node.tree), right.map(|node| &node.tree), keep);
            if let Some(node) = left.or(right)
                && !tree.is_empty()
            {
                let at = node.at.clone();
                out.push(Node { at, tree });
            }
        }
    }

    /// The paths of either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        self.zip(other, |left, right| left || right)
    }

    /// The paths of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |left, right| left && right)
    }

    /// The paths that are not in `other`.
    pub(crate) fn difference(&self, other: &Self) -> Self {
        self.zip(other, |left, right| left && !right)
    }

    /// The paths that neither are in `other` nor go on from one in it.
    pub(crate) fn without(&self, other: &Self) -> Self {
        let nodes = self.0.iter().filter_map(|node| match other.get(&node.at) {
            Some(tree) if tree.member => None,
            Some(tree) => {
                let below = node.tree.below.without(&tree.below);
                let member = node.tree.member;
                let tree = Tree { member, below };
                let at = node.at.clone();
                (!tree.is_empty()).then_some(Node { at, tree })
            }
            None => Some(node.clone()),
        });
        Self(nodes.collect())
    }

    /// The set with the declared fields on the way to each path: a set of
    /// `spec.containers[name="a"].image` then has `spec`, `spec.containers`
    /// and this path, and neither the item nor keys of maps.
    ///
    /// Source: upstream `fieldpath.Set.EnsureNamedFieldsAreMembers`.
    pub(crate) fn with_declared_fields(&self, shape: Shape<'_>) -> Self {
        let nodes = self.0.iter().map(|node| {
            let declared = matches!(&node.at, Element::Field(name) if shape.declares(name));
            let tree = Tree {
                member: node.tree.member || declared,
                below: match shape.child(&node.at) {
                    Some(child) => node.tree.below.with_declared_fields(child),
                    None => node.tree.below.clone(),
                },
            };
            let at = node.at.clone();
            Node { at, tree }
        });
        Self(nodes.collect())
    }

    /// Every path, as errors name it.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, prefix: &mut String, paths: &mut Vec<String>) {
        let length = prefix.len();
        for node in &self.0 {
            prefix.push_str(&node.at.to_string());
            if node.tree.member {
                paths.push(prefix.clone());
            }
            node.tree.below.collect(prefix, paths);
            prefix.truncate(length);
        }
    }
}

impl Serialize for Set {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        for node in &self.0 {
            out.serialize_entry(&node.at.wire(), &node.tree)?;
        }
        out.end()
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_map(None)?;
        if self.member && !self.below.is_empty() {
            out.serialize_entry(".", &Set::default())?;
        }
        for node in &self.below.0 {
            out.serialize_entry(&node.at.wire(), &node.tree)?;
        }
        out.end()
    }
}

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tree::deserialize(deserializer).map(|tree| tree.below)
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of path elements")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut tree = Tree::default();
        let mut leaf = true;
        while let Some(key) = entries.next_key::<std::borrow::Cow<'_, str>>()? {
            leaf = false;
            let inner: Tree = entries.next_value()?;
            if key == "." {
                tree.member = true;
            } else if let Some(at) = Element::read(&key).map_err(A::Error::custom)? {
                tree.below.add(at, inner);
            }
        }
        tree.member |= leaf;
        Ok(tree)
    }
}
