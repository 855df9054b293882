use super::*;

fn kind(name: &str) -> Kind {
    Kind {
        group: String::new(),
        name: name.to_owned(),
    }
}

/// An object with owners; `!` before one: it does not hold that up.
fn object(uid: &str, owners: &[&str]) -> Seen {
    Seen {
        kind: kind("Thing"),
        namespace: "n".to_owned(),
        name: uid.to_owned(),
        uid: uid.to_owned(),
        owners: owners
            .iter()
            .map(|owner| Owner {
                kind: kind("Thing"),
                name: owner.trim_start_matches('!').to_owned(),
                uid: owner.trim_start_matches('!').to_owned(),
                blocks: !owner.starts_with('!'),
            })
            .collect(),
        deleting: false,
        foreground: false,
        orphan: false,
    }
}

fn waiting(uid: &str, owners: &[&str]) -> Seen {
    Seen {
        deleting: true,
        foreground: true,
        ..object(uid, owners)
    }
}

/// What is done about an object, in a word; `absent` do not exist.
fn decided(graph: &mut Graph, uid: &str, absent: &[&str]) -> String {
    let unknown = graph.unknown_owners(uid);
    let asked = unknown.into_iter().map(|(owner, _)| owner);
    let absent: BTreeSet<Uid> = asked
        .filter(|owner| !graph.answer(owner, !absent.contains(&owner.uid.as_str())))
        .map(|owner| owner.uid)
        .collect();
    let names = |objects: &[Seen]| objects.iter().map(|object| object.uid.clone()).collect::<Vec<_>>().join(",");
    match graph.decide(uid, &absent) {
        None => "nothing".to_owned(),
        Some(Action::Delete { object, policy }) => format!("delete {} {policy:?}", object.uid),
        Some(Action::Detach { objects, owners }) => format!(
            "detach {} from {}",
            names(&objects),
            owners.into_iter().collect::<Vec<_>>().join(",")
        ),
        Some(Action::Unblock { objects, owner }) => format!("unblock {owner} of {}", names(&objects)),
        Some(Action::Orphan { object, dependents }) => format!("orphan {} of {}", names(&dependents), object.uid),
        Some(Action::LetGo { object, finalizer }) => format!("{} without {finalizer}", object.uid),
    }
}

#[test]
fn an_object_goes_after_its_last_owner() {
    let mut graph = Graph::default();
    assert_eq!(graph.see(object("b", &["a"])), ["b"]);
    assert_eq!(decided(&mut graph, "b", &[]), "nothing");
    assert_eq!(graph.gone("a"), ["b"]);
    assert_eq!(decided(&mut graph, "b", &["a"]), "delete b Background");
    graph.see(object("c", &["never"]));
    assert_eq!(decided(&mut graph, "c", &["never"]), "delete c Background", "it came too late");
    graph.see(object("d", &["x", "y"]));
    assert_eq!(decided(&mut graph, "d", &["y"]), "detach d from y");
}

#[test]
fn an_owner_in_the_foreground_waits_for_those_who_hold_it_up() {
    let mut graph = Graph::default();
    graph.see(object("b", &["a"]));
    graph.see(object("c", &["!a"]));
    let asked = graph.see(waiting("a", &[]));
    assert_eq!(asked, ["a", "b", "c"]);
    assert_eq!(decided(&mut graph, "a", &[]), "nothing");
    assert_eq!(decided(&mut graph, "b", &[]), "delete b Background");
    assert_eq!(graph.gone("b"), ["a"]);
    assert_eq!(
        decided(&mut graph, "a", &[]),
        "a without foregroundDeletion",
        "c does not hold it up"
    );
}

#[test]
fn dependents_of_dependents_go_first_too_and_circles_are_cut() {
    let mut graph = Graph::default();
    graph.see(object("b", &["a"]));
    graph.see(object("c", &["b"]));
    graph.see(waiting("a", &[]));
    assert_eq!(decided(&mut graph, "b", &[]), "delete b Foreground");
    graph.see(waiting("b", &["a"]));
    assert_eq!(decided(&mut graph, "c", &[]), "delete c Background");
    graph.gone("c");
    assert_eq!(decided(&mut graph, "b", &[]), "b without foregroundDeletion");

    let mut circle = Graph::default();
    circle.see(object("b", &["a"]));
    circle.see(waiting("a", &["b"]));
    assert_eq!(decided(&mut circle, "b", &[]), "unblock b of a");
    circle.see(waiting("a", &["!b"]));
    assert_eq!(decided(&mut circle, "b", &[]), "delete b Foreground");
}

#[test]
fn orphans_lose_their_owner_and_stay() {
    let mut graph = Graph::default();
    graph.see(object("b", &["a"]));
    let dying = Seen {
        deleting: true,
        orphan: true,
        ..object("a", &[])
    };
    assert_eq!(graph.see(dying), ["a"]);
    assert_eq!(decided(&mut graph, "a", &[]), "orphan b of a");
}

#[test]
fn a_list_shows_what_is_gone() {
    let mut graph = Graph::default();
    graph.see(object("b", &["a"]));
    assert_eq!(decided(&mut graph, "b", &[]), "nothing");
    graph.relist_begins(&kind("Thing"));
    assert_eq!(graph.relist_item(object("b", &["a"])), ["b"]);
    assert_eq!(graph.relist_ends(&kind("Thing")), ["b"], "its owner was not among them");
    assert_eq!(decided(&mut graph, "b", &["a"]), "delete b Background");
    graph.relist_begins(&kind("Thing"));
    graph.relist_ends(&kind("Thing"));
    assert_eq!(decided(&mut graph, "b", &["a"]), "nothing", "so is that");
}

#[test]
fn an_owner_that_goes_while_it_is_asked_for_is_gone() {
    let mut graph = Graph::default();
    graph.see(object("b", &["a"]));
    graph.see(object("c", &["a"]));
    let (asked, _) = graph.unknown_owners("b").remove(0);
    assert_eq!(graph.unknown_owners("c").len(), 1, "nothing is known before the answer");
    graph.gone("a");
    assert!(!graph.answer(&asked, true));
    graph.unknown_owners("c");
    assert!(graph.answer(&asked, true) && graph.unknown_owners("c").is_empty());
}
