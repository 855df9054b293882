//! What a create, update or patch does to `managedFields`.
//!
//! Source: upstream `merge.Updater.Update`;
//! `managedfields/internal/{fieldmanager,managedfieldsupdater,stripmeta,skipnonapplied}.go`.

use std::sync::LazyLock;

use api::{Object, Status};

use super::Forms;
use super::compare::{self, Changes};
use super::owners::{Owners, Sent, Writer, violations};
use super::set::Set;
use crate::registry::Resource;

/// What nobody owns: it is not anybody's intent.
///
/// Source: upstream `stripmeta.go`.
pub(super) static STRIPPED: LazyLock<Set> = LazyLock::new(|| {
    Set::of(&[
        &["apiVersion"],
        &["kind"],
        &["metadata"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "clusterName"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ])
});

/// Sets the `managedFields` of a new version of an object: whoever writes owns
/// what the write changed, and the others own it no more. `old` is `None` for a
/// create; `reset` are fields the request could not set.
///
/// # Errors
/// 422 for `managedFields` the request states and that break a rule.
pub(crate) fn record(forms: &Forms<'_>, old: Option<&Object>, new: &mut Object, writer: &Writer, reset: &Set) -> Result<(), Status> {
    let stored = old.and_then(|old| old.managed_fields.as_ref());
    let own_words = new
        .managed_fields
        .take()
        .filter(|text| writer.subresource.is_empty() && Some(text) != stored);
    let changes = compare::objects(forms.row.schema(), old, new).without(reset);
    if own_words.is_none() && changes.is_empty() {
        new.managed_fields = stored.cloned();
        return Ok(());
    }
    let stored = || Owners::decode(stored).unwrap_or_default();
    let mut managers = match own_words.as_ref().map(Owners::sent) {
        Some(Sent::Reset) => Owners::default(),
        Some(Sent::Owners(managers)) => {
            let broken = violations(&managers);
            if !broken.is_empty() {
                return Err(Status::invalid(&forms.row.id, new.name(), &broken));
            }
            managers
        }
        Some(Sent::Nothing) | None => stored(),
    };
    // Ownership of an object begins with its creation, or with the first apply.
    if managers.0.is_empty() && old.is_some() {
        return Ok(());
    }
    give_up(forms, &mut managers, &changes, |row| {
        let old = match old {
            Some(old) => Some(forms.convert(old, row)?),
            None => None,
        };
        Some(compare::objects(row.schema(), old.as_ref(), &forms.convert(new, row)?))
    });
    own(&mut managers, &changes, writer);
    managers.cap();
    new.managed_fields = managers.encode()?;
    Ok(())
}

/// The writer owns what it set.
pub(super) fn own(managers: &mut Owners, changes: &Changes, writer: &Writer) {
    let fields = changes.set().difference(&STRIPPED);
    if fields.is_empty() {
        return;
    }
    let mut entry = writer.entry(false, fields);
    if let Some(before) = managers.take(&entry) {
        entry.fields = entry.fields.union(&before.fields);
    }
    managers.put(entry);
}

/// Nobody owns any more what has changed or is gone. `other` compares in the
/// form of another row.
pub(super) fn give_up(forms: &Forms<'_>, managers: &mut Owners, changes: &Changes, other: impl Fn(&Resource) -> Option<Changes>) {
    let here = forms.row.id.api_version();
    let lost = |changes: &Changes| changes.set().union(&changes.removed);
    let mine = lost(changes);
    managers.0.retain_mut(|manager| {
        if manager.api_version == here {
            manager.fields = manager.fields.difference(&mine);
        } else {
            // Of a version that is not served any more nothing is known.
            let Some(changes) = forms.row(&manager.api_version).and_then(&other) else {
                return false;
            };
            manager.fields = manager.fields.difference(&lost(&changes));
        }
        !manager.fields.is_empty()
    });
}
