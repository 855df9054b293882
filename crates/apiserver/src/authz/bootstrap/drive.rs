//! Brings the store to what every cluster has, at start.

use std::sync::Arc;

use api::{Object, Status};
use store::{Compare, Op, Revision, StoreError, Txn};

use super::{Step, Wanted, reconcile, wanted};
use crate::authz::rules::GROUP;
use crate::codec::{self, Parsed};
use crate::registry::{Row, Rules};
use crate::server::Core;
use crate::{entropy, write};

/// Objects of one transaction, well below what a store takes.
const BATCH: usize = 48;
/// How often it begins anew when another server was faster.
const ATTEMPTS: u32 = 5;

/// Makes what is missing, mends what is less than it should be, and waits
/// until authorization sees it.
pub(crate) async fn drive(core: &Core) -> Result<(), Status> {
    let rows: Vec<Arc<Row>> = core
        .served()
        .registry
        .stored()
        .filter(|row| row.id.group == GROUP)
        .cloned()
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS {
        let txn = plan(core, &rows).await?;
        let mut lost = false;
        let (mut compares, mut ops) = (txn.compare.into_iter(), txn.ops.into_iter());
        loop {
            let batch = Txn {
                compare: compares.by_ref().take(BATCH).collect(),
                ops: ops.by_ref().take(BATCH).collect(),
            };
            if batch.ops.is_empty() {
                break;
            }
            match core.store.commit(batch).await {
                Ok(_) => {}
                Err(StoreError::Conflict { .. }) => lost = true,
                Err(error) => return Err(write::store_failed(&error)),
            }
        }
        if !lost {
            let newest = core.store.revision().0;
            for row in &rows {
                if !row.hub().reach(newest, core.limits.fresh_timeout).await {
                    return Err(Status::unavailable("the server is behind its store and cannot see its own roles"));
                }
            }
            return Ok(());
        }
    }
    Err(Status::unavailable("the roles every cluster has keep changing while they are made"))
}

/// One comparison and one operation per object that is not as it should be.
async fn plan(core: &Core, rows: &[Arc<Row>]) -> Result<Txn, Status> {
    let mut txn = Txn::default();
    for Wanted { plural, object } in wanted() {
        let Some(row) = rows.iter().find(|row| row.id.plural == plural) else {
            continue;
        };
        let parsed = Parsed {
            value: object,
            complaints: Vec::new(),
        };
        let (mut fresh, _) = codec::decode(row, parsed)?;
        let key = row.key(fresh.namespace(), fresh.name());
        if row.hub().get(&key, 0).is_some_and(|found| found.is_err()) {
            // Logged when it was read. It grants nothing until it is deleted,
            // and must not keep everything else from being served.
            continue;
        }
        let current = core.current(row, &key).await?;
        let (compare, becomes) = match &current {
            None => (Compare::Absent(key.clone()), None),
            Some(current) => {
                let wanted = serde_json::to_value(&fresh).map_err(|error| Status::internal(&error.to_string()))?;
                let compare = Compare::ModifiedAt(key.clone(), Revision(current.entry.revision));
                match reconcile(&wanted, &current.object) {
                    Step::Keep => continue,
                    Step::Update(object) => (compare, Some(*object)),
                    Step::Anew => (compare, None),
                }
            }
        };
        let new = becomes.unwrap_or_else(|| {
            own(&mut fresh, (core.clock)());
            fresh
        });
        write::validate(row, &new, None, Rules::Create)?;
        let (_, bytes) = write::encode(row, &new)?;
        txn.compare.push(compare);
        txn.ops.push(Op::Put(key, bytes));
    }
    Ok(txn)
}

fn own(object: &mut Object, now: api::Time) {
    object.meta.uid = Some(entropy::uid());
    object.meta.creation_timestamp = Some(now.wire());
}
