use serde_json::{Value, json};

use super::*;

fn pod(container: Value) -> Pod {
    let mut container = container;
    container["name"] = json!("c");
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "dev", "uid": "u", "labels": { "a": "b" } },
        "spec": { "nodeName": "node1", "serviceAccountName": "sa", "containers": [container] },
    }))
    .unwrap()
}

fn service(name: &str, ip: &str, ports: Value) -> Arc<ServiceAddress> {
    let service = json!({ "metadata": { "name": name, "namespace": "dev" }, "spec": { "clusterIP": ip, "ports": ports } });
    Arc::new(ServiceAddress::of(&serde_json::from_value(service).unwrap()).unwrap().1)
}

fn content(data: &[(&str, &str)]) -> Result<Arc<Content>, SourceError> {
    Ok(Arc::new(Content {
        data: data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect(),
        ..Content::default()
    }))
}

fn with(container: Value, services: &[Arc<ServiceAddress>], found: &Found) -> Result<Vec<(String, String)>, EnvironmentError> {
    let pod = pod(container);
    let around = Surroundings {
        pod: &pod,
        pod_ips: &["10.1.0.5".parse().unwrap()],
        host_ips: &["192.168.0.1".parse().unwrap()],
        allocatable: &BTreeMap::new(),
        services,
        found,
    };
    resolve(&pod.spec.as_ref().unwrap().containers[0], &around)
}

