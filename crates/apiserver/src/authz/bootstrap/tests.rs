use super::*;

fn find(plural: &str, name: &str) -> Value {
    let mut all = wanted().into_iter();
    let found = all.find(|wanted| wanted.plural == plural && wanted.object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("{plural} {name}")).object
}

fn stored(plural: &str, name: &str) -> Object {
    serde_json::from_value(find(plural, name)).unwrap()
}

#[test]
fn the_policy_is_read_whole() {
    let count = |plural: &str| wanted().iter().filter(|wanted| wanted.plural == plural).count();
    assert_eq!((count("roles"), count("rolebindings")), (7, 7));
    for wanted in wanted() {
        for rule in wanted.object["rules"].as_array().into_iter().flatten() {
            let rule: Rule = serde_json::from_value(rule.clone()).unwrap();
            assert!(!rule.verbs.is_empty(), "{} {:?}", wanted.object["metadata"]["name"], rule);
            assert!(rule.urls.is_empty() != rule.resources.is_empty(), "{rule:?}");
        }
    }
    let admin = find("clusterrolebindings", "cluster-admin");
    assert_eq!(
        admin["subjects"],
        json!([{"apiGroup": GROUP, "kind": "Group", "name": "system:masters"}])
    );
    let account = find("clusterrolebindings", "system:controller:namespace-controller");
    assert_eq!(
        account["subjects"],
        json!([{"kind": "ServiceAccount", "name": "namespace-controller", "namespace": "kube-system"}])
    );
    let leases = find("clusterroles", "system:kube-scheduler")["rules"][2].clone();
    assert_eq!(
        leases,
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["kube-scheduler"], "verbs": ["get", "update", "list", "watch"]})
    );
}

#[test]
fn aggregates_hold_what_is_labelled_for_them() {
    let view = find("clusterroles", "view");
    let edit = find("clusterroles", "edit");
    let admin = find("clusterroles", "admin");
    let rules = |role: &Value| -> Vec<Rule> { serde_json::from_value(role["rules"].clone()).unwrap() };
    assert_eq!(rules(&view), rules(&find("clusterroles", "system:aggregate-to-view")));
    assert!(missing(&rules(&edit), &rules(&view)).is_empty());
    assert!(missing(&rules(&admin), &rules(&edit)).is_empty());
    assert!(!missing(&rules(&view), &rules(&edit)).is_empty());
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    let secrets: Vec<Rule> = serde_json::from_value(secrets).unwrap();
    assert!(!missing(&rules(&view), &secrets).is_empty(), "viewers read no Secrets");
}

#[test]
fn what_was_taken_is_given_back_and_what_was_added_stays() {
    let wanted = find("clusterroles", "system:kube-dns");
    let mut role = stored("clusterroles", "system:kube-dns");
    assert_eq!(reconcile(&wanted, &role), Step::Keep);
    let more = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    role.body.insert("rules".to_owned(), json!([more]));
    let Step::Update(mended) = reconcile(&wanted, &role) else {
        panic!()
    };
    assert_eq!(mended.body["rules"], json!([more, wanted["rules"][0]]));
    assert_eq!(reconcile(&wanted, &mended), Step::Keep);
    role.meta
        .annotations
        .as_mut()
        .unwrap()
        .insert(AUTO_UPDATE.to_owned(), "false".to_owned());
    assert_eq!(reconcile(&wanted, &role), Step::Keep);

    let wanted = find("clusterrolebindings", "system:discovery");
    let mut binding = stored("clusterrolebindings", "system:discovery");
    binding.body.insert("subjects".to_owned(), json!([]));
    let Step::Update(mended) = reconcile(&wanted, &binding) else {
        panic!()
    };
    assert_eq!(mended.body["subjects"], wanted["subjects"]);
    binding
        .body
        .insert("roleRef".to_owned(), json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "x"}));
    assert_eq!(reconcile(&wanted, &binding), Step::Anew);
}
