//! Defaults the published schema states.
//!
//! The generated table carries none, so they are listed here; it is the place
//! to add one. Defaults that depend on other fields are a kind's own business.
//!
//! Source: `+default=` markers of the v1 API types.

use serde_json::Value;

use super::{Kind, Schema};

/// The value of an absent field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// A text.
    Text(&'static str),
    /// `true` or `false`.
    Boolean(bool),
}

impl Default {
    /// As JSON.
    #[must_use]
    pub fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::from(text),
            Self::Boolean(boolean) => Value::from(boolean),
        }
    }
}

/// Definition in `io.k8s.api.core.v1`, field, default.
pub(super) const CORE: &[(&str, &str, Default)] = &[
    ("AzureDiskVolumeSource", "cachingMode", Default::Text("ReadWrite")),
    ("AzureDiskVolumeSource", "fsType", Default::Text("ext4")),
    ("AzureDiskVolumeSource", "kind", Default::Text("Shared")),
    ("AzureDiskVolumeSource", "readOnly", Default::Boolean(false)),
    ("ContainerPort", "protocol", Default::Text("TCP")),
    ("ISCSIPersistentVolumeSource", "iscsiInterface", Default::Text("default")),
    ("ISCSIVolumeSource", "iscsiInterface", Default::Text("default")),
    ("RBDPersistentVolumeSource", "keyring", Default::Text("/etc/ceph/keyring")),
    ("RBDPersistentVolumeSource", "pool", Default::Text("rbd")),
    ("RBDPersistentVolumeSource", "user", Default::Text("admin")),
    ("RBDVolumeSource", "keyring", Default::Text("/etc/ceph/keyring")),
    ("RBDVolumeSource", "pool", Default::Text("rbd")),
    ("RBDVolumeSource", "user", Default::Text("admin")),
    ("ScaleIOPersistentVolumeSource", "fsType", Default::Text("xfs")),
    ("ScaleIOPersistentVolumeSource", "storageMode", Default::Text("ThinProvisioned")),
    ("ScaleIOVolumeSource", "fsType", Default::Text("xfs")),
    ("ScaleIOVolumeSource", "storageMode", Default::Text("ThinProvisioned")),
    ("ServicePort", "protocol", Default::Text("TCP")),
];

/// The default of a field of a definition.
pub(super) fn of(definition: &str, field: &str) -> Option<Default> {
    let name = definition.strip_prefix("io.k8s.api.core.v1.")?;
    CORE.iter()
        .find(|(d, f, _)| *d == name && *f == field)
        .map(|(_, _, default)| *default)
}

/// Fills absent fields of `value` with the defaults of the published schema.
/// Objects that are absent stay absent.
pub fn apply_defaults(schema: Schema, value: &mut Value) {
    match (schema.kind(), value) {
        (Kind::Object, Value::Object(object)) => {
            for (name, field) in schema.fields() {
                if let Some(default) = field.default
                    && object.get(name).is_none_or(Value::is_null)
                {
                    object.insert(name.to_owned(), default.value());
                }
            }
            for (name, child) in object.iter_mut() {
                if let Some(field) = schema.field(name) {
                    apply_defaults(field.schema, child);
                }
            }
        }
        (Kind::Map(values), Value::Object(object)) => object.values_mut().for_each(|child| apply_defaults(values, child)),
        (Kind::Array(items), Value::Array(array)) => array.iter_mut().for_each(|child| apply_defaults(items, child)),
        // Scalars have no fields, and a wrong shape is `check`'s to report.
        _ => {}
    }
}
