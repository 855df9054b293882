//! What actions do, and how long that takes.

use std::time::Duration;

use api::node::{ContainerId, Uid};
use lifecycle::{Action, Failure, FailureClass, Handler, Hook, Outcome, ProbeKind, Probed, PullPolicy, Pulled, Target, Verb};

use crate::faults::Faults;
use crate::runtime::Life;
use crate::world::{Happening, Image, World};

impl World {
    /// The agent takes an action up.
    pub(crate) fn take_up(&mut self, uid: &Uid, action: Action) {
        if let Verb::Cancel(id) = action.verb {
            self.cancel(uid, id);
            return;
        }
        let mut delay = self.latency(&action.verb);
        if self.faults.strikes(self.now, |w| w.slow) {
            delay += self.faults.rng.within(Duration::from_secs(30));
        }
        let epoch = self.epoch;
        if let Verb::Pull { image, policy } = &action.verb {
            let fetch = match (self.images.get(image), policy) {
                (Some(Image::Absent(_)), PullPolicy::Never) | (Some(Image::Present | Image::Invalid), _) | (None, _) => None,
                (Some(Image::Absent(took)), _) => Some(*took),
                (Some(Image::Broken), _) => Some(Duration::from_millis(300)),
            };
            if let Some(took) = fetch {
                self.after(
                    delay,
                    Happening::Progress {
                        uid: uid.clone(),
                        epoch,
                        id: action.id,
                    },
                );
                delay += took;
            }
        }
        self.after(
            delay,
            Happening::Effect {
                uid: uid.clone(),
                epoch,
                action,
            },
        );
    }

    fn cancel(&mut self, uid: &Uid, id: lifecycle::ActionId) {
        if let Some(worker) = self.workers.get_mut(uid) {
            worker.waiting.retain(|(waiting, _)| *waiting != id);
        }
        self.ends(uid, id, Err(Failure::new(FailureClass::Cancelled, "cancelled")));
    }

    pub(crate) fn effect(&mut self, uid: &Uid, action: Action) {
        if self.checker.cancelled(uid, action.id) {
            return;
        }
        let (id, text) = (action.id, format!("{} {}", action.verb, action.target));
        if let Some(position) = self.failing.iter().position(|(begins, _)| text.starts_with(begins.as_str())) {
            let (_, failure) = self.failing.remove(position);
            self.ends(uid, id, Err(failure));
            return;
        }
        if self.faults.strikes(self.now, |w| w.fail) {
            self.ends(uid, id, Err(Faults::failure(&action.verb)));
            return;
        }
        let late = self
            .faults
            .strikes(self.now, |w| w.fail_late)
            .then(|| Faults::failure(&action.verb));
        match (self.apply(uid, &action), late) {
            (Some(_), Some(failure)) => self.ends(uid, id, Err(failure)),
            (Some(result), None) => self.ends(uid, id, result),
            (None, _) => {} // ends with the process
        }
    }

    /// Changes the world; `None` if the action ends later.
    pub(crate) fn apply(&mut self, uid: &Uid, action: &Action) -> Option<Result<Outcome, Failure>> {
        let done = Ok(Outcome::Done);
        let now = self.now;
        Some(match &action.verb {
            Verb::MountVolumes | Verb::UnmountVolumes | Verb::Cancel(_) => done,
            Verb::RunSandbox { attempt } => {
                let host = self.api.get(uid).and_then(|p| p.spec.as_ref()?.host_network).unwrap_or(false);
                self.runtime.run_sandbox(now, uid, *attempt, host);
                done
            }
            Verb::StopSandbox => {
                self.runtime.stop_sandbox(now, uid, api::node::ExitCause::Process);
                done
            }
            Verb::RemoveSandbox => {
                self.runtime.remove_sandbox(uid);
                done
            }
            Verb::Pull { image, policy } => self.pull(image, *policy),
            Verb::Create { attempt } => self.create(uid, &action.target, *attempt),
            Verb::Start { id } => self.start(uid, id),
            Verb::NoteSandbox { key, value } => self.runtime.note_sandbox(uid, key, value).map(|()| Outcome::Done),
            Verb::Note { id, key, value } => self.runtime.note(uid, id, key, value).map(|()| Outcome::Done),
            Verb::Probe { id, kind, .. } => Ok(Outcome::Probed(self.probe(uid, &action.target, id, *kind))),
            Verb::RunHook {
                id, hook, handler, limit, ..
            } => self.hook(uid, id, *hook, handler, *limit),
            Verb::Resize { .. } => done, // no part of this world is measured
            Verb::Remove { id } => self.runtime.remove(uid, id).map(|()| Outcome::Done),
            Verb::Stop { id, grace, .. } => return self.stop(uid, action.id, id, *grace),
            Verb::ConfirmDeletion => {
                self.confirm(uid);
                done
            }
        })
    }

