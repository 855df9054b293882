//! Server-side apply: a configuration merged into what is stored.
//!
//! Source: upstream `merge.Updater.Apply`;
//! `managedfields/internal/{structuredmerge,versioncheck,lastappliedmanager,lastappliedupdater,skipnonapplied}.go`.

use api::status::{Cause, Details, Status};
use api::{Object, ResourceId};
use serde_json::{Map, Value};

use super::compare::{self, Changes};
use super::owners::{Owner, Owners, Writer};
use super::record::{self, STRIPPED};
use super::set::Set;
use super::shape::Shape;
use super::{Forms, check, field_set, merge, remove};
use crate::registry::Resource;

/// The annotation client-side apply keeps its last configuration in.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";
/// Who owns what was there before the first apply.
const BEFORE_FIRST: &str = "before-first-apply";
/// Most bytes of all annotations.
const ANNOTATIONS_MAX_BYTES: usize = 256 << 10;

/// What a client wants to own, as it wrote it.
pub(crate) struct Config {
    /// The object, `apiVersion` and `kind` included.
    pub(crate) object: Map<String, Value>,
    /// Conflicts are won.
    pub(crate) force: bool,
}

/// The outcome of an apply.
pub(crate) struct Applied {
    /// The whole object as JSON, without defaults for what is new in it.
    pub(crate) object: Map<String, Value>,
    /// Who owns what of it.
    pub(crate) managers: Owners,
}

/// A field that another manager owns with another value.
struct Conflict {
    manager: Owner,
    fields: Set,
}

/// Applies a configuration to an object, or to nothing.
///
/// # Errors
/// 400 for another kind, 409 for conflicts, 500 as upstream for a
/// configuration that does not have the shape of its kind.
pub(crate) fn apply(forms: &Forms<'_>, live: Option<&Object>, config: &Config, writer: &Writer, reset: &Set) -> Result<Applied, Status> {
    require_kind(forms.row, &config.object)?;
    let shape = Shape::of(forms.row.schema());
    if text(&config.object, "metadata/managedFields").is_some() {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let errors = check::errors(shape, &config.object);
    if !errors.is_empty() {
        let why = format!(
            "failed to create typed patch object ({}): {}",
            named(&config.object),
            check::joined(&errors)
        );
        return Err(Status::unclassified(why));
    }
    let mut managers = Owners::decode(live.and_then(|live| live.managed_fields.as_ref()))
        .map_err(|error| Status::unclassified(format!("failed to decode managed fields: {error}")))?;
    if let (Some(live), true) = (live, managers.0.is_empty()) {
        let changes = compare::objects(forms.row.schema(), None, live).without(reset);
        let before = Writer {
            manager: BEFORE_FIRST.to_owned(),
            ..writer.clone()
        };
        record::own(&mut managers, &changes, &before);
    }
    let live = json(live)?;
    let applying = Applying {
        forms,
        shape,
        live: &live,
        config: &config.object,
        reset,
    };
    let mut applied = match applying.run(managers.clone(), writer, config.force) {
        Ok(applied) => applied,
        Err(conflicts) => {
            let disputed = applying.not_from_client_side(conflicts, writer);
            if !disputed.is_empty() {
                return Err(refused(&disputed));
            }
            applying.run(managers, writer, true).map_err(|conflicts| refused(&conflicts))?
        }
    };
    if writer.manager == KUBECTL {
        sync_last_applied(&mut applied.object, &config.object);
    }
    Ok(applied)
}

fn json(object: Option<&Object>) -> Result<Map<String, Value>, Status> {
    let Some(object) = object else { return Ok(Map::new()) };
    match object.value() {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(Status::internal(&format!("the stored object could not be encoded: {error}"))),
    }
}

/// The value at a path of two names.
fn text<'v>(object: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let (first, second) = path.split_once('/')?;
    object.get(first)?.get(second).filter(|value| !value.is_null())
}

