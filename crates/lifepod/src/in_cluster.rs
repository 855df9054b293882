//! How pods reach the API server: by the address of the Service `kubernetes`,
//! which leads to where it listens.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use apiserver::Ranges;
use net::{Cidr, Redirect};
use tokio::net::TcpListener;

use crate::flags::Up;

/// The API server as pods see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InCluster {
    /// Address and port of the Service.
    service: SocketAddrV4,
    /// Where it leads.
    pub target: SocketAddr,
    /// The server does not listen there yet.
    needs_listener: bool,
}

impl InCluster {
    /// For a server that listens at `listen` of a node with the address `node`.
    /// No pod reaches a loopback address: it is given the bridge's, with the
    /// same port.
    pub(crate) fn new(up: &Up, listen: SocketAddr, node: IpAddr) -> Result<Self> {
        let ranges: Ranges = up.service_cidr.parse().context("--service-cidr")?;
        let cidr: Cidr = up.pod_cidr.parse().with_context(|| format!("--pod-cidr {}", up.pod_cidr))?;
        let ip = match listen.ip() {
            ip if ip.is_unspecified() && !node.is_loopback() => node,
            ip if ip.is_unspecified() || ip.is_loopback() => IpAddr::V4(cidr.gateway()),
            ip => ip,
        };
        Ok(Self {
            service: ranges.api_server(),
            target: SocketAddr::new(ip, listen.port()),
            needs_listener: listen.ip().is_loopback(),
        })
    }

    /// Names of the server in its certificate.
    pub(crate) fn names(&self) -> [String; 2] {
        [self.service.ip().to_string(), self.target.ip().to_string()]
    }

    /// What the pod network is to lead where. Services have IPv4 addresses.
    pub(crate) fn redirect(&self) -> Option<Redirect> {
        let SocketAddr::V4(target) = self.target else { return None };
        Some(Redirect {
            service: self.service,
            target,
        })
    }

    /// Listens for pods, where the server does not do so anyway. The pod
    /// network must be there.
    pub(crate) async fn listen(&self) -> Result<Option<TcpListener>> {
        if !self.needs_listener {
            return Ok(None);
        }
        let listener = TcpListener::bind(self.target).await;
        listener
            .map(Some)
            .with_context(|| format!("cannot listen on {} for pods; choose another port with --listen", self.target))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: Up,
    }

    #[test]
    fn pods_are_led_to_an_address_they_reach() {
        let up = Line::parse_from(["up"]).up;
        let target = |listen: &str, node: &str| {
            let this = InCluster::new(&up, listen.parse().unwrap(), node.parse().unwrap()).unwrap();
            let redirect = this.redirect().map(|redirect| redirect.service.to_string());
            assert_eq!(redirect.as_deref(), this.target.is_ipv4().then_some("10.96.0.1:443"));
            (this.target.to_string(), this.needs_listener)
        };
        assert_eq!(target("127.0.0.1:6443", "192.0.2.7"), ("10.244.0.1:6443".to_owned(), true));
        assert_eq!(target("[::1]:7443", "192.0.2.7"), ("10.244.0.1:7443".to_owned(), true));
        assert_eq!(target("0.0.0.0:6443", "192.0.2.7"), ("192.0.2.7:6443".to_owned(), false));
        assert_eq!(target("0.0.0.0:6443", "127.0.0.1"), ("10.244.0.1:6443".to_owned(), false));
        assert_eq!(target("192.0.2.8:6443", "192.0.2.7"), ("192.0.2.8:6443".to_owned(), false));
        assert_eq!(target("[2001:db8::1]:6443", "192.0.2.7").0, "[2001:db8::1]:6443");
    }
}
