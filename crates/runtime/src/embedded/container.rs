//! Making, starting, stopping and removing one attempt of a container.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::node::ContainerId;
use sha2::{Digest, Sha256};
use shim::protocol::{Answer, CreateSpec, ExecSpec, Request, State};
use shim::record::{self, EXIT_FILE, ExitRecord, MESSAGE_FILE, now_ns};
use shim::seccomp::SECCOMP_FILE;
use tokio::time::Instant;

use super::client::{Client, ClientError};
use super::files::{ATTEMPT_FILE, AttemptRecord, NOTES_FILE, Phase, doing, remove_tree};
use super::pod::{Attempt, PROMPT, Pod, Stopping};
use super::sandbox::{kill_shim, limits};
use super::seccomp;
use super::spec::{self, Parts};
use super::{Embedded, blocking};
use crate::image::{Reference, StoredImage};
use crate::{ContainerConfig, ExecOutput, ExecRequest, Image, RuntimeError, SandboxConfig};

/// The shim gives its worker less.
const CREATE: Duration = Duration::from_secs(90);
/// Starting is one `execve`, but the program may be on a slow disk.
const START: Duration = Duration::from_secs(60);
/// How long killed processes may take to go.
const KILLED: Duration = Duration::from_secs(30);
/// An executed command without a limit of its own.
const EXEC_MAX: Duration = Duration::from_secs(24 * 3600);

