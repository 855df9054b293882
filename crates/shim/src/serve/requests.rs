//! What an agent asks, done or begun.

use std::io;
use std::time::{Duration, Instant};

use super::{Asker, EXECS_MAX, Shim, trim_heap};
use crate::container::{Container, Phase, SINKS_MAX, Within};
use crate::exec::{Place, Running, Stdio};
use crate::protocol::{Answer, AttachSpec, CreateSpec, ExecStreamSpec, Refusal, Request, SandboxSpec, Status, VERSION};
use crate::record::CONTAINERS_DIR;
use crate::sandbox::Sandbox;
use crate::sink::Sink;

impl Shim {
    pub(super) fn ask(&mut self, asker: Asker, request: Request) {
        match request {
            Request::Hello { .. } => {
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                self.answer(asker, &Answer::Hello { version: VERSION, pid });
            }
            Request::Status => {
                let status = Status {
                    sandbox: self.sandbox.is_some(),
                    containers: self.containers.iter().map(Container::status).collect(),
                };
                self.answer(asker, &Answer::Status(status));
            }
            Request::RunSandbox(spec) => match self.run_sandbox(spec) {
                Ok(()) => self.answer(asker, &Answer::Done),
                Err((kind, message)) => self.refuse(asker, kind, message),
            },
            Request::Create(spec) => self.create(asker, *spec),
            Request::Start { id } => self.start(asker, &id),
            Request::Signal { id, signal } => self.signal(asker, &id, signal),
            Request::Kill { id } => match self.containers.iter_mut().find(|c| c.id == id) {
                Some(container) => {
                    if !container.has_ended() {
                        container.killing = true;
                        container.keep_killing(&self.trees);
                    }
                    self.answer(asker, &Answer::Done);
                }
                None => self.not_found(asker, &id),
            },
            Request::Exec(spec) => {
                let deadline = spec.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
                self.exec(asker, &spec.id, &spec.command, Stdio::Captured, deadline);
            }
            Request::ExecStream(spec) => self.exec_stream(asker, spec),
            Request::Attach(spec) => self.attach(asker, &spec),
            Request::CloseStdin { id } => {
                if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
                    container.streams.close_stdin(asker.0);
                }
                self.answer(asker, &Answer::Done);
            }
            Request::CancelExec { request } => {
                if let Some((_, _, exec)) = self.execs.iter().find(|(a, ..)| *a == (asker.0, request)) {
                    exec.kill();
                }
                self.answer(asker, &Answer::Done);
            }
            Request::Remove { id } => match self.containers.iter().position(|c| c.id == id) {
                Some(at) if self.containers[at].has_ended() => {
                    self.containers.remove(at);
                    self.answer(asker, &Answer::Done);
                }
                Some(_) => self.refuse(asker, Refusal::Unsupported, format!("container {id} has not ended; stop it first")),
                None => self.answer(asker, &Answer::Done),
            },
            Request::Shutdown => self.closing = Some(asker),
        }
        trim_heap();
    }

    fn run_sandbox(&mut self, spec: SandboxSpec) -> Result<(), (Refusal, String)> {
        match &self.sandbox {
            Some(made) if made.spec == spec => return Ok(()),
            Some(_) => {
                return Err((
                    Refusal::Unsupported,
                    "the sandbox is already made, with another configuration".to_owned(),
                ));
            }
            None => {}
        }
        self.trees
            .make(&self.group, &spec.limits)
            .map_err(|cause| (Refusal::PodCgroup, cause.to_string()))?;
        let made = Sandbox::make(spec, &self.dir, &self.trees, &self.group).map_err(|cause| (Refusal::System, cause.to_string()))?;
        self.sandbox = Some(made);
        Ok(())
    }

    fn create(&mut self, asker: Asker, spec: CreateSpec) {
        let Some(sandbox) = &self.sandbox else {
            return self.refuse(asker, Refusal::Unsupported, "the sandbox is not made yet".to_owned());
        };
        if self.closing.is_some() {
            return self.refuse(asker, Refusal::Unsupported, "the sandbox is being stopped".to_owned());
        }
        if let Some(known) = self.containers.iter().find(|c| c.id == spec.id) {
            match known.phase {
                Phase::Creating { .. } => self.waiting.push((spec.id, asker)),
                _ => self.answer(asker, &Answer::Done),
            }
            return;
        }
        let (id, dir, group) = (
            spec.id.clone(),
            self.dir.join(CONTAINERS_DIR).join(&spec.id),
            self.group.join(&spec.id),
        );
        let host = match &spec.pid_namespace_of {
            // They share one already.
            Some(_) | None if sandbox.reaper.is_some() => sandbox.reaper,
            None => None,
            Some(target) => match self.containers.iter().find(|c| c.id == *target).map(|c| (c.pid, &c.phase)) {
                Some((Some(pid), Phase::Running { .. })) => Some(pid),
                _ => {
                    let message = format!("container {target}, whose processes are to be seen, does not run");
                    return self.refuse(asker, Refusal::Start, message);
                }
            },
        };
        let within = Within {
            reaper: host,
            users: sandbox.users.as_ref(),
        };
        match Container::create(spec, dir, &self.trees, group, within) {
            Ok(container) => {
                self.containers.push(container);
                self.waiting.push((id, asker));
            }
            Err(cause) => self.refuse(asker, Refusal::System, format!("making container {id}: {cause}")),
        }
    }

    fn start(&mut self, asker: Asker, id: &str) {
        let Some(container) = self.containers.iter_mut().find(|c| c.id == id) else {
            return self.not_found(asker, id);
        };
        match &container.phase {
            Phase::Created => match container.start() {
                Ok(()) => self.waiting.push((id.to_owned(), asker)),
                Err(cause) => self.refuse(asker, Refusal::System, format!("starting container {id}: {cause}")),
            },
            Phase::Starting => self.waiting.push((id.to_owned(), asker)),
            Phase::Running { .. } => self.answer(asker, &Answer::Done),
            Phase::Creating { .. } => self.refuse(asker, Refusal::Unsupported, format!("container {id} is still being made")),
            Phase::Exited(exit) => {
                let message = format!("container {id} has ended with code {}", exit.code);
                self.refuse(asker, Refusal::Unsupported, message);
            }
        }
    }

    fn signal(&mut self, asker: Asker, id: &str, signal: i32) {
        let Some(container) = self.containers.iter().find(|c| c.id == id) else {
            return self.not_found(asker, id);
        };
        let Some(pid) = container.pid.filter(|_| !container.has_ended()) else {
            return self.answer(asker, &Answer::Done);
        };
        // SAFETY: no memory is involved. The process is our child and not yet
        // reaped, so the number is still its own.
        if unsafe { libc::kill(pid, signal) } == 0 {
            self.answer(asker, &Answer::Done);
        } else {
            let cause = io::Error::last_os_error();
            self.refuse(
                asker,
                Refusal::System,
                format!("sending signal {signal} to container {id}: {cause}"),
            );
        }
    }

    fn exec(&mut self, asker: Asker, id: &str, command: &[String], stdio: Stdio, deadline: Option<Instant>) {
        let Some(container) = self.containers.iter().find(|c| c.id == id) else {
            return self.not_found(asker, id);
        };
        let (Phase::Running { .. }, Some(init)) = (&container.phase, container.pid) else {
            return self.refuse(asker, Refusal::Unsupported, format!("container {id} is not running"));
        };
        if self.execs.len() >= EXECS_MAX {
            return self.refuse(
                asker,
                Refusal::System,
                format!("{EXECS_MAX} commands already run in this pod; wait for one to end"),
            );
        }
        let place = Place {
            init,
            dir: &container.dir,
            trees: &self.trees,
            group: &container.group,
        };
        match Running::start(command, stdio, deadline, &place) {
            Ok(running) => self.execs.push((asker, id.to_owned(), running)),
            Err(cause) => self.refuse(asker, Refusal::System, format!("running a command in container {id}: {cause}")),
        }
    }

    fn exec_stream(&mut self, asker: Asker, spec: ExecStreamSpec) {
        let wanted = [spec.stdin, spec.stdout, spec.stderr];
        let count = match spec.terminal {
            Some(_) => 1,
            None => wanted.iter().filter(|wanted| **wanted).count(),
        };
        let descriptors = self.received(asker, count);
        if descriptors.len() != count {
            return self.missing(asker, count);
        }
        let mut descriptors = descriptors.into_iter();
        let stdio = match (spec.terminal, descriptors.len()) {
            (Some(size), 1) => descriptors.next().map(|socket| Stdio::Terminal { socket, size }),
            _ => {
                let [stdin, stdout, stderr] = wanted.map(|wanted| wanted.then(|| descriptors.next()).flatten());
                Some(Stdio::Given { stdin, stdout, stderr })
            }
        };
        match stdio {
            Some(stdio) => self.exec(asker, &spec.id, &spec.command, stdio, None),
            None => self.missing(asker, count),
        }
    }

    fn attach(&mut self, asker: Asker, spec: &AttachSpec) {
        let wanted = [true, spec.stdout, spec.stderr];
        let count = wanted.iter().filter(|wanted| **wanted).count();
        let mut descriptors = self.received(asker, count).into_iter();
        let [socket, stdout, stderr] = wanted.map(|wanted| wanted.then(|| descriptors.next()).flatten());
        let Some(socket) = socket.filter(|_| stdout.is_some() == spec.stdout && stderr.is_some() == spec.stderr) else {
            return self.missing(asker, count);
        };
        let Some(container) = self.containers.iter_mut().find(|c| c.id == spec.id) else {
            return self.not_found(asker, &spec.id);
        };
        if !matches!(container.phase, Phase::Running { .. }) {
            return self.refuse(asker, Refusal::Unsupported, format!("container {} is not running", spec.id));
        }
        if container.streams.is_crowded() {
            let message = format!("{SINKS_MAX} are already attached to this container; wait for one to detach");
            return self.refuse(asker, Refusal::System, message);
        }
        let ready = [&stdout, &stderr]
            .into_iter()
            .flatten()
            .try_for_each(|pipe| rustix::io::ioctl_fionbio(pipe, true));
        let sink = Sink::new(asker, spec.stdin, stdout, stderr);
        let attached = ready
            .map_err(io::Error::from)
            .and_then(|()| container.streams.attach(sink, &socket));
        if let Err(cause) = attached {
            self.refuse(asker, Refusal::System, format!("attaching to container {}: {cause}", spec.id));
        }
    }

    fn missing(&mut self, asker: Asker, count: usize) {
        self.refuse(
            asker,
            Refusal::Unsupported,
            format!("the request needs {count} descriptors with its first byte"),
        );
    }
}
