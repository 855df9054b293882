//! The entries of `metadata.managedFields`.
//!
//! Source: upstream `apimachinery/pkg/util/managedfields/internal`:
//! `managedfields.go`, `capmanagers.go`, `buildmanagerinfo.go`;
//! `metav1/validation.ValidateManagedFields`.

use std::collections::BTreeMap;

use api::object::JsonText;
use api::status::{Status, Violation};
use serde::{Deserialize, Serialize};

use super::name_violations;
use super::set::Set;

/// Entries of updates an object keeps; older ones are merged.
///
/// Source: upstream `DefaultMaxUpdateManagers`.
const UPDATES_MAX: usize = 10;
/// Who merged entries belong to.
const ANCIENT: &str = "ancient-changes";
/// Most bytes of a subresource's name.
const SUBRESOURCE_MAX_BYTES: usize = 256;
const FIELDS_TYPE: &str = "FieldsV1";
const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// An entry as it goes over the wire.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Entry {
    #[serde(skip_serializing_if = "String::is_empty")]
    manager: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    operation: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    api_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    fields_type: String,
    #[serde(rename = "fieldsV1", skip_serializing_if = "Option::is_none")]
    fields: Option<Set>,
    #[serde(skip_serializing_if = "String::is_empty")]
    subresource: String,
}

/// `managedFields` that cannot be read; upstream then goes on with what is
/// stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undecodable {
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    #[error("apiVersion must not be empty")]
    ApiVersion,
    #[error("missing fieldsType in managed fields entry {0}")]
    NoFieldsType(usize),
    #[error("invalid fieldsType {0:?} in managed fields entry {1}")]
    FieldsType(String, usize),
}

/// A write: by whom, through what, in which form, when.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// Name of the manager; nobody is `unknown`.
    pub(crate) manager: String,
    /// Empty for the object itself.
    pub(crate) subresource: String,
    /// Of the request's form.
    pub(crate) api_version: String,
    /// RFC 3339 in whole seconds.
    pub(crate) now: String,
}

/// What one manager owns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) name: String,
    /// By server-side apply, rather than by other writes.
    pub(crate) applies: bool,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: Option<String>,
    pub(crate) fields: Set,
}

/// Who owns what of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Owners(pub(crate) Vec<Owner>);

impl Owner {
    /// Whether both are one: for those that apply, in whatever version.
    fn is(&self, other: &Self) -> bool {
        self.applies == other.applies
            && self.name == other.name
            && self.subresource == other.subresource
            && (self.applies || self.api_version == other.api_version)
    }

    /// As conflicts name it.
    ///
    /// Source: upstream `conflict.go` `printManager`; it leaves the time out.
    pub(crate) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if !self.applies {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn age(&self) -> (&str, &str, &str, &str) {
        let time = self.time.as_deref().unwrap_or_default();
        (time, &self.name, &self.api_version, &self.subresource)
    }
}

impl Writer {
    /// The entry of this write.
    pub(crate) fn entry(&self, applies: bool, fields: Set) -> Owner {
        let name = if self.manager.is_empty() { "unknown" } else { &self.manager };
        Owner {
            name: name.to_owned(),
            applies,
            api_version: self.api_version.clone(),
            subresource: self.subresource.clone(),
            time: Some(self.now.clone()),
            fields,
        }
    }
}

fn entries(text: &JsonText) -> Result<Vec<Entry>, serde_json::Error> {
    serde_json::from_str(text.as_str())
}

impl Owners {
    /// Reads `metadata.managedFields`.
    pub(crate) fn decode(text: Option<&JsonText>) -> Result<Self, Undecodable> {
        let mut managers = Self::default();
        let Some(text) = text else { return Ok(managers) };
        for (index, entry) in entries(text)?.into_iter().enumerate() {
            if !matches!(entry.operation.as_str(), APPLY | UPDATE) {
                return Err(Undecodable::Operation);
            }
            if entry.api_version.is_empty() {
                return Err(Undecodable::ApiVersion);
            }
            match entry.fields_type.as_str() {
                FIELDS_TYPE => {}
                "" => return Err(Undecodable::NoFieldsType(index)),
                _ => return Err(Undecodable::FieldsType(entry.fields_type, index)),
            }
            managers.put(Owner {
                name: entry.manager,
                applies: entry.operation == APPLY,
                api_version: entry.api_version,
                subresource: entry.subresource,
                time: entry.time,
                fields: entry.fields.unwrap_or_default(),
            });
        }
        Ok(managers)
    }

