//! The variables a Service stands for.
//!
//! Source: upstream `pkg/kubelet/envvars/envvars.go`.

use api::typed::Service;

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAddress {
    name: String,
    cluster_ip: String,
    ports: Vec<Port>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Port {
    name: String,
    number: i32,
    protocol: String,
}

impl ServiceAddress {
    /// Namespace and name of a Service, and its address; `None` for one
    /// without an address of its own.
    #[must_use]
    pub fn of(service: &Service) -> Option<((String, String), Self)> {
        let spec = service.spec.as_ref()?;
        let cluster_ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
        let name = service.metadata.name.clone()?;
        let ports = spec.ports.iter().flatten().map(|port| Port {
            name: port.name.clone().unwrap_or_default(),
            number: port.port,
            protocol: port.protocol.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "TCP".to_owned()),
        });
        let address = Self {
            name: name.clone(),
            cluster_ip,
            ports: ports.collect(),
        };
        Some(((service.metadata.namespace.clone()?, name), address))
    }

    /// `<NAME>_SERVICE_HOST` and the rest.
    #[must_use]
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let Some(first) = self.ports.first() else { return Vec::new() };
        let prefix = variable(&self.name);
        let mut list = vec![
            (format!("{prefix}_SERVICE_HOST"), self.cluster_ip.clone()),
            (format!("{prefix}_SERVICE_PORT"), first.number.to_string()),
        ];
        for port in self.ports.iter().filter(|port| !port.name.is_empty()) {
            list.push((format!("{prefix}_SERVICE_PORT_{}", variable(&port.name)), port.number.to_string()));
        }
        list.push((format!("{prefix}_PORT"), self.url(first)));
        for port in &self.ports {
            let own = format!("{prefix}_PORT_{}_{}", port.number, port.protocol.to_uppercase());
            list.extend([
                (own.clone(), self.url(port)),
                (format!("{own}_PROTO"), port.protocol.to_lowercase()),
                (format!("{own}_PORT"), port.number.to_string()),
                (format!("{own}_ADDR"), self.cluster_ip.clone()),
            ]);
        }
        list
    }

    fn url(&self, port: &Port) -> String {
        let host = if self.cluster_ip.contains(':') {
            format!("[{}]", self.cluster_ip)
        } else {
            self.cluster_ip.clone()
        };
        format!("{}://{host}:{}", port.protocol.to_lowercase(), port.number)
    }
}

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}
