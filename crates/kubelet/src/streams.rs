//! Streams between a client and a container: exec, attach, port-forward.
//!
//! Reading order: [`websocket`] and [`spdy`] (two ways to carry several
//! streams on one connection, as pure codecs: bytes in, events out),
//! [`negotiate`] (which of them a client asks for), [`channels`] (the five
//! channels of a command over either), [`messages`] (numbered channels in WebSocket messages), [`remote`] (the session of one command
//! or attachment), [`forward`] (the session of forwarded ports).
//!
//! Back-pressure is the connection's: a session reads nothing new from the
//! client while a process has not taken what came before, and nothing new from
//! a process while the client has not. As in upstream's SPDY library, windows
//! are neither granted nor kept to.
//!
//! Source: upstream `kubelet/pkg/cri/streaming`, `apimachinery/pkg/util/httpstream`.

mod channels;
mod forward;
mod messages;
mod negotiate;
mod remote;
pub mod spdy;
mod tunnel;
pub mod websocket;

use std::time::Duration;

pub(crate) use forward::Forward;
pub(crate) use negotiate::{Purpose, Upgrade, negotiate};
pub(crate) use remote::{Remote, Wanted};

/// A session on which nothing happens for so long ends. Source: upstream
/// kubelet, `streamingConnectionIdleTimeout`.
pub(crate) const IDLE: Duration = Duration::from_secs(4 * 3600);
/// For the client to open the streams it asked for. Source: upstream
/// `remotecommand.DefaultStreamCreationTimeout`.
const CREATION: Duration = Duration::from_secs(30);
/// For the client to close its side once it has been told the end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Read from a client or a process in one go.
const CHUNK_BYTES: usize = 32 << 10;
/// Chunks on their way to the client.
const CHUNKS_MAX: usize = 4;

/// What a client is told when the node agent ends in the middle.
const SHUTTING_DOWN: &str = "the node agent is shutting down; the container goes on running";
