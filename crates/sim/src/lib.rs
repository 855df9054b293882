//! Virtual time: the real state machine among a fake runtime, a fake API and
//! seeded faults.
//!
//! Reading order: [`world`] (one heap of instants, popped one by one),
//! [`runtime`] (scripted containers), [`faults`] (what goes wrong, by seed),
//! [`check`] (what must hold after every step, whatever the code says),
//! [`scenario`] (text transcripts), [`predict`] (what becomes of a manifest), [`trace`] (how a step reads).
//!
//! Ring 0, scenarios, has no faults; ring 1 has them. This crate deliberately
//! does not know real time, sockets, files or the kubelet's tasks.

pub mod check;
pub mod faults;
pub mod predict;
pub mod runtime;
pub mod scenario;
pub mod trace;
pub mod world;

pub use faults::{Faults, Rng};
pub use runtime::Life;
pub use world::World;
