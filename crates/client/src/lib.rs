//! How every component talks to the API server: kube-rs over a transport of
//! ours, an identity per component, and an event recorder.
//!
//! Reading order: [`transport`], [`identity`], [`recorder`].
//!
//! This crate deliberately does not know the store or any component: a
//! component receives a [`kube::Client`] and cannot tell whether the API
//! server is in the same process, across HTTPS, or simulated.

pub mod identity;
pub mod recorder;
pub mod transport;

pub use identity::Identity;
pub use recorder::{RecordedEvent, Recorder};
pub use transport::in_process;
