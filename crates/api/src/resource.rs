//! What a served resource is called.

use serde::{Deserialize, Serialize};

/// Whether objects of a resource live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Addressed as `namespaces/NS/PLURAL/NAME`.
    Namespaced,
    /// Addressed as `PLURAL/NAME`.
    Cluster,
}

/// A kind, fully qualified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupVersionKind {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `Pod`.
    pub kind: String,
}

/// The names of a resource, as discovery shows them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// Empty for the core group.
    pub group: String,
    /// For example `v1`.
    pub version: String,
    /// For example `Pod`.
    pub kind: String,
    /// Lower case, in the URL: `pods`.
    pub plural: String,
    /// Lower case: `pod`.
    pub singular: String,
}

impl ResourceId {
    /// A resource whose singular is its kind in lower case.
    #[must_use]
    pub fn new(group: &str, version: &str, kind: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
        }
    }

    /// `group/version`, or `version` for the core group.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `apiVersion` and `kind` of its objects.
    #[must_use]
    pub fn types(&self) -> crate::TypeMeta {
        crate::TypeMeta {
            api_version: self.api_version(),
            kind: self.kind.clone(),
        }
    }

    /// `plural.group`, or `plural` for the core group: how messages name it.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// The kind, fully qualified.
    #[must_use]
    pub fn gvk(&self) -> GroupVersionKind {
        GroupVersionKind {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
        }
    }
}
