//! The Kubernetes API as data: objects, metadata, schema, selectors,
//! quantities, statuses, and what a node's runtime reports of a pod.
//!
//! Reading order: [`object`], [`resource`], [`status`], then [`schema`];
//! [`protobuf`] is another wire form of the same objects; [`quantity`],
//! [`selector`], [`pods`] and [`quota`] stand alone.
//!
//! This crate does not know tokio, sockets, files or clocks. Time is a value
//! ([`Time`]) that drivers hand in.

pub mod node;
pub mod object;
pub mod pods;
pub mod protobuf;
pub mod quantity;
pub mod quota;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod signal;
pub mod status;
pub mod time;
pub mod typed;

pub use node::{ContainerId, Uid};
pub use object::{Object, TypeMeta, ViewError};
pub use quantity::Quantity;
pub use resource::{GroupVersionKind, ResourceId, Scope};
pub use selector::{FieldSelector, Selector};
pub use status::Status;
pub use time::Time;