    fn pull(&mut self, image: &str, policy: PullPolicy) -> Result<Outcome, Failure> {
        let fetched = |took| {
            Outcome::Pulled(Pulled::Fetched {
                took,
                waited: Duration::ZERO,
                size_bytes: 1_000_000,
            })
        };
        let pulled = match (self.images.get(image).cloned().unwrap_or(Image::Present), policy) {
            (Image::Invalid, _) => return Err(Failure::new(FailureClass::InvalidImageName, "invalid reference format")),
            (Image::Broken, _) => return Err(Failure::new(FailureClass::ErrImagePull, format!("{image}: not found"))),
            (Image::Absent(_), PullPolicy::Never) => return Err(Failure::new(FailureClass::ErrImageNeverPull, "")),
            (Image::Absent(took), _) => fetched(took),
            (Image::Present, PullPolicy::Always) => fetched(Duration::from_millis(40)),
            (Image::Present, PullPolicy::IfNotPresent | PullPolicy::Never) => Outcome::Pulled(Pulled::Present),
        };
        self.images.insert(image.to_owned(), Image::Present);
        Ok(pulled)
    }

    fn create(&mut self, uid: &Uid, target: &Target, attempt: u32) -> Result<Outcome, Failure> {
        let Target::Container(name) = target else {
            self.broken("an attempt is created for something else than a container")
        };
        let spec = self.api.get(uid).and_then(|p| p.spec.clone()).unwrap_or_default();
        let added: Vec<_> = spec.ephemeral_containers.iter().flatten().map(api::pods::as_container).collect();
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers).chain(&added);
        let image = all.find(|c| c.name == *name).and_then(|c| c.image.clone()).unwrap_or_default();
        let lives = self.lives.get(&(uid.clone(), name.clone()));
        let life = lives
            .and_then(|l| l.get(attempt as usize).or(l.last()))
            .copied()
            .unwrap_or(Life::SERVER);
        self.runtime.create(self.now, uid, name, attempt, &image, life)?;
        let held = self.runtime.held(uid).cloned().unwrap_or_default();
        if let Err(broken) = self.checker.created(self.now, uid, name, attempt, &held) {
            self.broken(&broken);
        }
        Ok(Outcome::Done)
    }

    fn start(&mut self, uid: &Uid, id: &ContainerId) -> Result<Outcome, Failure> {
        if self.runtime.start(self.now, uid, id)? {
            let held = self.runtime.held(uid).cloned().unwrap_or_default();
            if let Err(broken) = self.checker.started(self.now, uid, id, &held, self.api.get(uid)) {
                self.broken(&broken);
            }
            let life = held.attempt(id).map_or(Life::SERVER, |a| a.life);
            if let Some(runs) = life.runs {
                self.after(
                    runs,
                    Happening::Exit {
                        uid: uid.clone(),
                        id: id.clone(),
                        started_at: self.now,
                        code: life.code,
                        killer: None,
                    },
                );
            }
        }
        Ok(Outcome::Done)
    }

    /// A probe of what does not run fails; of the rest, as told.
    fn probe(&mut self, uid: &Uid, target: &Target, id: &ContainerId, kind: ProbeKind) -> Probed {
        let held = self.runtime.held(uid).cloned().unwrap_or_default();
        if let Err(broken) = self.checker.probed(self.now, uid, id, kind, &held, self.api.get(uid)) {
            self.broken(&broken);
        }
        if held.attempt(id).and_then(crate::runtime::Attempt::started_at).is_none() {
            return Probed::Failure("it does not run".to_owned());
        }
        if self.faults.strikes(self.now, |w| w.probe_fails) {
            return Probed::Failure("injected failure".to_owned());
        }
        let Target::Probe(name, _) = target else {
            self.broken("a probe of something else than a container")
        };
        if let Some(told) = self.probes.get(&(uid.clone(), name.clone(), kind)) {
            return told.clone();
        }
        let runs_for = held
            .attempt(id)
            .and_then(crate::runtime::Attempt::started_at)
            .map(|at| self.now.since(at));
        match (self.answers.get(&(uid.clone(), name.clone())), runs_for) {
            (Some(answers), Some(time)) if time < answers.from => Probed::Failure("connect: connection refused".to_owned()),
            (Some(answers), Some(time)) if answers.fails_from.is_some_and(|from| time >= from) => Probed::Failure(answers.output.clone()),
            _ => Probed::Success,
        }
    }

    /// A hook has run for its time, in a container that was still there.
    fn hook(&mut self, uid: &Uid, id: &ContainerId, hook: Hook, handler: &Handler, limit: Duration) -> Result<Outcome, Failure> {
        let held = self.runtime.held(uid).cloned().unwrap_or_default();
        if let Err(broken) = self.checker.hook(uid, id, hook, &held) {
            self.broken(&broken);
        }
        if self.hook_time(handler) > limit {
            return Err(Failure::new(FailureClass::Timeout, "the hook did not end in time"));
        }
        if held.attempt(id).and_then(crate::runtime::Attempt::started_at).is_none() {
            return Err(Failure::new(FailureClass::Hook, "the container does not run"));
        }
        Ok(Outcome::Done)
    }

    fn stop(&mut self, uid: &Uid, action: lifecycle::ActionId, id: &ContainerId, grace: Duration) -> Option<Result<Outcome, Failure>> {
        let attempt = self.runtime.held(uid).and_then(|h| h.attempt(id)).cloned();
        let (Some(attempt), Some(gone_at)) = (attempt, self.runtime.stop(self.now, uid, id, grace)) else {
            return Some(Ok(Outcome::Done));
        };
        let killed = self.runtime.held(uid).and_then(|h| h.attempt(id)).and_then(|a| a.kill_at) == Some(gone_at);
        let started_at = attempt.started_at().unwrap_or(self.now);
        let (code, killer) = if killed { (137, Some(self.epoch)) } else { (143, None) };
        self.after(
            gone_at.since(self.now),
            Happening::Exit {
                uid: uid.clone(),
                id: id.clone(),
                started_at,
                code,
                killer,
            },
        );
        if let Some(worker) = self.workers.get_mut(uid) {
            worker.waiting.push((action, id.clone()));
        }
        None
    }

    /// Flushes the status, then deletes the object.
    fn confirm(&mut self, uid: &Uid) {
        if let Some(status) = self.workers.get_mut(uid).and_then(|w| w.unwritten.take()) {
            self.store_status(uid, status);
        }
        if let Some(pod) = self.api.get(uid) {
            if let Err(broken) = self.checker.deleted(uid, pod, self.runtime.held(uid)) {
                self.broken(&broken);
            }
            self.say("deleted from the API");
        }
        self.api.remove(uid);
        self.after(Duration::from_millis(1), Happening::Watch { uid: uid.clone() });
    }
}

