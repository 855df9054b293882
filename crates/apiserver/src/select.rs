//! Which objects of a collection a request is about.

use api::selector::FieldSelector;
use api::{Object, Selector, Status};

use crate::call::{Call, served};
use crate::hub::Entry;
use crate::registry::Resource;

/// Label and field selector of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    labels: Selector,
    fields: FieldSelector,
}

impl Selection {
    /// From the query; a request for a watch of one object by its path selects
    /// that name.
    ///
    /// # Errors
    /// 400 for a selector that does not parse, or names a field that cannot be
    /// selected by.
    pub(crate) fn of(call: &Call) -> Result<Self, Status> {
        let labels = call.query.get("labelSelector").unwrap_or_default();
        let labels: Selector = labels
            .parse()
            .map_err(|error| Status::bad_request(format!("unable to parse label selector {labels:?}: {error}")))?;
        let fields = call.query.get("fieldSelector").unwrap_or_default();
        let mut fields: FieldSelector = fields
            .parse()
            .map_err(|error: api::selector::FieldSelectorError| Status::bad_request(error.to_string()))?;
        if !call.asked.name.is_empty() {
            fields.requirements.push(api::selector::FieldRequirement {
                field: "metadata.name".to_owned(),
                operator: api::selector::FieldOperator::Equals,
                value: call.asked.name.clone(),
            });
        }
        let unknown = fields
            .requirements
            .iter()
            .find(|requirement| !supports(&call.row, &requirement.field));
        if let Some(unknown) = unknown {
            return Err(unsupported(&call.row, &unknown.field));
        }
        Ok(Self { labels, fields })
    }

    /// Whether every object is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.requirements.is_empty()
    }

    /// What labels are asked for.
    pub(crate) fn labels(&self) -> &Selector {
        &self.labels
    }

    /// The only name that can match, if there is one.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// Whether a stored entry is meant, in the row's form.
    pub(crate) fn chooses(&self, row: &Resource, entry: &Entry) -> bool {
        if self.is_everything() {
            return true;
        }
        match row.convert {
            None => self.matches(row, &entry.object),
            Some(_) => self.matches(row, &served(row, &entry.object)),
        }
    }

    /// Whether an object in the row's form is meant.
    pub(crate) fn matches(&self, row: &Resource, object: &Object) -> bool {
        let labels = match &object.meta.labels {
            Some(labels) => self.labels.matches(labels),
            None => self.labels.matches(&std::collections::BTreeMap::new()),
        };
        labels && self.fields.matches(|field| value(row, object, field))
    }
}

/// Kinds without fields of their own know the two that every object has, also
/// where none has a namespace.
///
/// Source: upstream `apimachinery/pkg/runtime/conversion.go`,
/// `DefaultMetaV1FieldSelectorConversion`, and the conversions of
/// `pkg/apis/{core,certificates,events}/v1/conversion.go`.
fn supports(row: &Resource, field: &str) -> bool {
    match field {
        "metadata.name" => true,
        "metadata.namespace" => row.fields.is_empty() || row.scope == api::Scope::Namespaced,
        _ => row.fields.iter().any(|own| own.name == field),
    }
}

fn unsupported(row: &Resource, field: &str) -> Status {
    Status::bad_request(if row.fields.is_empty() {
        format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
    } else {
        format!("field label not supported: {field}")
    })
}

fn value(row: &Resource, object: &Object, field: &str) -> String {
    match field {
        "metadata.name" => object.name().to_owned(),
        "metadata.namespace" => object.namespace().to_owned(),
        _ => row
            .fields
            .iter()
            .find(|own| own.name == field)
            .map(|own| own.of(object))
            .unwrap_or_default(),
    }
}
