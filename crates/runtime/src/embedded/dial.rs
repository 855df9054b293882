//! Connections to a port inside a pod's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::Embedded;
use super::pod::Pod;
use crate::RuntimeError;

/// For a connection to a process on the same machine.
const CONNECT: Duration = Duration::from_secs(10);

impl Embedded {
    /// See [`crate::Runtime::dial`].
    pub(super) async fn dial_in(&self, pod: &Pod, port: u16) -> Result<tokio::net::TcpStream, RuntimeError> {
        let shim = pod.known().sandbox.as_ref().and_then(|sandbox| sandbox.shim_pid);
        let shim = shim.filter(|_| pod.client().is_some()).ok_or_else(|| RuntimeError::NotFound {
            what: "sandbox",
            name: pod.uid.to_string(),
        })?;
        let failed = |source| RuntimeError::Io {
            doing: format!("connecting to port {port} of pod {}", pod.uid),
            source,
        };
        let (done, dialled) = oneshot::channel();
        // A thread of its own: it ends in the pod's namespace.
        std::thread::Builder::new()
            .name("dial".to_owned())
            .spawn(move || drop(done.send(dial_from(shim, port))))
            .map_err(failed)?;
        let stream = dialled.await.unwrap_or_else(|_| Err(io::Error::other("the dialling thread ended")));
        stream
            .and_then(|stream| {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                tokio::net::TcpStream::from_std(stream)
            })
            .map_err(failed)
    }
}

/// Moves the calling thread into the namespace of process `shim`, for good.
/// Source of the order and the text: containerd CRI server, `portForward`.
fn dial_from(shim: i32, port: u16) -> io::Result<TcpStream> {
    let namespace = std::fs::File::open(format!("/proc/{shim}/ns/net"))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
    let dial = |address: IpAddr| TcpStream::connect_timeout(&SocketAddr::new(address, port), CONNECT);
    dial(Ipv4Addr::LOCALHOST.into()).or_else(|v4| {
        dial(Ipv6Addr::LOCALHOST.into()).map_err(|v6| {
            let message = format!(
                "failed to connect to localhost:{port} inside namespace of the pod, IPv4: dial tcp4 127.0.0.1:{port}: connect: {} IPv6 dial tcp6: [::1]:{port}: connect: {}",
                plain(&v4),
                plain(&v6)
            );
            io::Error::new(v4.kind(), message)
        })
    })
}

/// The system's reason as Go prints it.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_port_nobody_listens_on_is_refused_in_both_families() {
        let own = i32::try_from(std::process::id()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || dial_from(own, port).unwrap()).join().unwrap();
        drop(listener);
        let error = std::thread::spawn(move || dial_from(own, port).unwrap_err()).join().unwrap();
        assert!(
            error
                .to_string()
                .contains(&format!("dial tcp4 127.0.0.1:{port}: connect: connection refused")),
            "{error}"
        );
    }
}