/// Go's `GroupVersionKind.String`: `apps/v1, Kind=Deployment`, `/v1, Kind=Pod`.
fn kind_of(object: &Map<String, Value>) -> String {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    format!("{group}/{version}, Kind={}", text("kind"))
}

/// `namespace/name; kind`.
fn named(object: &Map<String, Value>) -> String {
    let part = |path: &str| text(object, path).and_then(Value::as_str).unwrap_or_default();
    format!("{}/{}; {}", part("metadata/namespace"), part("metadata/name"), kind_of(object))
}

fn require_kind(row: &Resource, object: &Map<String, Value>) -> Result<(), Status> {
    let stated = |name: &str, wanted: &str| object.get(name).and_then(Value::as_str) == Some(wanted);
    if stated("apiVersion", &row.id.api_version()) && stated("kind", &row.id.kind) {
        return Ok(());
    }
    Err(Status::bad_request(format!("invalid object type: {}", kind_of(object))))
}

struct Applying<'a> {
    forms: &'a Forms<'a>,
    shape: Shape<'a>,
    live: &'a Map<String, Value>,
    config: &'a Map<String, Value>,
    reset: &'a Set,
}

impl Applying<'_> {
    fn run(&self, mut managers: Owners, writer: &Writer, force: bool) -> Result<Applied, Vec<Conflict>> {
        let stated = field_set::of(self.shape, self.config).without(self.reset);
        let mut own = writer.entry(true, stated);
        let before = managers.take(&own);
        let merged = merge::objects(self.shape, self.live, self.config);
        let object = match &before {
            Some(before) => self.prune(&merged, &before.fields, &own.fields, &managers),
            None => merged,
        };
        let changes = self.changes(self.forms.row, self.live, &object).without(self.reset);
        let other = |row: &Resource| {
            let convert = |object: &Map<String, Value>| -> Option<Map<String, Value>> {
                let object: Object = serde_json::from_value(Value::Object(object.clone())).ok()?;
                json(Some(&self.forms.convert(&object, row)?)).ok()
            };
            Some(self.changes(row, &convert(self.live)?, &convert(&object)?))
        };
        if !force {
            let conflicts = self.conflicts(&managers, &changes, other);
            if !conflicts.is_empty() {
                return Err(conflicts);
            }
        }
        record::give_up(self.forms, &mut managers, &changes, other);
        own.fields = own.fields.difference(&STRIPPED);
        if object == *self.live {
            // Nothing changed, not even who said so when.
            own.time = before.and_then(|before| before.time);
        }
        if !own.fields.is_empty() {
            managers.put(own);
        }
        Ok(Applied { object, managers })
    }

    fn changes(&self, row: &Resource, old: &Map<String, Value>, new: &Map<String, Value>) -> Changes {
        compare::values(row.schema(), old, new)
    }

    /// Fields the apply would change and others own.
    fn conflicts(&self, managers: &Owners, changes: &Changes, other: impl Fn(&Resource) -> Option<Changes>) -> Vec<Conflict> {
        let here = self.forms.row.id.api_version();
        let mut conflicts = Vec::new();
        for manager in &managers.0 {
            let fields = if manager.api_version == here {
                manager.fields.intersection(&changes.set())
            } else {
                let changes = self.forms.row(&manager.api_version).and_then(&other);
                changes
                    .map(|changes| manager.fields.intersection(&changes.set()))
                    .unwrap_or_default()
            };
            if !fields.is_empty() {
                let manager = manager.clone();
                conflicts.push(Conflict { manager, fields });
            }
        }
        conflicts
    }

    /// Removes what this manager stated last time, does not state now, and
    /// nobody else owns.
    fn prune(&self, merged: &Map<String, Value>, before: &Set, now: &Set, others: &Owners) -> Map<String, Value> {
        let shape = self.shape;
        if before.is_empty() {
            return merged.clone();
        }
        let whole = |set: &Set| set.with_declared_fields(shape);
        let before = whole(before);
        let pruned = remove::objects(shape, merged, &before);
        let merged_set = whole(&field_set::of(shape, merged));
        // What anybody still owns comes back.
        let here = self.forms.row.id.api_version();
        let mut owned = now.clone();
        for manager in others.0.iter().filter(|manager| manager.api_version == here) {
            owned = owned.union(&manager.fields);
        }
        let keep = whole(&field_set::of(shape, &pruned)).union(&whole(&owned));
        let pruned = remove::objects(shape, merged, &merged_set.difference(&keep));
        // And so does what this manager never owned.
        let gone = merged_set.difference(&whole(&field_set::of(shape, &pruned)));
        remove::objects(shape, merged, &gone.intersection(&before))
    }

    /// The conflicts that are not with what client-side apply wrote of the same
    /// object: kubectl may take that over.
    fn not_from_client_side(&self, conflicts: Vec<Conflict>, writer: &Writer) -> Vec<Conflict> {
        if writer.manager != KUBECTL {
            return conflicts;
        }
        let Some(allowed) = self.last_applied() else { return conflicts };
        let left = conflicts.into_iter().map(|conflict| Conflict {
            fields: conflict.fields.difference(&allowed),
            ..conflict
        });
        left.filter(|conflict| !conflict.fields.is_empty()).collect()
    }

    /// What client-side apply wrote last and is still so.
    fn last_applied(&self) -> Option<Set> {
        let stored = text(self.live, "metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
        let Ok(Value::Object(last)) = serde_json::from_str(stored) else {
            return None;
        };
        if last.get("apiVersion")?.as_str()? != self.forms.row.id.api_version() || !check::errors(self.shape, &last).is_empty() {
            return None;
        }
        let changes = self.changes(self.forms.row, &last, self.live);
        let stated = field_set::of(self.shape, &last);
        Some(stated.difference(&changes.set()).difference(&changes.removed))
    }
}

