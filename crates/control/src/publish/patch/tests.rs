use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::backend::tests::{Differs, READY, pod, service};
use crate::backend::{Backend, Service};
use crate::{endpoint_slice, endpoints};

/// A pod `pod-N` that is not there, or is ready or not.
fn backends(states: &[u8]) -> Vec<Backend> {
    let there = states.iter().enumerate().filter(|(_, state)| **state != 0);
    let made = there.map(|(index, state)| {
        let differs = Differs {
            ready: *state > 1,
            ..READY
        };
        pod(&format!("pod-{index}"), Some(&format!("10.0.0.{}", index + 1)), differs)
    });
    made.collect()
}

fn stored(mut metadata: ObjectMeta) -> ObjectMeta {
    metadata.name = Some("web".to_owned());
    metadata.uid = Some("1".to_owned());
    metadata.resource_version = Some("7".to_owned());
    metadata
}

fn endpoints_of(service: &Service, backends: &[Backend]) -> Endpoints {
    let made = endpoints::plan(service, backends, None).unwrap();
    Endpoints {
        metadata: stored(made.metadata),
        ..made
    }
}

/// What the server makes of the patch.
fn patched<T: Serialize>(old: &T, patch: &Patch) -> Value {
    let mut value = serde_json::to_value(old).unwrap();
    let patch: json_patch::Patch = serde_json::from_value(json!(patch)).unwrap();
    json_patch::patch(&mut value, &patch).unwrap();
    value
}

#[test]
fn one_address_of_many_that_moves_is_all_that_is_sent() {
    let web = service(json!({}));
    let before = backends(&[2, 2, 1, 2]);
    let after = backends(&[2, 1, 1, 2]);
    let old = endpoints_of(&web, &before);
    let new = endpoints::plan(&web, &after, Some(&old)).unwrap();
    let moved = &new.subsets.as_ref().unwrap()[0].not_ready_addresses.as_ref().unwrap()[0];
    assert_eq!(
        json!(of_endpoints(&old, &new).unwrap()),
        json!([
            { "op": "replace", "path": "/metadata/resourceVersion", "value": "7" },
            { "op": "remove", "path": "/subsets/0/addresses/1" },
            { "op": "add", "path": "/subsets/0/notReadyAddresses/0", "value": moved },
        ])
    );

    let slice = endpoint_slice::plan(&web, &before, []).create.remove(0);
    let old = EndpointSlice {
        metadata: stored(slice.metadata),
        ..slice
    };
    let new = endpoint_slice::plan(&web, &after, [&old]).update.remove(0);
    assert_eq!(
        json!(of_slice(&old, &new).unwrap()),
        json!([
            { "op": "replace", "path": "/metadata/resourceVersion", "value": "7" },
            { "op": "replace", "path": "/endpoints/1", "value": new.endpoints[1] },
        ])
    );
}

#[test]
fn what_changes_more_than_addresses_is_sent_whole() {
    let web = service(json!({}));
    let old = endpoints_of(&web, &backends(&[2, 2]));
    let port = service(json!({ "ports": [{ "port": 81, "protocol": "TCP" }] }));
    let mut labels = web.clone();
    labels.labels.insert("team".to_owned(), "b".to_owned());
    for (service, states) in [(&port, [2, 2]), (&labels, [2, 2]), (&web, [0, 0])] {
        let new = endpoints::plan(service, &backends(&states), Some(&old)).unwrap();
        assert_eq!(of_endpoints(&old, &new), None, "{states:?}");
    }
    let many = endpoints_of(&web, &backends(&[2; 200]));
    let new = endpoints::plan(&web, &backends(&[1; 200]), Some(&many)).unwrap();
    assert_eq!(of_endpoints(&many, &new), None);
}

proptest! {
    #[test]
    fn a_patched_object_is_what_it_was_to_be(before in prop::collection::vec(0..3_u8, 0..40), after in prop::collection::vec(0..3_u8, 0..40)) {
        let web = service(json!({}));
        let (before, after) = (backends(&before), backends(&after));
        let old = endpoints_of(&web, &before);
        if let Some(new) = endpoints::plan(&web, &after, Some(&old))
            && let Some(patch) = of_endpoints(&old, &new)
        {
            prop_assert_eq!(patched(&old, &patch), json!(new));
        }
        let slice = endpoint_slice::plan(&web, &before, []).create.remove(0);
        let old = EndpointSlice { metadata: stored(slice.metadata), ..slice };
        for new in endpoint_slice::plan(&web, &after, [&old]).update {
            if let Some(patch) = of_slice(&old, &new) {
                prop_assert_eq!(patched(&old, &patch), json!(new));
            }
        }
    }

    /// Whatever the two lists are, also with keys twice and out of order.
    #[test]
    fn steps_lead_from_any_list_to_any_other(old in prop::collection::vec("[a-d]{1,2}", 0..12), new in prop::collection::vec("[a-d]{1,2}", 0..12)) {
        let mut steps = Steps(Patch::new());
        steps.items("/list", &old, &new, |item: &String| item.get(..1)).unwrap();
        prop_assert_eq!(patched(&json!({ "list": old }), &steps.0), json!({ "list": new }));
    }
}