impl Embedded {
    pub(super) async fn make_container(&self, pod: &Arc<Pod>, config: &ContainerConfig) -> Result<ContainerId, RuntimeError> {
        let client = pod.need_client()?;
        let Some(sandbox) = pod.known().sandbox.clone().filter(|s| s.phase == Phase::Ready) else {
            return Err(RuntimeError::NotFound {
                what: "sandbox",
                name: pod.uid.to_string(),
            });
        };
        let stored = self
            .options
            .images
            .lookup(&config.image)
            .map_err(|error| RuntimeError::Config(error.to_string()))?;
        let stored = stored.ok_or_else(|| RuntimeError::NotFound {
            what: "image",
            name: config.image.clone(),
        })?;
        let known = pod
            .known()
            .attempts
            .iter()
            .find(|a| a.record.name == config.name && a.record.attempt == config.attempt)
            .cloned();
        match known {
            Some(known) if !known.making => return Ok(ContainerId(known.record.id)),
            Some(left_over) => self.drop_attempt(pod, &left_over.record.id).await?,
            None => {}
        }
        let attempt = attempt_record(pod, config, &stored, sandbox.config.attempt).map_err(RuntimeError::Config)?;
        let id = attempt.id.clone();
        let target = config.target.as_deref().map(|name| newest(pod, name)).transpose()?;
        let app_armor = self.host.app_armor.profile(config).await.map_err(RuntimeError::Start)?;
        let request = self
            .create_request(pod, &sandbox.config, config, &stored, (&id, target, app_armor))
            .map_err(RuntimeError::Config)?;
        pod.known().attempts.push(Attempt {
            record: attempt.clone(),
            notes: Default::default(),
            exit: None,
            making: true,
        });
        let (dir, wants_message) = (pod.dir.attempt_dir(&id), !config.termination_message_path.is_empty());
        let (profile, capabilities) = (spec::seccomp(config).clone(), spec::bounding(config, &self.host));
        let written = blocking(move || {
            let filters = seccomp::filters(&profile, &capabilities.map_err(RuntimeError::Config)?)
                .and_then(|filters| filters.encode())
                .map_err(RuntimeError::Start)?;
            write_attempt(&dir, &attempt, wants_message, &filters)
        })
        .await;
        let made = match written {
            Ok(()) => client.order(&request, CREATE).await.map_err(|error| pod.trouble(error)),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                if let Some(attempt) = pod.known().attempts.iter_mut().find(|a| a.record.id == id) {
                    attempt.making = false;
                }
                let _ = self.hints.send(pod.uid.clone());
                Ok(ContainerId(id))
            }
            Err(error) => {
                self.drop_attempt(pod, &id).await?;
                Err(error)
            }
        }
    }

    fn create_request(
        &self,
        pod: &Pod,
        sandbox: &SandboxConfig,
        config: &ContainerConfig,
        stored: &StoredImage,
        (id, target, app_armor): (&str, Option<String>, Option<String>),
    ) -> Result<Request, String> {
        let (dir, group) = (pod.dir.attempt_dir(id), pod.group().join(id));
        let parts = Parts {
            sandbox,
            container: config,
            image: &stored.config,
            pod_dir: &pod.dir.0,
            dir: &dir,
            group: &group,
            host: &self.host,
            app_armor,
            devices: if config.privileged { spec::all_devices() } else { Vec::new() },
        };
        Ok(Request::Create(Box::new(CreateSpec {
            id: id.to_owned(),
            spec: spec::generate(&parts)?,
            layers: stored.layers.clone(),
            user: spec::user(sandbox, config, &stored.config)?,
            limits: limits(&config.resources),
            log_path: sandbox.log_dir.join(&config.name).join(format!("{}.log", config.attempt)),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            log_limits: config.log_limits,
            message_from_log: config.termination_message_from_log,
            message_file: !config.termination_message_path.is_empty(),
            all_devices: config.privileged,
            staged: spec::staged(config, |reference| self.layers(reference))?,
            pid_namespace_of: target,
        })))
    }

    /// The layers of an image that is a volume.
    fn layers(&self, reference: &str) -> Result<Vec<std::path::PathBuf>, String> {
        let found = self.options.images.lookup(reference).map_err(|error| error.to_string())?;
        let stored = found.ok_or_else(|| format!("the image {reference:?} of a volume is not present on this node any more"))?;
        Ok(stored.layers)
    }

    /// Forgets an attempt and removes what there is of it.
    async fn drop_attempt(&self, pod: &Arc<Pod>, id: &str) -> Result<(), RuntimeError> {
        if let Some(client) = pod.client() {
            match client.order(&Request::Kill { id: id.to_owned() }, PROMPT).await {
                Ok(()) => self.wait_for_exit(pod, &client, id, Instant::now() + KILLED).await.map(drop)?,
                Err(ClientError::Refused(shim::protocol::Refusal::NotFound, _) | ClientError::Gone) => {}
                Err(error) => return Err(pod.trouble(error)),
            }
            match client.order(&Request::Remove { id: id.to_owned() }, PROMPT).await {
                Ok(()) | Err(ClientError::Gone) => {}
                Err(error) => return Err(pod.trouble(error)),
            }
        }
        let (dir, group, trees) = (pod.dir.attempt_dir(id), pod.group().join(id), self.host.trees.clone());
        blocking(move || {
            trees.destroy(&group, KILLED).map_err(|cause| RuntimeError::Io {
                doing: format!("removing cgroup {}", group.display()),
                source: std::io::Error::other(cause),
            })?;
            // The record first: a directory without one is litter.
            let _ = fs::remove_file(dir.join(ATTEMPT_FILE));
            remove_tree(&dir)
        })
        .await?;
        let mut known = pod.known();
        known.attempts.retain(|a| a.record.id != id);
        known.stopping.remove(id);
        Ok(())
    }

    pub(super) async fn start_container(&self, pod: &Arc<Pod>, id: &str) -> Result<(), RuntimeError> {
        let attempt = pod.attempt(id)?;
        if attempt.exit.is_some() {
            return Err(RuntimeError::Start(format!("container {id} has already ended")));
        }
        pod.need_client()?
            .order(&Request::Start { id: id.to_owned() }, START)
            .await
            .map_err(|error| pod.trouble(error))
    }

    /// See [`crate::Runtime::stop`]. A shim that says nothing when the grace
    /// has passed is killed, and its containers with it: no pod waits for ever
    /// for a process that hangs.
    pub(super) async fn stop_container(&self, pod: &Arc<Pod>, id: &str, signal: Option<i32>, grace: Duration) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + grace;
        let stopped = self.ask_to_stop(pod, id, signal, grace).await;
        if stopped.is_ok() {
            return Ok(());
        }
        tokio::time::sleep_until(deadline).await;
        let Some(client) = pod.client() else { return stopped };
        if !matches!(client.ask(&Request::Status, PROMPT).await, Err(ClientError::Late(_))) {
            return stopped;
        }
        tracing::warn!(uid = %pod.uid, action = "kill", "the pod's shim does not answer; it and the pod's containers are killed");
        let shim = pod.known().sandbox.as_ref().and_then(|sandbox| sandbox.shim_pid);
        kill_shim(shim, &pod.dir.0); // seen, and its containers ended, by the next observation
        Ok(())
    }

    async fn ask_to_stop(&self, pod: &Arc<Pod>, id: &str, signal: Option<i32>, grace: Duration) -> Result<(), RuntimeError> {
        let attempt = pod.attempt(id)?;
        if attempt.exit.is_some() {
            return Ok(());
        }
        let Some(client) = pod.client() else { return Ok(()) }; // seen, and written off, by the next observation
        let runs = matches!(self.state(pod, &client, id).await?, Some(State::Running { .. }));
        // What has not begun has nothing to finish.
        let deadline = Instant::now() + if runs { grace } else { Duration::ZERO };
        let (signalled, mut deadlines) = {
            let mut known = pod.known();
            let stopping = known.stopping.entry(id.to_owned()).or_insert_with(|| Stopping {
                deadline: tokio::sync::watch::channel(deadline).0,
                signalled: false,
            });
            stopping.deadline.send_if_modified(|at| {
                let earlier = deadline < *at;
                *at = deadline.min(*at);
                earlier
            });
            (stopping.signalled, stopping.deadline.subscribe())
        };
        if runs && !signalled && !grace.is_zero() {
            let signal = signal.unwrap_or(attempt.record.stop_signal);
            self.tolerate(pod, client.order(&Request::Signal { id: id.to_owned(), signal }, PROMPT).await)?;
            if let Some(stopping) = pod.known().stopping.get_mut(id) {
                stopping.signalled = true;
            }
        }
        let stopped = async {
            loop {
                let until = *deadlines.borrow_and_update();
                tokio::select! {
                    ended = self.wait_for_exit(pod, &client, id, until) => if ended? { return Ok(()) } else { break },
                    Ok(()) = deadlines.changed() => {}
                }
            }
            self.tolerate(pod, client.order(&Request::Kill { id: id.to_owned() }, PROMPT).await)?;
            if self.wait_for_exit(pod, &client, id, Instant::now() + KILLED).await? {
                Ok(())
            } else {
                let message = format!("container {id} still runs {KILLED:?} after it was killed; its processes may hang in the kernel");
                Err(RuntimeError::Shim {
                    pod: pod.uid.clone(),
                    message,
                })
            }
        }
        .await;
        pod.known().stopping.remove(id);
        stopped
    }

    /// An attempt the shim does not know, or a shim that is gone, is stopped.
    fn tolerate(&self, pod: &Pod, result: Result<(), ClientError>) -> Result<(), RuntimeError> {
        match result {
            Ok(()) | Err(ClientError::Gone | ClientError::Refused(shim::protocol::Refusal::NotFound, _)) => Ok(()),
            Err(error) => Err(pod.trouble(error)),
        }
    }

    /// Its state; `None` if its shim does not know it or is gone.
    async fn state(&self, pod: &Pod, client: &Client, id: &str) -> Result<Option<State>, RuntimeError> {
        match client.ask(&Request::Status, PROMPT).await {
            Ok(Answer::Status(status)) => Ok(status.containers.into_iter().find(|c| c.id == id).map(|c| c.state)),
            Ok(_) => Err(pod.trouble(ClientError::Confused)),
            Err(ClientError::Gone) => Ok(None),
            Err(error) => Err(pod.trouble(error)),
        }
    }

    /// Whether it ended before `until`.
    async fn wait_for_exit(&self, pod: &Pod, client: &Client, id: &str, until: Instant) -> Result<bool, RuntimeError> {
        let mut changes = client.changes();
        loop {
            changes.borrow_and_update();
            if matches!(self.state(pod, client, id).await?, None | Some(State::Exited(_))) {
                return Ok(true);
            }
            match tokio::time::timeout_at(until, changes.changed()).await {
                Err(_) => return Ok(false),
                Ok(Err(_)) => return Ok(true), // the shim is gone
                Ok(Ok(())) => {}
            }
        }
    }

    pub(super) async fn remove_container(&self, pod: &Arc<Pod>, id: &str) -> Result<(), RuntimeError> {
        if pod.attempt(id).is_err() {
            return Ok(());
        }
        self.drop_attempt(pod, id).await?;
        let _ = self.hints.send(pod.uid.clone());
        Ok(())
    }

    /// Dropped, it kills the command.
    pub(super) async fn exec_in(&self, pod: &Arc<Pod>, id: &str, request: ExecRequest) -> Result<ExecOutput, RuntimeError> {
        pod.attempt(id)?;
        let client = pod.need_client()?;
        let limit = request.timeout.unwrap_or(EXEC_MAX);
        let spec = ExecSpec {
            id: id.to_owned(),
            command: request.command,
            timeout_ms: u64::try_from(limit.as_millis()).ok(),
        };
        let (number, answer) = client
            .send(&Request::Exec(spec), PROMPT)
            .await
            .map_err(|error| pod.trouble(error))?;
        let cancel = CancelExec {
            embedded: self,
            client: client.clone(),
            number: Some(number),
        };
        let answer = client.wait(answer, limit + PROMPT).await;
        cancel.answered();
        match answer.map_err(|error| pod.trouble(error))? {
            Answer::Exec { code, output, timed_out } => Ok(ExecOutput {
                code,
                output: output.into_bytes(),
                timed_out,
            }),
            _ => Err(pod.trouble(ClientError::Confused)),
        }
    }

    pub(super) async fn note_attempt(&self, pod: &Arc<Pod>, id: &str, key: &str, value: &str) -> Result<(), RuntimeError> {
        let _one_writer = pod.gate.lock().await;
        let mut notes = pod.attempt(id)?.notes;
        notes.insert(key.to_owned(), value.to_owned());
        let (path, written) = (pod.dir.attempt_dir(id).join(NOTES_FILE), notes.clone());
        blocking(move || record::write(&path, &written, true).map_err(doing("writing", &path))).await?;
        if let Some(attempt) = pod.known().attempts.iter_mut().find(|a| a.record.id == id) {
            attempt.notes = notes;
        }
        Ok(())
    }
}