/// Keeps the annotation of client-side apply true, where there is one.
fn sync_last_applied(object: &mut Map<String, Value>, config: &Map<String, Value>) {
    let annotations = object
        .get_mut("metadata")
        .and_then(|meta| meta.get_mut("annotations"))
        .and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(meta)) = config.get_mut("metadata")
        && let Some(Value::Object(own)) = meta.get_mut("annotations")
    {
        own.remove(LAST_APPLIED);
    }
    // Upstream's encoder ends a document with a newline.
    let last = format!("{}\n", Value::Object(config));
    annotations.insert(LAST_APPLIED.to_owned(), Value::from(last));
    let bytes: usize = annotations
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if bytes > ANNOTATIONS_MAX_BYTES {
        annotations.remove(LAST_APPLIED);
    }
}

/// 409 with a cause per field.
///
/// Source: upstream `managedfields/internal/conflict.go`.
fn refused(conflicts: &[Conflict]) -> Status {
    let mut causes = Vec::new();
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for conflict in conflicts {
        let manager = conflict.manager.shown();
        let paths = conflict.fields.paths();
        causes.extend(paths.iter().map(|path| Cause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {manager}"),
            field: path.clone(),
        }));
        lines.push((manager, paths));
    }
    lines.sort();
    let message = match causes.as_slice() {
        [one] => format!("Apply failed with 1 conflict: {}: {}", one.message, one.field),
        many => {
            let lines = lines.iter().flat_map(|(manager, paths)| {
                let fields = paths.iter().map(|path| format!("- {path}"));
                std::iter::once(format!("conflicts with {manager}:")).chain(fields)
            });
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                lines.collect::<Vec<_>>().join("\n")
            )
        }
    };
    let mut status = Status::conflict(&ResourceId::new("", "", "", ""), "", "");
    status.message = message;
    status.details = Some(Details {
        causes,
        ..Details::default()
    });
    status
}
