//! What decides where a Service leads: the facts of services and pods that
//! Endpoints and EndpointSlices are made of, and nothing else of them.
//!
//! Source: upstream `k8s.io/endpointslice/util/controller_utils.go`,
//! `k8s.io/endpointslice/utils.go`, `pkg/api/v1/pod/util.go` `FindPort`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use api::pods;
use api::typed::{Container, IntOrString, ObjectReference, OwnerReference, Pod};

#[cfg(test)]
pub(crate) mod tests;

/// Marks what belongs to a Service without an address of its own.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Namespace and name.
pub type Key = (String, String);

/// Labels, or a selector that asks for equal ones.
pub type Labels = BTreeMap<String, String>;

/// A Service, as far as its backends are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is.
    pub namespace: String,
    /// How it is called.
    pub name: String,
    /// Which of all that were ever called so it is.
    pub uid: String,
    /// Carried over to its slices and Endpoints.
    pub labels: Labels,
    /// Which pods are its backends; `None` when somebody else says so.
    pub selector: Option<Labels>,
    /// In the order of its spec.
    pub ports: Vec<ServicePort>,
    /// Its `clusterIP` is `None`.
    pub cluster_ip_none: bool,
    /// It has no address: `clusterIP` is `None` or not set.
    pub headless: bool,
    /// Backends count as ready whatever they say.
    pub publish_not_ready_addresses: bool,
    /// It is being deleted.
    pub terminating: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty if it has none.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What is spoken there, such as `kubernetes.io/h2c`.
    pub app_protocol: Option<String>,
    /// Where it leads.
    pub target: IntOrString,
}

/// A port of a Service as one of its backends has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendPort {
    /// The name of the Service's port, or empty.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The pod's port.
    pub number: i32,
    /// What is spoken there.
    pub app_protocol: Option<String>,
}

