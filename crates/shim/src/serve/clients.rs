//! The shim's connections.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::Errno;

use super::{Asker, Shim};
use crate::protocol::{Answer, Decoder, Envelope, FrameError, Refusal, Request, VERSION, encode};

/// An agent, its successor, and a person looking.
const CLIENTS_MAX: usize = 16;
/// A client that does not read is dropped.
const UNREAD_BYTES_MAX: usize = 8 << 20;
/// How long parting clients may take to read the last answer.
const FAREWELL: Duration = Duration::from_secs(1);

pub(super) struct Client {
    pub(super) serial: u64,
    pub(super) stream: UnixStream,
    decoder: Decoder,
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
            match rustix::io::read(&client.stream, &mut self.buffer) {
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
