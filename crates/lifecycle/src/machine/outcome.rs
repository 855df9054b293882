//! What the end of an action means: events, and when to try again.

use std::time::Duration;

use api::Time;
use api::node::ContainerId;

use crate::action::{InFlight, Target, Verb};
use crate::event::{self, PodEvent};
use crate::input::{Container, Failure, FailureClass, Hook, Outcome, Probed, Pulled};
use crate::machine::{Machine, Stage};
use crate::memory::PullRecord;
use crate::plan;

/// The effect of a successful action is observed within this time, or the
/// action is asked for again.
pub(super) const EFFECT_SEEN_WITHIN: Duration = Duration::from_secs(1);

impl Machine {
    pub(super) fn ended(&mut self, now: Time, flight: InFlight, result: Result<Outcome, Failure>, events: &mut Vec<PodEvent>) {
        if flight.cancelled {
            return; // whatever it became, something else has taken its place
        }
        match result {
            Ok(outcome) => self.succeeded(now, flight, outcome, events),
            Err(failure) if failure.class == FailureClass::Cancelled => {}
            Err(failure) => self.failed(now, flight, failure, events),
        }
    }

    /// One attempt of a probe has ended.
    fn probed(&mut self, now: Time, target: &Target, id: &ContainerId, probed: Probed, events: &mut Vec<PodEvent>) {
        let Target::Probe(name, kind) = target else { return };
        let Some(container) = plan::container_of(&self.desired, name) else {
            return;
        };
        let Some(probe) = container.probes.get(*kind) else { return };
        let (event, well) = match probed {
            Probed::Success => (None, Some(true)),
            Probed::Warning(body) => (Some(event::probe_warning(*kind, &body)), Some(true)),
            Probed::Failure(output) => (Some(event::unhealthy(*kind, &output)), Some(false)),
            Probed::Error(error) => (Some(event::probe_errored(*kind, &error)), None),
        };
        events.extend(event.map(|event| event.of(container.field_path())));
        let record = self.memory.probes.get_mut(&(name.clone(), *kind)).filter(|record| record.id == *id);
        if let (Some(record), Some(well)) = (record, well) {
            record.count(now, well, *kind, probe);
        }
    }

    fn succeeded(&mut self, now: Time, flight: InFlight, outcome: Outcome, events: &mut Vec<PodEvent>) {
        let InFlight { target, verb, pulling, .. } = flight;
        if let Verb::Probe { id, .. } = &verb {
            let probed = match outcome {
                Outcome::Probed(probed) => probed,
                Outcome::Done | Outcome::Pulled(_) | Outcome::DnsOmitted(_) | Outcome::FellBackToHttp { .. } => Probed::Success,
            };
            self.probed(now, &target, id, probed, events);
            return;
        }
        // What failed on the way to a start is shown until there is one.
        if !matches!(verb, Verb::Pull { .. } | Verb::Create { .. } | Verb::Note { .. }) {
            self.memory.retries.remove(&target);
        }
        let path = self.field_path(&target);
        let mut tell = |event: PodEvent| events.extend(path.clone().map(|p| event.of(p)));
        match (&verb, &target) {
            (Verb::Pull { image, .. }, Target::Container(name)) => {
                match outcome {
                    Outcome::Pulled(Pulled::Fetched { took, waited, size_bytes }) => {
                        if !pulling {
                            tell(event::pulling(image));
                        }
                        tell(event::pulled(image, took, waited, size_bytes));
                    }
                    Outcome::Pulled(Pulled::Present)
                    | Outcome::Done
                    | Outcome::Probed(_)
                    | Outcome::DnsOmitted(_)
                    | Outcome::FellBackToHttp { .. } => tell(event::present(image)),
                }
                self.memory.pulls.insert(
                    name.clone(),
                    PullRecord {
                        image: image.clone(),
                        result: Ok(()),
                    },
                );
                return; // images are not observed: the record is its effect
            }
            (Verb::RunSandbox { .. }, _) => {
                if let Outcome::DnsOmitted(messages) = &outcome {
                    events.extend(messages.iter().map(|message| event::dns_omitted(message)));
                }
            }
            (Verb::RunHook { id, hook, .. }, _) => {
                if let Outcome::FellBackToHttp { address } = &outcome {
                    tell(event::hook_fell_back(address));
                }
                self.memory.hooks.insert((id.clone(), *hook), Ok(()));
                return; // its end is noted, and the note is observed
            }
            (Verb::Create { .. }, Target::Container(name)) => {
                tell(event::created(name));
                // Every attempt looks at its image anew, as upstream.
                self.memory.pulls.remove(name);
            }
            (Verb::Start { .. }, Target::Container(name)) => tell(event::started(name)),
            (Verb::MountVolumes, _) => self.memory.mounted = true,
            (Verb::UnmountVolumes, _) => self.memory.unmounted = true,
            (Verb::ConfirmDeletion, _) => self.memory.confirmed = true,
            _ => {} // observed
        }
        self.memory.settled.insert(target, (verb, now));
    }

