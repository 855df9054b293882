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
        json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["kube-scheduler"], "verbs": ["get", "list", "update", "watch"]})
    );
}

/// What every role gives, and to whom, one line a rule. Reviewed against upstream's
/// `bootstrappolicy/testdata`; `UPDATE=1` writes it anew, and the difference is the review.
#[test]
fn every_role_gives_what_is_written_of_it() {
    let words = |value: &Value| {
        let list = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        list.map(|word| if word.is_empty() { "core" } else { word })
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut blocks: Vec<String> = Vec::new();
    for Wanted { object, .. } in wanted() {
        let mut block = format!(
            "{} {}",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        );
        if let Some(namespace) = object["metadata"]["namespace"].as_str() {
            block += &format!(" in {namespace}");
        }
        if object.get("aggregationRule").is_some() {
            block += " (of what is labelled for it)";
        }
        if let Some(role) = object.get("roleRef") {
            block += &format!(" of {} {}", role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
        }
        block.push('\n');
        // An aggregate's rules stand with the roles they come from.
        let own = object.get("aggregationRule").is_none();
        for rule in object["rules"].as_array().into_iter().flatten().filter(|_| own) {
            let of = match rule.get("nonResourceURLs") {
                Some(urls) => words(urls),
                None => format!("{}: {}", words(&rule["apiGroups"]), words(&rule["resources"])),
            };
            let named = match words(&rule["resourceNames"]) {
                names if names.is_empty() => names,
                names => format!(" named {names}"),
            };
            block += &format!("  {of}{named} [{}]\n", words(&rule["verbs"]));
        }
        for subject in object["subjects"].as_array().into_iter().flatten() {
            let namespace = subject["namespace"]
                .as_str()
                .map_or_else(String::new, |namespace| format!("{namespace}/"));
            block += &format!(
                "  {} {namespace}{}\n",
                subject["kind"].as_str().unwrap(),
                subject["name"].as_str().unwrap()
            );
        }
        blocks.push(block);
    }
    blocks.sort();
    let told = blocks.join("\n");
    if std::env::var_os("UPDATE").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/authz/bootstrap/roles.txt");
        std::fs::write(path, &told).unwrap();
        return;
    }
    for (line, (told, written)) in told.lines().zip(include_str!("roles.txt").lines()).enumerate() {
        assert_eq!(told, written, "line {}", line + 1);
    }
    assert_eq!(told, include_str!("roles.txt"));
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
