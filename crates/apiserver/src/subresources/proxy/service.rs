//! Which pod answers for a service: one behind the port that is asked for.
//!
//! Source: upstream `pkg/registry/core/service/storage/storage.go`,
//! `ResourceLocation`, `isValidAddress`.

use std::net::{IpAddr, SocketAddr};

use api::{Object, Status};
use serde_json::Value;

use super::{Destination, Place, proxyable};
use crate::call::Call;
use crate::entropy;

/// An address of a service, and the pod that is to be behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Backend {
    address: SocketAddr,
    namespace: String,
    pod: String,
}

/// Where a request for a service goes.
pub(super) async fn destination(call: &Call, service: &Object, place: &Place<'_>) -> Result<Destination, Status> {
    let port = port_name(service, place)?;
    let nobody = || Status::unavailable(format!("no endpoints available for service {:?}", place.name));
    let row = |plural: &str| call.core.row("", "v1", plural).ok_or_else(nobody);
    let kept = row("endpoints")?;
    let endpoints = call.core.current(&kept, &kept.key(service.namespace(), place.name)).await?;
    let endpoints = endpoints.ok_or_else(|| Status::not_found(&kept.id, place.name))?;
    let backends = backends(&endpoints.object, &port, entropy::index());
    let pods = row("pods")?;
    for backend in backends {
        // Anybody may write endpoints: only what is a pod is asked.
        let pod = call.core.current(&pods, &pods.key(&backend.namespace, &backend.pod)).await?;
        if pod.is_some_and(|pod| has_address(&pod.object, backend.address.ip())) {
            return Ok(Destination::Address {
                https: place.https(),
                address: backend.address,
            });
        }
    }
    Err(nobody())
}

/// The name of the port that is asked for, which may be given by its number.
fn port_name(service: &Object, place: &Place<'_>) -> Result<String, Status> {
    let Ok(number) = place.port.parse::<i64>() else {
        return Ok(place.port.to_owned());
    };
    let mut ports = list(service.at("spec.ports"));
    let found = ports.find(|port| port["port"].as_i64() == Some(number));
    found
        .map(|port| text(&port["name"]))
        .ok_or_else(|| Status::unavailable(format!("no service port {number} found for service {:?}", place.name)))
}

/// Every ready address behind a port, those of one subset after those of the
/// other, beginning anywhere.
fn backends(endpoints: &Object, port: &str, seed: usize) -> Vec<Backend> {
    let subsets: Vec<&Value> = list(endpoints.at("subsets")).collect();
    let mut found = Vec::new();
    for subset in turned(&subsets, seed) {
        let addresses: Vec<&Value> = list(subset.get("addresses")).collect();
        for port in list(subset.get("ports")).filter(|one| text(&one["name"]) == port) {
            let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
            found.extend(turned(&addresses, seed).filter_map(|address| {
                let ip: IpAddr = address["ip"].as_str()?.parse().ok()?;
                let target = address.get("targetRef").filter(|target| target["kind"] == "Pod")?;
                proxyable(ip).then_some(Backend {
                    address: SocketAddr::new(ip, number?),
                    namespace: text(&target["namespace"]),
                    pod: text(&target["name"]),
                })
            }));
        }
    }
    found
}

fn has_address(pod: &Object, ip: IpAddr) -> bool {
    let mut all = list(pod.at("status.podIPs"));
    all.any(|one| one["ip"].as_str().and_then(|ip| ip.parse().ok()) == Some(ip))
}

fn list(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    value.and_then(Value::as_array).into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All items, from the one at `seed` on.
fn turned<T>(items: &[T], seed: usize) -> impl Iterator<Item = &T> {
    let (before, from) = items.split_at(seed.checked_rem(items.len()).unwrap_or(0));
    from.iter().chain(before)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, more: &Value) -> Object {
        let mut value = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "s", "namespace": "default"}});
        for (key, part) in more.as_object().unwrap() {
            value[key] = part.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_port_is_named_or_numbered() {
        let service = object("Service", &json!({"spec": {"ports": [{"name": "web", "port": 80}, {"port": 81}]}}));
        let name = |asked: &str| port_name(&service, &Place::parse(asked).unwrap()).map_err(|status| status.message);
        assert_eq!(name("s:web").unwrap(), "web");
        assert_eq!(name("s:80").unwrap(), "web");
        assert_eq!(name("https:s:81").unwrap(), "");
        assert_eq!(name("s").unwrap(), "");
        assert_eq!(name("s:82").unwrap_err(), "no service port 82 found for service \"s\"");
    }

    #[test]
    fn only_pods_behind_the_port_are_asked() {
        let pod = |ip: &str, name: &str| json!({"ip": ip, "targetRef": {"kind": "Pod", "namespace": "default", "name": name}});
        let endpoints = object(
            "Endpoints",
            &json!({"subsets": [
                {"addresses": [pod("10.0.0.1", "a"), {"ip": "10.0.0.2"}, pod("127.0.0.1", "own"), pod("10.0.0.3", "b")],
                 "notReadyAddresses": [pod("10.0.0.9", "late")],
                 "ports": [{"name": "web", "port": 8080}, {"name": "other", "port": 1}]},
                {"addresses": [pod("10.0.0.4", "c")], "ports": [{"name": "web", "port": 9090}]},
            ]}),
        );
        let asked = |seed| -> Vec<String> {
            let all = backends(&endpoints, "web", seed);
            all.iter().map(|backend| format!("{}@{}", backend.pod, backend.address)).collect()
        };
        assert_eq!(asked(0), ["a@10.0.0.1:8080", "b@10.0.0.3:8080", "c@10.0.0.4:9090"]);
        assert_eq!(asked(3), ["c@10.0.0.4:9090", "b@10.0.0.3:8080", "a@10.0.0.1:8080"]);
        assert!(backends(&endpoints, "", 0).is_empty());
        let pod = object("Pod", &json!({"status": {"podIPs": [{"ip": "10.0.0.1"}]}}));
        assert!(has_address(&pod, [10, 0, 0, 1].into()) && !has_address(&pod, [10, 0, 0, 2].into()));
    }
}