impl World {
    /// A sleep takes its time, the rest hardly any.
    fn hook_time(&self, handler: &Handler) -> Duration {
        match handler {
            Handler::Sleep { time } => *time,
            // Whatever else it does.
            _ if self.hooks_hang => Duration::MAX,
            Handler::Exec { .. } | Handler::HttpGet { .. } | Handler::TcpSocket { .. } | Handler::Grpc { .. } => Duration::from_millis(20),
        }
    }

    /// About what the real ones take.
    fn latency(&self, verb: &Verb) -> Duration {
        Duration::from_millis(match verb {
            Verb::RunSandbox { .. } => 20,
            Verb::Create { .. } => 12,
            Verb::Start { .. } | Verb::StopSandbox | Verb::RemoveSandbox => 5,
            Verb::MountVolumes
            | Verb::UnmountVolumes
            | Verb::Pull { .. }
            | Verb::Note { .. }
            | Verb::NoteSandbox { .. }
            | Verb::Cancel(_)
            | Verb::Resize { .. }
            | Verb::Stop { .. } => 1,
            Verb::Remove { .. } | Verb::ConfirmDeletion => 2,
            Verb::Probe { .. } => 3,
            Verb::RunHook { handler, limit, .. } => return self.hook_time(handler).min(*limit),
        })
    }
}
