use serde_json::json;

use super::*;
use crate::kinds::pod::Pod as Kind;
use crate::registry::{Change, Rules, Strategy};

const KEY: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A Pod with containers `i` (init) and `c`, as the server keeps it: with the
/// profile of the Pod, of `c`, and annotations by container.
fn made(of_pod: Value, own: Value, annotations: &[(&str, &str)]) -> (Object, Vec<String>) {
    let annotations: BTreeMap<String, String> = annotations
        .iter()
        .map(|(name, text)| (format!("{KEY}{name}"), (*text).to_owned()))
        .collect();
    let mut pod: Object = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "namespace": "d", "annotations": annotations },
        "spec": {
            "securityContext": { "appArmorProfile": of_pod },
            "initContainers": [{ "name": "i", "image": "i" }],
            "containers": [{ "name": "c", "image": "i", "securityContext": { "appArmorProfile": own } }],
        },
    }))
    .unwrap();
    Kind.default(&mut pod);
    let schema = api::schema::named("io.k8s.api.core.v1.PodSpec").unwrap();
    api::schema::normalize(schema, pod.body.get_mut("spec").unwrap());
    let warned = Kind.warnings(&pod, None);
    Kind.prepare(Change::Create { new: &mut pod }, api::Time(0));
    (pod, warned)
}

fn annotated(pod: &Object) -> Vec<(&str, &str)> {
    let all = pod.meta.annotations.iter().flatten();
    all.map(|(key, text)| (key.strip_prefix(KEY).unwrap(), text.as_str())).collect()
}

fn profile(pod: &Object, list: &str) -> Value {
    pod.body["spec"][list][0]["securityContext"]["appArmorProfile"].clone()
}

fn said(pod: &Object) -> Vec<String> {
    let broken = Kind.validate(pod, None, Rules::Create);
    broken
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.message))
        .collect()
}

/// Fields: metadata.annotations spec.securityContext.appArmorProfile spec.containers[].securityContext.appArmorProfile
#[test]
fn fields_and_annotations_are_kept_in_step() {
    let (pod, warned) = made(
        json!({ "type": "RuntimeDefault" }),
        json!({ "type": "Localhost", "localhostProfile": "own" }),
        &[],
    );
    assert_eq!(annotated(&pod), [("c", "localhost/own"), ("i", "runtime/default")]);
    assert_eq!((warned, said(&pod)), (Vec::new(), Vec::new()));

    let (pod, warned) = made(Value::Null, Value::Null, &[("c", "localhost/own"), ("i", "unconfined")]);
    assert_eq!(
        profile(&pod, "containers"),
        json!({ "type": "Localhost", "localhostProfile": "own" })
    );
    assert_eq!(profile(&pod, "initContainers"), json!({ "type": "Unconfined" }));
    assert_eq!(
        warned,
        ["i", "c"]
            .map(|name| format!(r#"metadata.annotations[{KEY}{name}]: deprecated since v1.30; use the "appArmorProfile" field instead"#))
    );
    assert_eq!(said(&pod), Vec::<String>::new());

    // The same as the Pod's own is not said twice, and nothing is to be warned of.
    let (pod, warned) = made(json!({ "type": "Unconfined" }), Value::Null, &[("c", "unconfined")]);
    assert_eq!((profile(&pod, "containers"), warned), (Value::Null, Vec::new()));
    assert_eq!(annotated(&pod), [("c", "unconfined"), ("i", "unconfined")]);

    // What says nothing is warned of, and not taken over.
    for nothing in ["", "localhost/", "localhost/ padded"] {
        let (pod, warned) = made(Value::Null, Value::Null, &[("c", nothing)]);
        assert_eq!((profile(&pod, "containers"), warned.len()), (Value::Null, 1), "{nothing:?}");
        assert_eq!(said(&pod), Vec::<String>::new());
    }
}

#[test]
fn annotations_that_make_no_sense_are_refused() {
    let (pod, _) = made(Value::Null, Value::Null, &[("c", "other"), ("who", "unconfined")]);
    assert_eq!(
        said(&pod),
        [
            format!(r#"metadata.annotations[{KEY}c]: Invalid value: "other": invalid AppArmor profile name: "other""#),
            format!(r#"metadata.annotations[{KEY}who]: Invalid value: "who": container not found"#),
        ]
    );
    let localhost = json!({ "type": "Localhost", "localhostProfile": "own" });
    for (field, annotation, at, what) in [
        (json!({ "type": "Unconfined" }), "runtime/default", "type", "type"),
        (json!({ "type": "RuntimeDefault" }), "unconfined", "type", "type"),
        (localhost.clone(), "runtime/default", "type", "type"),
        (localhost, "localhost/other", "localhostProfile", "profile"),
    ] {
        let wanted = format!("Forbidden: apparmor {what} in annotation and field must match");
        let (pod, _) = made(Value::Null, field.clone(), &[("c", annotation)]);
        assert_eq!(
            said(&pod),
            [format!("spec.containers[0].securityContext.appArmorProfile.{at}: {wanted}")]
        );
        // The Pod's own is that of a container without one.
        let (pod, _) = made(field, Value::Null, &[("i", annotation)]);
        let field = format!("spec.initContainers[0].securityContext.appArmorProfile.{at}");
        // Filling in made the container's own of it, as upstream does.
        assert_eq!(said(&pod), Vec::<String>::new(), "{field}");
    }
}

#[test]
fn annotations_of_a_pod_stay_as_they_are() {
    let (old, _) = made(Value::Null, Value::Null, &[("c", "unconfined"), ("i", "unconfined")]);
    let mut new = old.clone();
    let annotations = new.meta.annotations.as_mut().unwrap();
    annotations.remove(&format!("{KEY}i"));
    annotations.insert(format!("{KEY}c"), "runtime/default".to_owned());
    annotations.insert(format!("{KEY}x"), "unconfined".to_owned());
    annotations.insert("mine".to_owned(), "changes".to_owned());
    let broken = Kind.validate(&new, Some(&old), Rules::Update);
    let broken: Vec<String> = broken
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.message))
        .collect();
    let field = |name: &str| format!("metadata.annotations[{KEY}{name}]");
    assert_eq!(
        broken,
        [
            format!("{}: Forbidden: may not remove or update AppArmor annotations", field("c")),
            format!("{}: Forbidden: may not remove or update AppArmor annotations", field("i")),
            format!("{}: Forbidden: may not add AppArmor annotations", field("x")),
            format!(r#"{}: Invalid value: "x": container not found"#, field("x")),
        ]
    );
}
