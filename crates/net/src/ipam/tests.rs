use proptest::prelude::*;

use super::*;

fn uid(n: usize) -> Uid {
    format!("pod-{n}").parse().unwrap()
}

fn range(text: &str) -> Cidr {
    text.parse().unwrap()
}

#[test]
fn addresses_go_round_before_one_is_used_again() {
    let mut book = Book::new(range("10.0.0.0/29")); // .2 to .6
    let first = book.assign(&uid(0)).unwrap();
    assert_eq!(first, Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!(book.release(&uid(0)), Some(first));
    let later: Vec<u8> = (1..=5).map(|n| book.assign(&uid(n)).unwrap().octets()[3]).collect();
    assert_eq!(later, [3, 4, 5, 6, 2]);
    assert_eq!(book.assign(&uid(6)), Err(Exhausted));
    assert_eq!(book.assign(&uid(3)), Ok(Ipv4Addr::new(10, 0, 0, 5)), "a pod that has one keeps it");
    assert_eq!(book.release(&uid(2)), Some(Ipv4Addr::new(10, 0, 0, 4)));
    assert_eq!(book.release(&uid(2)), None);
    assert_eq!(book.assign(&uid(6)), Ok(Ipv4Addr::new(10, 0, 0, 4)));
}

#[test]
fn the_book_survives_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = BookFile::open(dir.path(), range("10.0.0.0/24")).unwrap();
    let given = file.change(|book| book.assign(&uid(1))).unwrap().unwrap();
    drop(file);
    let file = BookFile::open(dir.path(), range("10.0.0.0/24")).unwrap();
    assert_eq!(file.book().address(&uid(1)), Some(given));
}

#[test]
fn a_change_that_cannot_be_kept_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = BookFile::open(dir.path(), range("10.0.0.0/24")).unwrap();
    drop(dir); // the directory is gone
    let error = file.change(|book| book.assign(&uid(1))).unwrap_err();
    assert!(error.to_string().contains("addresses.json"), "{error}");
    assert_eq!(file.book().len(), 0);
}

#[test]
fn a_damaged_book_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (text, why) in [
        ("", "EOF"),
        (
            r#"{"version":2,"range":"10.0.0.0/24","next":0,"pods":{},"ip_forward_before":null}"#,
            "has version 2",
        ),
        (
            r#"{"version":1,"range":"10.0.0.0/24","next":0,"pods":{"a":"10.0.0.2","b":"10.0.0.2"},"ip_forward_before":null}"#,
            "given to two pods",
        ),
        (
            r#"{"version":1,"range":"10.0.0.0/24","next":0,"pods":{"a":"10.0.0.1"},"ip_forward_before":null}"#,
            "no pod address",
        ),
    ] {
        fs::write(dir.path().join("addresses.json"), text).unwrap();
        let Err(NetError::Io { doing, source }) = BookFile::open(dir.path(), range("10.0.0.0/24")) else {
            panic!("{text} was read")
        };
        assert!(doing.contains("remove the file"), "{doing}");
        assert!(source.to_string().contains(why), "{source}");
    }
}

#[test]
fn the_range_changes_only_without_pods() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = BookFile::open(dir.path(), range("10.0.0.0/24")).unwrap();
    file.change(|book| book.assign(&uid(1))).unwrap().unwrap();
    let Err(NetError::Io { source, .. }) = BookFile::open(dir.path(), range("10.1.0.0/24")) else {
        panic!("the range changed under a pod")
    };
    assert!(source.to_string().contains("1 pods still have"), "{source}");
    file.change(|book| book.release(&uid(1))).unwrap();
    assert_eq!(
        BookFile::open(dir.path(), range("10.1.0.0/24")).unwrap().book().range,
        range("10.1.0.0/24")
    );
}

proptest! {
    /// Against a model that knows only "who has what": no address twice, none
    /// outside the pods' part, refusal only when all are taken, and what a pod
    /// has does not change.
    #[test]
    fn no_address_is_ever_given_twice(steps in proptest::collection::vec((0_usize..12, any::<bool>()), 1..200)) {
        let range = range("192.168.7.0/29");
        let mut book = Book::new(range);
        let mut model: BTreeMap<usize, Ipv4Addr> = BTreeMap::new();
        for (pod, attach) in steps {
            if attach {
                match book.assign(&uid(pod)) {
                    Ok(address) => {
                        prop_assert!(range.pod_index(address).is_some());
                        prop_assert!(model.iter().all(|(other, given)| (*other == pod) == (*given == address)));
                        model.insert(pod, address);
                    }
                    Err(Exhausted) => prop_assert!(model.len() == range.pods() as usize && !model.contains_key(&pod)),
                }
            } else {
                prop_assert_eq!(book.release(&uid(pod)), model.remove(&pod));
            }
            prop_assert_eq!(book.fault(), None);
        }
    }
}