    /// What a request says about managed fields.
    pub(crate) fn sent(text: &JsonText) -> Sent {
        match entries(text) {
            Ok(entries) if entries.is_empty() || entries == [Entry::default()] => Sent::Reset,
            _ => match Self::decode(Some(text)) {
                Ok(managers) => Sent::Owners(managers),
                Err(_) => Sent::Nothing,
            },
        }
    }

    /// Adds or replaces an entry.
    pub(crate) fn put(&mut self, manager: Owner) {
        match self.0.iter_mut().find(|other| other.is(&manager)) {
            Some(other) => *other = manager,
            None => self.0.push(manager),
        }
    }

    /// Takes the entry of the same manager out.
    pub(crate) fn take(&mut self, manager: &Owner) -> Option<Owner> {
        let place = self.0.iter().position(|other| other.is(manager))?;
        Some(self.0.remove(place))
    }

    /// Merges the oldest updates of each version until there are few enough.
    pub(crate) fn cap(&mut self) {
        let mut count = self.0.iter().filter(|manager| !manager.applies).count();
        if count <= UPDATES_MAX {
            return;
        }
        let (mut updates, applies): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(|manager| !manager.applies);
        updates.sort_by(|left, right| left.age().cmp(&right.age()));
        // By version: the place of the entry all later ones are merged into.
        let mut buckets: BTreeMap<String, usize> = BTreeMap::new();
        let mut kept: Vec<Owner> = Vec::new();
        for update in updates {
            match buckets.get(&update.api_version) {
                Some(&bucket) if count > UPDATES_MAX => {
                    let bucket = &mut kept[bucket];
                    ANCIENT.clone_into(&mut bucket.name);
                    bucket.subresource.clear();
                    bucket.fields = bucket.fields.union(&update.fields);
                    bucket.time = update.time;
                    count -= 1;
                }
                _ => {
                    buckets.entry(update.api_version.clone()).or_insert(kept.len());
                    kept.push(update);
                }
            }
        }
        self.0 = applies;
        self.0.extend(kept);
    }

    /// Writes `metadata.managedFields`, in upstream's order; `None` when nobody
    /// owns anything.
    pub(crate) fn encode(mut self) -> Result<Option<JsonText>, Status> {
        if self.0.is_empty() {
            return Ok(None);
        }
        self.0
            .sort_by(|left, right| right.applies.cmp(&left.applies).then_with(|| left.age().cmp(&right.age())));
        let entries = self.0.into_iter().map(|manager| Entry {
            manager: manager.name,
            operation: if manager.applies { APPLY } else { UPDATE }.to_owned(),
            api_version: manager.api_version,
            time: manager.time,
            fields_type: FIELDS_TYPE.to_owned(),
            fields: Some(manager.fields),
            subresource: manager.subresource,
        });
        let entries: Vec<Entry> = entries.collect();
        JsonText::of(&entries)
            .map(Some)
            .map_err(|error| Status::internal(&format!("managedFields could not be encoded: {error}")))
    }
}

/// What a request says about managed fields.
pub(crate) enum Sent {
    /// That nobody shall own anything: `[]` or `[{}]`.
    Reset,
    /// Who shall own what.
    Owners(Owners),
    /// Nothing that can be read.
    Nothing,
}

/// What is wrong with entries somebody wrote by hand.
pub(crate) fn violations(managers: &Owners) -> Vec<Violation> {
    let mut broken = Vec::new();
    for (index, manager) in managers.0.iter().enumerate() {
        let field = |name: &str| format!("metadata.managedFields[{index}].{name}");
        broken.extend(name_violations(&field("manager"), &manager.name));
        if manager.subresource.len() > SUBRESOURCE_MAX_BYTES {
            broken.push(Violation::too_long(field("subresource"), SUBRESOURCE_MAX_BYTES));
        }
    }
    broken
}

/// Whether both say the same, times aside.
///
/// Source: upstream `handlers/fieldmanager/equality.go`.
pub(crate) fn equal_but_for_times(left: Option<&JsonText>, right: Option<&JsonText>) -> bool {
    let (Some(left), Some(right)) = (left, right) else {
        return left.is_none() && right.is_none();
    };
    if left == right {
        return true;
    }
    let timeless = |text: &JsonText| {
        let entries = entries(text).ok()?;
        let blank = |entry: Entry| Entry { time: None, ..entry };
        Some(entries.into_iter().map(blank).collect::<Vec<_>>())
    };
    matches!((timeless(left), timeless(right)), (Some(left), Some(right)) if left == right)
}
