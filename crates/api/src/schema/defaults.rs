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
pub(super) enum FieldDefault {
    /// A text.
    Text(&'static str),
    /// `true` or `false`.
    Boolean(bool),
}

impl FieldDefault {
    /// As JSON.
    pub(super) fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::from(text),
            Self::Boolean(boolean) => Value::from(boolean),
        }
    }
}

/// Definition in `io.k8s.api.core.v1`, field, default.
pub(super) const CORE: &[(&str, &str, FieldDefault)] = &[
    ("AzureDiskVolumeSource", "cachingMode", FieldDefault::Text("ReadWrite")),
    ("AzureDiskVolumeSource", "fsType", FieldDefault::Text("ext4")),
    ("AzureDiskVolumeSource", "kind", FieldDefault::Text("Shared")),
    ("AzureDiskVolumeSource", "readOnly", FieldDefault::Boolean(false)),
    ("ContainerPort", "protocol", FieldDefault::Text("TCP")),
    ("ISCSIPersistentVolumeSource", "iscsiInterface", FieldDefault::Text("default")),
    ("ISCSIVolumeSource", "iscsiInterface", FieldDefault::Text("default")),
    ("RBDPersistentVolumeSource", "keyring", FieldDefault::Text("/etc/ceph/keyring")),
    ("RBDPersistentVolumeSource", "pool", FieldDefault::Text("rbd")),
    ("RBDPersistentVolumeSource", "user", FieldDefault::Text("admin")),
    ("RBDVolumeSource", "keyring", FieldDefault::Text("/etc/ceph/keyring")),
    ("RBDVolumeSource", "pool", FieldDefault::Text("rbd")),
    ("RBDVolumeSource", "user", FieldDefault::Text("admin")),
    ("ScaleIOPersistentVolumeSource", "fsType", FieldDefault::Text("xfs")),
    (
        "ScaleIOPersistentVolumeSource",
        "storageMode",
        FieldDefault::Text("ThinProvisioned"),
    ),
    ("ScaleIOVolumeSource", "fsType", FieldDefault::Text("xfs")),
    ("ScaleIOVolumeSource", "storageMode", FieldDefault::Text("ThinProvisioned")),
    ("ServicePort", "protocol", FieldDefault::Text("TCP")),
];

/// The default of a field of a definition.
pub(super) fn of(definition: &str, field: &str) -> Option<FieldDefault> {
    let name = definition.strip_prefix("io.k8s.api.core.v1.")?;
    CORE.iter()
        .find(|(d, f, _)| *d == name && *f == field)
        .map(|(_, _, default)| *default)
}

/// Fills absent fields of `value` with the defaults of the published schema.
/// Objects that are absent stay absent.
pub fn apply_defaults(schema: Schema<'_>, value: &mut Value) {
    match (schema.kind(), value) {
        (Kind::Object, Value::Object(object)) => {
            for (name, field) in schema.fields() {
                if let Some(default) = field.default
                    && object.get(name).is_none_or(Value::is_null)
                {
                    object.insert(name.to_owned(), default.clone());
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
