//! The shim's connections.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::{Asker, EXECS_MAX, Shim};
use crate::container::SINKS_MAX;
use crate::protocol::{Answer, DESCRIPTORS_MAX, Decoder, Envelope, FrameError, Refusal, Request, VERSION, encode};

/// An agent, its successor, a person looking, and every session one has open.
const CLIENTS_MAX: usize = 16 + EXECS_MAX + SINKS_MAX;
/// Descriptors received and not yet asked for.
const RECEIVED_MAX: usize = 2 * DESCRIPTORS_MAX;
/// A client that does not read is dropped.
const UNREAD_BYTES_MAX: usize = 8 << 20;
/// How long parting clients may take to read the last answer.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Client {
    pub(super) serial: u64,
    pub(super) stream: UnixStream,
    decoder: Decoder,
    /// Came with frames, in their order.
    received: VecDeque<OwnedFd>,
    pub(super) unsent: VecDeque<u8>,
    pub(super) gone: bool,
}

impl Shim {
    pub(super) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
                continue; // dropped, which the other side sees
            }
            self.clients.push(Client {
                serial: self.next_client,
                stream,
                decoder: Decoder::default(),
                received: VecDeque::new(),
                unsent: VecDeque::new(),
                gone: false,
            });
            self.next_client += 1;
        }
    }

    pub(super) fn read(&mut self, serial: u64) {
        let Some(client) = self.clients.iter_mut().find(|c| c.serial == serial) else {
            return;
        };
        flush(client);
        loop {
            match receive(&client.stream, &mut self.buffer, &mut client.received) {
                Ok(0) => {
                    client.gone = true;
                    break;
                }
                Ok(n) => client.decoder.push(&self.buffer[..n]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    client.gone = true;
                    break;
                }
            }
        }
        loop {
            let Some(client) = self.clients.iter_mut().find(|c| c.serial == serial) else {
                return;
            };
            match client.decoder.take::<Request>() {
                Ok(None) => return,
                Ok(Some(Envelope { id, body })) => self.ask((serial, id), body),
                Err(FrameError::Malformed { id, cause }) => {
                    self.refuse(
                        (serial, id),
                        Refusal::Unsupported,
                        format!("not understood by this shim (protocol {VERSION}): {cause}"),
                    );
                }
                Err(FrameError::TooLong(_)) => {
                    client.gone = true;
                    return;
                }
            }
        }
    }

    /// The next `count` descriptors that came with a client's frames; fewer if
    /// it has not sent as many.
    pub(super) fn received(&mut self, asker: Asker, count: usize) -> Vec<OwnedFd> {
        let client = self.clients.iter_mut().find(|c| c.serial == asker.0);
        client.map_or_else(Vec::new, |client| {
            let count = count.min(client.received.len());
            client.received.drain(..count).collect()
        })
    }

    /// Ends what lives no longer than its connection.
    pub(super) fn bury_clients(&mut self) {
        for gone in self.clients.iter().filter(|client| client.gone).map(|client| client.serial) {
            for (_, id, exec) in self.execs.iter().filter(|((client, _), ..)| *client == gone) {
                if let Some(container) = self.containers.iter().find(|c| c.id == *id).filter(|_| exec.tied) {
                    exec.kill_session(&self.trees, &container.group);
                }
            }
            self.containers.iter_mut().for_each(|container| container.streams.detach(gone));
        }
        self.clients.retain(|client| !client.gone);
    }

    pub(super) fn tell_all(&mut self, id: &str) {
        let Ok(frame) = encode(0, &Answer::Changed { id: id.to_owned() }) else {
            return;
        };
        for client in &mut self.clients {
            send(client, &frame);
        }
    }

    pub(super) fn answer(&mut self, asker: Asker, answer: &Answer) {
        let Some(client) = self.clients.iter_mut().find(|c| c.serial == asker.0) else {
            return;
        };
        match encode(asker.1, answer) {
            Ok(frame) => send(client, &frame),
            Err(_) => client.gone = true,
        }
    }

    pub(super) fn refuse(&mut self, asker: Asker, kind: Refusal, message: String) {
        self.answer(asker, &Answer::Refused { kind, message });
    }

    pub(super) fn not_found(&mut self, asker: Asker, id: &str) {
        self.refuse(asker, Refusal::NotFound, format!("container {id} is unknown to its shim"));
    }

    /// Sends what is unsent, waiting a little.
    pub(super) fn say_farewell(&mut self) {
        for client in &mut self.clients {
            let _ = client.stream.set_nonblocking(false);
            let _ = client.stream.set_write_timeout(Some(FAREWELL));
            let _ = client.stream.write_all(client.unsent.make_contiguous());
        }
    }
}

/// Reads bytes, and keeps the descriptors that come with them.
fn receive(stream: &UnixStream, buffer: &mut [u8], received: &mut VecDeque<OwnedFd>) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut attached, RecvFlags::CMSG_CLOEXEC)?;
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            received.extend(descriptors);
        }
    }
    // What nobody asks for is closed.
    received.truncate(RECEIVED_MAX);
    Ok(got.bytes)
}

fn send(client: &mut Client, frame: &[u8]) {
    client.unsent.extend(frame);
    flush(client);
    if client.unsent.len() > UNREAD_BYTES_MAX {
        client.gone = true;
    }
}

fn flush(client: &mut Client) {
    while !client.unsent.is_empty() {
        match client.stream.write(client.unsent.as_slices().0) {
            Ok(n) => drop(client.unsent.drain(..n)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                client.gone = true;
                client.unsent.clear();
            }
        }
    }
    client.unsent = VecDeque::new();
}
