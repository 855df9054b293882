//! Who set which field: `metadata.managedFields`, and server-side apply.
//! Pure; the time is an argument.
//!
//! Reading order: [`element`] and [`set`] (paths of fields, and sets of them),
//! [`shape`] (what the schema says about ownership), [`compare`] (what a write
//! changed), [`owners`] (the entries of `managedFields`), [`record`] (what a
//! create, update or patch does to them), then [`apply`] with [`check`],
//! [`merge`], [`field_set`] and [`remove`].
//!
//! Source: KEP-555; upstream `sigs.k8s.io/structured-merge-diff` v4
//! (`fieldpath`, `typed`, `merge`) and
//! `apimachinery/pkg/util/managedfields/internal`.

mod apply;
mod check;
mod compare;
mod element;
mod field_set;
mod merge;
mod owners;
mod record;
mod remove;
mod set;
mod shape;

pub(crate) use self::apply::{Config, apply};
pub(crate) use self::owners::{Writer, equal_but_for_times};
pub(crate) use self::record::record;
pub(crate) use self::set::Set;

use api::status::Violation;
use api::{Object, Status};

use crate::call::{Call, Part};
use crate::registry::{Registry, Resource, Subresource};

/// Most bytes of a manager's name.
///
/// Source: upstream `validation.FieldManagerMaxLength`.
pub(crate) const NAME_MAX_BYTES: usize = 128;

/// The other forms of a storage: an entry of `managedFields` names the form
/// its fields are written in.
pub(crate) struct Forms<'a> {
    /// The form of the request.
    pub(crate) row: &'a Resource,
    /// Where the others are found.
    pub(crate) registry: &'a Registry,
}

impl Forms<'_> {
    /// The row of another version of the same storage.
    fn row(&self, api_version: &str) -> Option<&Resource> {
        self.registry
            .rows()
            .map(|row| &***row)
            .find(|row| row.storage == self.row.storage && row.id.api_version() == api_version)
    }

    /// An object of the request's form in that of another row.
    fn convert(&self, object: &Object, to: &Resource) -> Option<Object> {
        let stored = match self.row.convert {
            Some(convert) => convert.to_stored(object.clone()).ok()?,
            None => object.clone(),
        };
        Some(
            to.convert
                .map_or_else(|| stored.clone(), |convert| convert.from_stored(stored.clone())),
        )
    }
}

/// The name a write is remembered by: what the request says, or the first part
/// of its user agent.
///
/// # Errors
/// 422 for a name that is too long or cannot be printed, and for an apply
/// without one.
///
/// Source: upstream `handlers/create.go` `managerOrUserAgent`,
/// `metav1/validation.ValidateFieldManager`, `ValidatePatchOptions`.
pub(crate) fn manager_name(call: &Call, applies: bool) -> Result<String, Status> {
    let Some(name) = call.query.get("fieldManager") else {
        if applies {
            return Err(call.invalid_option(Violation::required("fieldManager", "is required for apply patch")));
        }
        let agent = call.headers.get(http::header::USER_AGENT);
        return Ok(from_user_agent(agent.map(http::HeaderValue::as_bytes).unwrap_or_default()));
    };
    match name_violations("fieldManager", name).into_iter().next() {
        Some(violation) => Err(call.invalid_option(violation)),
        None => Ok(name.to_owned()),
    }
}

/// What stands before the first `/`, without what cannot be printed.
fn from_user_agent(agent: &[u8]) -> String {
    let text = String::from_utf8_lossy(agent);
    let product = text.split('/').next().unwrap_or_default();
    let mut name = String::new();
    for character in product.chars().filter(|character| is_printable(*character)) {
        if name.len() + character.len_utf8() > NAME_MAX_BYTES {
            break;
        }
        name.push(character);
    }
    name
}

/// Go's `unicode.IsPrint`, as far as names of programs go: no control
/// characters, and of all spaces only the plain one.
fn is_printable(character: char) -> bool {
    character == ' ' || !(character.is_control() || character.is_whitespace() || character == char::REPLACEMENT_CHARACTER)
}

/// What is wrong with a manager's name.
fn name_violations(field: &str, name: &str) -> Vec<Violation> {
    let mut broken = Vec::new();
    if name.len() > NAME_MAX_BYTES {
        broken.push(Violation::too_long(field, NAME_MAX_BYTES));
    }
    for (at, character) in name.char_indices().filter(|(_, character)| !is_printable(*character)) {
        let why = format!("invalid character U+{:04X} (at position {at})", u32::from(character));
        broken.push(Violation::invalid(field, &name.into(), &why));
    }
    broken
}

/// Fields a request cannot set, and so never owns.
///
/// Source: upstream's `GetResetFields`, such as
/// `pkg/registry/core/pod/strategy.go`.
pub(crate) fn reset_fields(row: &Resource, part: Part) -> Set {
    let status = || Set::of(&[&["status"]]);
    match part {
        Part::Main if row.has(Subresource::Status) => status(),
        Part::Main | Part::Binding => Set::default(),
        Part::Finalize | Part::Ephemeral | Part::Resize => status(),
        Part::Status | Part::Approval => Set::of(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]]),
    }
}

#[cfg(test)]
mod tests;