/// Tells the shim to end a command nobody waits for any more.
struct CancelExec<'a> {
    embedded: &'a Embedded,
    client: Arc<Client>,
    number: Option<u64>,
}

impl CancelExec<'_> {
    fn answered(mut self) {
        self.number = None;
    }
}

impl Drop for CancelExec<'_> {
    fn drop(&mut self) {
        let Some(request) = self.number else { return };
        let client = self.client.clone();
        self.embedded.in_background(async move {
            let _ = client.order(&Request::CancelExec { request }, PROMPT).await;
        });
    }
}

/// Identity of the newest attempt of a container.
fn newest(pod: &Pod, name: &str) -> Result<String, RuntimeError> {
    let known = pod.known();
    let attempts = known.attempts.iter().filter(|a| a.record.name == name && !a.making);
    let newest = attempts.max_by_key(|a| a.record.attempt).map(|a| a.record.id.clone());
    // Source of the text: upstream `getTargetID`.
    newest.ok_or_else(|| RuntimeError::Config(format!("unable to find target container {name}")))
}

fn attempt_record(pod: &Pod, config: &ContainerConfig, stored: &StoredImage, sandbox_attempt: u32) -> Result<AttemptRecord, String> {
    let created_at_ns = now_ns();
    let mut digest = Sha256::new();
    for part in [
        pod.uid.as_str(),
        &config.name,
        &config.attempt.to_string(),
        &created_at_ns.to_string(),
    ] {
        digest.update(part);
        digest.update([0]);
    }
    let id = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(AttemptRecord {
        id,
        name: config.name.clone(),
        attempt: config.attempt,
        image: config.image.clone(),
        image_id: image_id(&config.image, &stored.image),
        created_at_ns,
        sandbox_attempt,
        stop_signal: spec::stop_signal(config, &stored.config)?,
        resources: Some(config.requirements.clone()),
    })
}

