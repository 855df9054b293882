//! What a batch does, transaction by transaction.

use bytes::Bytes;

use super::*;

fn put(key: &str, value: &'static str) -> Op {
    Op::Put(key.to_owned(), Bytes::from_static(value.as_bytes()))
}

fn absent(key: &str) -> Compare {
    Compare::Absent(key.to_owned())
}

fn value(text: &'static str, created: u64, modified: u64) -> Versioned {
    Versioned {
        value: Bytes::from_static(text.as_bytes()),
        created: Revision(created),
        modified: Revision(modified),
    }
}

#[test]
fn each_transaction_sees_the_ones_before_it_and_fails_alone() {
    let live = BTreeMap::from([("old".to_owned(), value("0", 3, 3))]);
    let txns = [
        Txn {
            compare: vec![absent("new")],
            ops: vec![put("new", "1")],
        },
        Txn {
            compare: vec![absent("new")],
            ops: vec![put("new", "2"), put("old", "2")],
        },
        Txn {
            compare: vec![Compare::ModifiedAt("new".to_owned(), Revision(10))],
            ops: vec![put("new", "3")],
        },
        Txn {
            compare: vec![],
            ops: vec![Op::Delete("old".to_owned())],
        },
        Txn {
            compare: vec![Compare::Present("old".to_owned())],
            ops: vec![put("old", "5")],
        },
        Txn {
            compare: vec![absent("old")],
            ops: vec![Op::Delete("old".to_owned())],
        },
    ];
    let plan = plan(&live, Revision(9), txns);
    let outcomes: Vec<_> = plan
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(revision) => revision.to_string(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(
        outcomes,
        [
            "10",
            "a comparison of the transaction does not hold for key new",
            "11",
            "12",
            "a comparison of the transaction does not hold for key old",
            "12",
        ]
    );
    assert_eq!((plan.batch.from, plan.batch.to), (Revision(9), Revision(12)));
    let net = [
        (
            "new".to_owned(),
            Change {
                before: None,
                after: Some(value("3", 10, 11)),
            },
        ),
        (
            "old".to_owned(),
            Change {
                before: Some(value("0", 3, 3)),
                after: None,
            },
        ),
    ];
    assert_eq!(plan.batch.changes, BTreeMap::from(net));
    let events = [
        Event {
            revision: Revision(10),
            key: "new".to_owned(),
            value: Some(value("1", 10, 10)),
            previous: None,
        },
        Event {
            revision: Revision(11),
            key: "new".to_owned(),
            value: Some(value("3", 10, 11)),
            previous: Some(value("1", 10, 10)),
        },
        Event {
            revision: Revision(12),
            key: "old".to_owned(),
            value: None,
            previous: Some(value("0", 3, 3)),
        },
    ];
    assert_eq!(plan.events, events);
}

#[test]
fn a_reversed_batch_undoes() {
    let live = BTreeMap::from([("a".to_owned(), value("0", 3, 3))]);
    let batch = plan(
        &live,
        Revision(3),
        [Txn {
            compare: vec![],
            ops: vec![put("a", "1"), put("b", "1")],
        }],
    )
    .batch;
    let undo = batch.clone().reversed();
    assert_eq!((undo.from, undo.to), (Revision(4), Revision(3)));
    assert_eq!(undo.changes["a"].after, Some(value("0", 3, 3)));
    assert_eq!(undo.changes["b"].after, None);
    assert_eq!(undo.reversed(), batch);
}

/// Who put them knows the news by them.
#[test]
fn a_value_is_the_very_bytes_it_was_given() {
    let given = Bytes::from_static(b"xx");
    let plan = plan(
        &BTreeMap::new(),
        Revision(1),
        [Txn {
            compare: vec![],
            ops: vec![Op::Put("a".to_owned(), given.clone())],
        }],
    );
    let told = &plan.events[0].value.as_ref().unwrap().value;
    assert_eq!((told.as_ptr(), told.len()), (given.as_ptr(), given.len()));
}