/// A pod, as far as services are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Where it is.
    pub namespace: String,
    /// How it is called.
    pub name: String,
    /// Which of all that were ever called so it is.
    pub uid: String,
    /// What selectors look at.
    pub labels: Labels,
    /// `None` before it has one.
    pub address: Option<Ipv4Addr>,
    /// Condition `Ready` is true.
    pub ready: bool,
    /// Deletion was asked for.
    pub terminating: bool,
    /// It has ended, `Succeeded` or `Failed`.
    pub terminal: bool,
    /// Where it runs.
    pub node: Option<String>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.subdomain`.
    pub subdomain: Option<String>,
    /// Name, protocol and number of ports of its containers.
    pub named_ports: Vec<(String, String, i32)>,
}

impl Service {
    /// What matters of a wire object. Nothing has backends here whose type is
    /// `ExternalName`: such a Service is a name, not a set of pods.
    #[must_use]
    pub fn of(service: &api::typed::Service) -> Self {
        let spec = service.spec.as_ref();
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
        let external = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        Self {
            namespace: text(service.metadata.namespace.as_ref()),
            name: text(service.metadata.name.as_ref()),
            uid: text(service.metadata.uid.as_ref()),
            labels: service.metadata.labels.clone().unwrap_or_default(),
            selector: spec
                .and_then(|spec| spec.selector.clone())
                .filter(|selector| !selector.is_empty() && !external),
            ports: ports
                .map(|port| ServicePort {
                    name: text(port.name.as_ref()),
                    protocol: protocol(port.protocol.as_ref()),
                    app_protocol: port.app_protocol.clone(),
                    target: port.target_port.clone().unwrap_or(IntOrString::Int(port.port)),
                })
                .collect(),
            cluster_ip_none: cluster_ip == "None",
            headless: matches!(cluster_ip, "" | "None"),
            publish_not_ready_addresses: spec.and_then(|spec| spec.publish_not_ready_addresses).unwrap_or(false),
            terminating: service.metadata.deletion_timestamp.is_some(),
        }
    }

    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// Whether a pod of these labels in this Service's namespace is selected.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        let holds = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        self.selector.as_ref().is_some_and(|selector| selector.iter().all(holds))
    }

    /// The reference by which an object belongs to this Service.
    #[must_use]
    pub fn owner_reference(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            block_owner_deletion: Some(true),
            controller: Some(true),
            kind: "Service".to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
        }
    }

    /// Its ports as every pod has them; `None` where a name leads to one of
    /// the pod's own.
    #[must_use]
    pub fn ports_of_all(&self) -> Option<Vec<BackendPort>> {
        let fixed = self.ports.iter().map(|port| match port.target {
            IntOrString::Int(number) => Some(port.at(number)),
            IntOrString::String(_) => None,
        });
        fixed.collect()
    }

    /// Its ports as a pod has them. A named port the pod lacks is left out.
    #[must_use]
    pub fn ports_of(&self, backend: &Backend) -> Vec<BackendPort> {
        let resolved = self.ports.iter().filter_map(|port| Some(port.at(backend.port(port)?)));
        resolved.collect()
    }
}

impl ServicePort {
    /// This port where a backend has it.
    fn at(&self, number: i32) -> BackendPort {
        BackendPort {
            name: self.name.clone(),
            protocol: self.protocol.clone(),
            number,
            app_protocol: self.app_protocol.clone(),
        }
    }
}

impl Backend {
    /// What matters of a wire object.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        let first = status.and_then(|status| status.pod_ip.as_deref());
        let set = |value: Option<&String>| value.filter(|text| !text.is_empty()).cloned();
        Self {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            address: first
                .into_iter()
                .chain(all.map(|address| address.ip.as_str()))
                .find_map(|text| text.parse().ok()),
            ready: pods::is_ready(pod),
            terminating: pods::is_terminating(pod),
            terminal: pods::is_terminal(pod),
            node: set(spec.and_then(|spec| spec.node_name.as_ref())),
            hostname: set(spec.and_then(|spec| spec.hostname.as_ref())),
            subdomain: set(spec.and_then(|spec| spec.subdomain.as_ref())),
            named_ports: spec.map(named_ports).unwrap_or_default(),
        }
    }

    /// Namespace and name.
    #[must_use]
    pub fn key(&self) -> Key {
        (self.namespace.clone(), self.name.clone())
    }

    /// The address to be found under, if there is to be one: a pod that has
    /// ended is no backend any more.
    #[must_use]
    pub fn reachable_at(&self) -> Option<Ipv4Addr> {
        self.address.filter(|_| !self.terminal)
    }

    /// `spec.hostname`, if the Service gives names to its pods.
    #[must_use]
    pub fn hostname_in(&self, service: &Service) -> Option<String> {
        let named = self.subdomain.as_deref() == Some(service.name.as_str()) && self.namespace == service.namespace;
        self.hostname.clone().filter(|_| named)
    }

    /// `targetRef` of an address.
    #[must_use]
    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        }
    }

    /// Whether a `targetRef` is [`Self::reference`].
    #[must_use]
    pub fn is_referred_to_by(&self, reference: &ObjectReference) -> bool {
        let ObjectReference {
            api_version: None,
            field_path: None,
            kind: Some(kind),
            name: Some(name),
            namespace: Some(namespace),
            resource_version: None,
            uid: Some(uid),
        } = reference
        else {
            return false;
        };
        kind == "Pod" && *name == self.name && *namespace == self.namespace && *uid == self.uid
    }

    fn port(&self, port: &ServicePort) -> Option<i32> {
        match &port.target {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(wanted) => self
                .named_ports
                .iter()
                .find(|(name, protocol, _)| name == wanted && *protocol == port.protocol)
                .map(|(_, _, number)| *number),
        }
    }
}

fn protocol(given: Option<&String>) -> String {
    given.cloned().unwrap_or_else(|| "TCP".to_owned())
}

/// Named ports of regular containers, then of sidecars: the first of a name
/// counts.
fn named_ports(spec: &api::typed::PodSpec) -> Vec<(String, String, i32)> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| pods::is_sidecar(container));
    let ports = |container: &Container| container.ports.clone().unwrap_or_default();
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(ports)
        .filter_map(|port| Some((port.name?, protocol(port.protocol.as_ref()), port.container_port)))
        .collect()
}