/// How a status names the image: by digest, in the repository that was asked
/// for where the image is known by several; by its id where it has no digest.
fn image_id(reference: &str, image: &Image) -> String {
    let asked = reference.parse::<Reference>().ok().map(|reference| reference.name() + "@");
    let own = asked.and_then(|prefix| image.digests.iter().find(|digest| digest.starts_with(&prefix)));
    own.or(image.digests.first()).unwrap_or(&image.id).clone()
}

/// Writes down what is going to be made, its filters, and the file for last
/// words.
fn write_attempt(dir: &Path, attempt: &AttemptRecord, wants_message: bool, filters: &[u8]) -> Result<(), RuntimeError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dir)
        .map_err(doing("making directory", dir))?;
    let path = dir.join(ATTEMPT_FILE);
    record::write(&path, attempt, false).map_err(doing("writing", &path))?;
    let path = dir.join(SECCOMP_FILE);
    fs::write(&path, filters).map_err(doing("writing", &path))?;
    if wants_message {
        let path = dir.join(MESSAGE_FILE);
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o666).open(&path);
        // Whatever the mask: any user of the container may write it.
        made.and_then(|file| file.set_permissions(Permissions::from_mode(0o666)))
            .map_err(doing("making", &path))?;
    }
    Ok(())
}

/// The exit record on disk, if there is one. Blocks.
pub(super) fn read_exit(dir: &Path) -> Option<ExitRecord> {
    record::read(&dir.join(EXIT_FILE)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_names_the_image_in_the_repository_that_was_asked_for() {
        let digests = ["docker.io/library/a@sha256:0", "127.0.0.1:5000/team/a@sha256:0"]
            .map(str::to_owned)
            .to_vec();
        let image = Image {
            id: "sha256:1".to_owned(),
            tags: Vec::new(),
            digests,
            size_bytes: 0,
        };
        assert_eq!(image_id("127.0.0.1:5000/team/a:7", &image), "127.0.0.1:5000/team/a@sha256:0");
        assert_eq!(image_id("a", &image), "docker.io/library/a@sha256:0");
        assert_eq!(
            image_id(
                "other",
                &Image {
                    digests: Vec::new(),
                    ..image
                }
            ),
            "sha256:1"
        );
    }
}
