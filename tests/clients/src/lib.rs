//! Stock clients against the API server: the harness.
//!
//! A [`Server`] is the API server in this process, behind real TLS on loopback,
//! in a directory of its own; it writes down what it is asked. [`Kubectl`] is
//! one of the stock kubectls of this machine.

mod kubectl;
mod server;

pub use kubectl::{Kubectl, Run, kubectls};
pub use server::Server;
