//! Objects of kinds that a document defines: what a row made at run time does
//! beyond its schema.
//!
//! Source: upstream
//! `apiextensions-apiserver/pkg/registry/customresource/{strategy,status_strategy}.go`.

use std::borrow::Cow;
use std::sync::Arc;

use api::schema::Root;
use api::{ResourceId, Time};

use super::restore;
use crate::registry::{Change, Resource, Strategy, Subresource};

/// The row of a kind that a document defines.
#[must_use]
pub fn row(id: ResourceId, storage: impl Into<Cow<'static, str>>, schema: impl Into<Root>, subresources: Vec<Subresource>) -> Resource {
    Resource {
        strategy: Arc::new(CustomResource {
            has_status: subresources.contains(&Subresource::Status),
        }),
        subresources,
        ..Resource::plain(id, storage, schema)
    }
}

struct CustomResource {
    /// `status` is a part of its own: else it is a field as any other.
    has_status: bool,
}

impl Strategy for CustomResource {
    /// Every change counts in `metadata.generation`, but for those of metadata
    /// and of a status that is a part of its own.
    fn prepare(&self, change: Change<'_>, _now: Time) {
        match change {
            Change::Create { new } => {
                if self.has_status {
                    new.body.remove("status");
                }
                new.meta.generation = Some(1);
            }
            Change::Update { new, old } => {
                if self.has_status {
                    restore(new, old, "status");
                }
                let before = old.meta.generation.unwrap_or(0);
                new.meta.generation = Some(before.saturating_add(i64::from(new.body != old.body)));
            }
            // Its metadata is the object's, not the status'.
            Change::UpdateStatus { new, old } => new.meta.clone_from(&old.meta),
        }
    }
}