#[test]
fn variables_are_expanded_as_upstream_does() {
    let cases = [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y$(B)"),
        ("$$(A)", "$(A)"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("a$", "a$"),
        ("$$$(A)", "$1"),
    ];
    for (text, expected) in cases {
        assert_eq!(expand(text, |name| (name == "A").then_some("1")), expected, "{text}");
    }
}

#[test]
fn a_service_has_upstreams_set_of_variables() {
    let services = [service(
        "my-db",
        "10.96.0.7",
        json!([{ "name": "sql-a", "port": 5432 }, { "name": "dns", "port": 53, "protocol": "UDP" }]),
    )];
    let got: BTreeMap<_, _> = with(json!({}), &services, &Found::new()).unwrap().into_iter().collect();
    let expected = [
        ("MY_DB_PORT", "tcp://10.96.0.7:5432"),
        ("MY_DB_PORT_53_UDP", "udp://10.96.0.7:53"),
        ("MY_DB_PORT_53_UDP_ADDR", "10.96.0.7"),
        ("MY_DB_PORT_53_UDP_PORT", "53"),
        ("MY_DB_PORT_53_UDP_PROTO", "udp"),
        ("MY_DB_PORT_5432_TCP", "tcp://10.96.0.7:5432"),
        ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.7"),
        ("MY_DB_PORT_5432_TCP_PORT", "5432"),
        ("MY_DB_PORT_5432_TCP_PROTO", "tcp"),
        ("MY_DB_SERVICE_HOST", "10.96.0.7"),
        ("MY_DB_SERVICE_PORT", "5432"),
        ("MY_DB_SERVICE_PORT_DNS", "53"),
        ("MY_DB_SERVICE_PORT_SQL_A", "5432"),
    ];
    let expected: BTreeMap<_, _> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(got, expected);
    let headless = json!({ "metadata": { "name": "h", "namespace": "dev" }, "spec": { "clusterIP": "None" } });
    assert!(ServiceAddress::of(&serde_json::from_value(headless).unwrap()).is_none());
}

#[test]
fn env_wins_over_env_from_wins_over_services() {
    let services = [service("db", "10.96.0.7", json!([{ "port": 1 }]))];
    let found = Found::from([
        (Reference::config_map("m"), content(&[("A", "map"), ("DB_PORT", "mine")])),
        (Reference::secret("s"), content(&[("A", "secret"), ("B", "b")])),
    ]);
    let container = json!({
        "envFrom": [{ "configMapRef": { "name": "m" } }, { "secretRef": { "name": "s" }, "prefix": "S_" }],
        "env": [
            { "name": "Z", "value": "$(A)-$(S_B)-$(DB_SERVICE_HOST)-$(LATER)" },
            { "name": "A", "value": "env" },
            { "name": "LATER", "value": "$(A)" },
            { "name": "EMPTY" },
        ],
    });
    let list = with(container, &services, &found).unwrap();
    let names: Vec<&str> = list.iter().map(|(name, _)| name.as_str()).take(4).collect();
    assert_eq!(names, ["Z", "A", "LATER", "EMPTY"], "in the order of the spec");
    let got: BTreeMap<_, _> = list.iter().cloned().collect();
    assert_eq!(got.len(), list.len(), "no name twice");
    assert_eq!(got["Z"], "map-b-10.96.0.7-$(LATER)");
    assert_eq!(
        (got["A"].as_str(), got["LATER"].as_str(), got["EMPTY"].as_str()),
        ("env", "env", "")
    );
    assert_eq!((got["S_A"].as_str(), got["DB_PORT"].as_str()), ("secret", "mine"));
}

#[test]
fn fields_of_the_pod_and_of_the_node() {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let container = json!({ "env": [
        field("NAME", "metadata.name"), field("NS", "metadata.namespace"), field("LABEL", "metadata.labels['a']"),
        field("NODE", "spec.nodeName"), field("SA", "spec.serviceAccountName"),
        field("IP", "status.podIP"), field("IPS", "status.podIPs"), field("HOST", "status.hostIP"), field("HOSTS", "status.hostIPs"),
        { "name": "SUM", "value": "$(NAME)@$(NODE)" },
    ] });
    let list = with(container, &[], &Found::new()).unwrap();
    let values: Vec<&str> = list.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(
        values,
        [
            "p",
            "dev",
            "b",
            "node1",
            "sa",
            "10.1.0.5",
            "10.1.0.5",
            "192.168.0.1",
            "192.168.0.1",
            "p@node1"
        ]
    );
}

#[test]
fn what_is_missing_is_said_in_upstreams_words() {
    let missing = |reference: Reference| {
        let error = SourceError::NotFound {
            kind: reference.kind,
            name: reference.name.clone(),
        };
        Found::from([(reference, Err(error))])
    };
    let key = |kind: &str, optional: bool| {
        let selector = json!({ "name": "x", "key": "k", "optional": optional });
        json!({ "env": [{ "name": "A", "valueFrom": { (format!("{kind}KeyRef")): selector } }, { "name": "B", "value": "b" }] })
    };
    let b = vec![("B".to_owned(), "b".to_owned())];
    for (kind, reference, word) in [
        ("configMap", Reference::config_map("x"), "configmap"),
        ("secret", Reference::secret("x"), "secret"),
    ] {
        let error = with(key(kind, false), &[], &missing(reference.clone())).unwrap_err();
        assert_eq!(error.to_string(), format!("{word} \"x\" not found"));
        assert_eq!(with(key(kind, true), &[], &missing(reference.clone())).unwrap(), b);
        let without = Found::from([(reference.clone(), content(&[]))]);
        let error = with(key(kind, false), &[], &without).unwrap_err();
        let title = if kind == "secret" { "Secret" } else { "ConfigMap" };
        assert_eq!(error.to_string(), format!("couldn't find key k in {title} dev/x"));
        assert_eq!(with(key(kind, true), &[], &without).unwrap(), b);
        let from = |optional: bool| json!({ "envFrom": [{ (format!("{kind}Ref")): { "name": "x", "optional": optional } }] });
        let error = with(from(false), &[], &missing(reference.clone())).unwrap_err();
        assert_eq!(error.to_string(), format!("{word} \"x\" not found"));
        assert_eq!(with(from(true), &[], &missing(reference)).unwrap(), []);
    }
}

#[test]
fn a_variable_cannot_hold_a_nul_byte() {
    let found = Found::from([(Reference::secret("s"), content(&[("A", "a\0b")]))]);
    let error = with(json!({ "envFrom": [{ "secretRef": { "name": "s" } }] }), &[], &found).unwrap_err();
    assert_eq!(error, EnvironmentError::Nul("A".to_owned()));
}

#[test]
fn every_object_of_a_container_is_known_before() {
    let container: Container = serde_json::from_value(json!({
        "name": "c",
        "envFrom": [{ "configMapRef": { "name": "a" } }, { "secretRef": { "name": "b" } }],
        "env": [
            { "name": "A", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
            { "name": "B", "valueFrom": { "secretKeyRef": { "name": "d", "key": "k" } } },
        ],
    }))
    .unwrap();
    let expected = [
        Reference::config_map("a"),
        Reference::config_map("c"),
        Reference::secret("b"),
        Reference::secret("d"),
    ];
    assert_eq!(references(&container), expected.into());
}
