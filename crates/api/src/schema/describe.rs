//! What people read of the definitions: descriptions, and the closed sets of
//! values some fields have.
//!
//! The text stays in the program image and is not decoded before somebody
//! asks; what is decoded is dropped with the answer. Nothing of it costs
//! memory while nobody asks for a schema.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Kind, Schema};

const SOURCE: &str = include_str!("v1_33.descriptions");
const BEGIN: &str = "{\"definition\":\"";

/// Where each definition is described.
pub struct Descriptions(BTreeMap<&'static str, &'static str>);

/// What is said of one definition.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Described {
    #[serde(rename = "definition")]
    pub(super) _name: String,
    /// Of the definition itself; may be empty.
    pub description: String,
    pub(super) fields: BTreeMap<String, String>,
    pub(super) enums: BTreeMap<String, Vec<String>>,
}

impl Default for Descriptions {
    fn default() -> Self {
        let name = |line: &'static str| line.strip_prefix(BEGIN)?.split_once('"').map(|(name, _)| name);
        Self(SOURCE.lines().filter_map(|line| Some((name(line)?, line))).collect())
    }
}

impl Descriptions {
    /// What is said of an object.
    #[must_use]
    pub fn of_schema<'t>(&self, schema: Schema<'t>) -> Cow<'t, Described> {
        let own = schema.table.definition(schema.node).and_then(|d| d.described.as_deref());
        own.map_or_else(|| Cow::Owned(self.of(schema.name().unwrap_or_default())), Cow::Borrowed)
    }

    /// What is said of a built-in definition, or of a scalar type with a name
    /// of its own. Nothing, when the table does not hold it.
    #[must_use]
    pub fn of(&self, definition: &str) -> Described {
        // The file is generated, committed and decoded by this crate's tests.
        self.0
            .get(definition)
            .map(|line| serde_json::from_str(line).expect("the committed descriptions decode: their test does it"))
            .unwrap_or_default()
    }
}

impl Described {
    /// The description of a field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// All values a field may have, if there is such a set.
    #[must_use]
    pub fn values(&self, name: &str) -> Option<&[String]> {
        self.enums.get(name).map(Vec::as_slice)
    }

    /// All values the items of a field may have.
    #[must_use]
    pub fn item_values(&self, name: &str) -> Option<&[String]> {
        self.enums.get(format!("{name}[]").as_str()).map(Vec::as_slice)
    }
}

/// The name under which a scalar type is published; `None` for JSON's own, and
/// for what a document declares in place.
/// `field` tells the two types apart that hold anything.
#[must_use]
pub fn scalar_name(schema: Schema<'_>, field: &str) -> Option<&'static str> {
    match schema.kind() {
        _ if !schema.is_built_in() => None,
        Kind::Quantity => Some("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        Kind::IntOrString => Some("io.k8s.apimachinery.pkg.util.intstr.IntOrString"),
        Kind::Time => Some("io.k8s.apimachinery.pkg.apis.meta.v1.Time"),
        Kind::MicroTime => Some("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"),
        Kind::Any if field == "fieldsV1" => Some("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1"),
        Kind::Any => Some("io.k8s.apimachinery.pkg.runtime.RawExtension"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{for_kind, named};

    #[test]
    fn every_definition_is_described_and_nothing_else() {
        let descriptions = Descriptions::default();
        assert!(descriptions.0.len() > 400);
        assert_eq!(descriptions.0.len(), SOURCE.lines().count());
        let mut fields = 0;
        for name in descriptions.0.keys() {
            let described = descriptions.of(name);
            assert_eq!(described._name, *name);
            let Some(schema) = named(name) else {
                assert!(!described.description.is_empty(), "{name}");
                continue;
            };
            for field in described.fields.keys() {
                assert!(schema.field(field).is_some(), "{name}.{field}");
            }
            fields += described.fields.len();
        }
        assert!(fields > 1_500, "{fields}");
    }

    #[test]
    fn a_field_says_what_its_values_mean() {
        let pod = for_kind("", "v1", "Pod").unwrap();
        let spec = pod.field("spec").unwrap().schema.name().unwrap();
        let described = Descriptions::default().of(spec);
        assert_eq!(described.values("restartPolicy").unwrap(), ["Always", "Never", "OnFailure"]);
        let text = described.field("restartPolicy").unwrap();
        assert!(text.starts_with("Restart policy for all containers within the pod."), "{text}");
        assert!(
            text.ends_with("\n\nPossible enum values:\n - `\"Always\"`\n - `\"Never\"`\n - `\"OnFailure\"`"),
            "{text}"
        );
        let claim = Descriptions::default().of("io.k8s.api.core.v1.PersistentVolumeClaimSpec");
        assert_eq!(claim.item_values("accessModes").unwrap().len(), 4);
        assert!(Descriptions::default().of("io.k8s.api.core.v1.Nothing").description.is_empty());
    }
}