    fn failed(&mut self, now: Time, flight: InFlight, failure: Failure, events: &mut Vec<PodEvent>) {
        let InFlight { target, verb, pulling, .. } = flight;
        if let Verb::Probe { id, .. } = &verb {
            self.probed(now, &target, id, Probed::Error(failure.message), events);
            return;
        }
        let path = self.field_path(&target);
        let mut tell = |event: PodEvent| events.extend(path.clone().map(|p| event.of(p)));
        match (&verb, &target) {
            (Verb::Pull { image, .. }, Target::Container(name)) => {
                let failure = pull_failure(image, failure);
                let class = crate::status::class_word(failure.class);
                if failure.class == FailureClass::ErrImagePull && !pulling {
                    tell(event::pulling(image));
                }
                tell(match failure.class {
                    FailureClass::InvalidImageName | FailureClass::ImageInspectError => {
                        PodEvent::warning("InspectFailed", failure.message.clone())
                    }
                    FailureClass::ErrImageNeverPull => PodEvent::warning("ErrImageNeverPull", failure.message.clone()),
                    _ => event::failed_pull(image, &failure.message), // the registry's and the network's
                });
                tell(event::failed(class));
                self.memory.pull_failed(name, image, failure, now);
                return;
            }
            (Verb::RunHook { id, hook, handler, .. }, Target::Container(name)) => {
                // A preStop hook that uses its whole time up is no event.
                if *hook == Hook::PostStart || failure.class != FailureClass::Timeout {
                    tell(event::hook_failed(*hook));
                }
                let message = format!(
                    "{handler} for Container \"{name}\" in Pod \"{}\" failed - error: {}",
                    self.desired.pod(),
                    failure.message
                );
                self.memory.hooks.insert((id.clone(), *hook), Err(message));
                return; // a hook is not tried again
            }
            (Verb::Create { .. } | Verb::Start { .. }, _) => {
                let failure = container_failure(&verb, failure);
                tell(event::failed(&failure.message));
                self.memory.failed(&target, failure, now, self.seed);
                return;
            }
            (Verb::RunSandbox { .. }, _) if self.stage == Stage::Sync => events.push(event::no_sandbox(&failure)),
            (Verb::MountVolumes, _) if self.stage == Stage::Sync => events.push(event::not_mounted(&failure)),
            (Verb::Stop { .. } | Verb::StopSandbox, _) => events.push(event::failed_kill(&failure.message)),
            _ => {} // retried; the driver logs it
        }
        self.memory.failed(&target, failure, now, self.seed);
    }

    fn field_path(&self, target: &Target) -> Option<String> {
        match target {
            Target::Container(name) | Target::Probe(name, _) => plan::container_of(&self.desired, name).map(Container::field_path),
            Target::Volumes | Target::Sandbox | Target::Attempt(_) | Target::Api => None,
        }
    }
}

/// The failure of a pull in upstream's words; what is not about the image
/// counts as a failed download.
fn pull_failure(image: &str, failure: Failure) -> Failure {
    let Failure { class, message } = failure;
    match class {
        FailureClass::InvalidImageName => {
            let message =
                format!("Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format");
            Failure { class, message }
        }
        FailureClass::ErrImageNeverPull => Failure {
            class,
            message: format!("Container image \"{image}\" is not present with pull policy of Never"),
        },
        FailureClass::ImageInspectError => Failure {
            class,
            message: format!("Failed to inspect image \"{image}\": {message}"),
        },
        FailureClass::RegistryUnavailable => Failure {
            class,
            message: format!("image pull failed for {image} because the registry is unavailable: {message}"),
        },
        _ => Failure {
            class: FailureClass::ErrImagePull,
            message,
        }, // see above
    }
}

/// What went wrong with a container is shown under the reason of the verb that
/// met it, unless the driver knows better.
fn container_failure(verb: &Verb, failure: Failure) -> Failure {
    let class = match (failure.class, verb) {
        (class @ (FailureClass::CreateContainerConfigError | FailureClass::CreateContainerError | FailureClass::RunContainerError), _) => {
            class
        }
        (_, Verb::Create { .. }) => FailureClass::CreateContainerError,
        (_, _) => FailureClass::RunContainerError,
    };
    Failure {
        class,
        message: failure.message,
    }
}
