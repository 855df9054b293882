//! The only place that imports `k8s-openapi`: typed views of wire objects.
//!
//! Everything else names these re-exports, so that the generated crate can be
//! exchanged in one file.

pub use k8s_openapi::ByteString;
pub use k8s_openapi::api::certificates::v1 as certificates;
pub use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
pub use k8s_openapi::api::core::v1::*;
pub use k8s_openapi::api::discovery::v1 as discovery;
pub use k8s_openapi::api::events::v1 as events;
pub use k8s_openapi::api::node::v1 as node;
pub use k8s_openapi::api::policy::v1 as policy;
pub use k8s_openapi::api::rbac::v1 as rbac;
pub use k8s_openapi::api::storage::v1 as storage;
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    Condition as MetaCondition, DeleteOptions, LabelSelector, LabelSelectorRequirement, ListMeta, MicroTime, ObjectMeta, OwnerReference,
    Preconditions, Time as WireTime,
};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::{Metadata, Resource};
