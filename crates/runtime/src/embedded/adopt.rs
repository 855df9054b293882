//! Starting over what an earlier agent left, and removing all of it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::node::Uid;
use futures::StreamExt;
use shim::cgroup::{CgroupError, SHIMS_GROUP, Trees};
use tokio::sync::broadcast;
use tokio::task::JoinSet;

use super::app_armor::Kernel;
use super::client::{ClientError, connect};
use super::container::read_exit;
use super::files::{Phase, SOCKET_FILE, doing, remove_tree};
use super::ids::Ranges;
use super::pod::{Attempt, Pod};
use super::sandbox::greet;
use super::spec::Host;
use super::{Embedded, HINTS_MAX, Options, blocking};
use crate::{CgroupParent, Observation, Runtime, RuntimeError};

/// Pods adopted or removed at a time.
const AT_A_TIME: usize = 16;
/// How long leftover groups may take to empty.
const DESTROY: Duration = Duration::from_secs(10);

/// What [`Embedded::purge`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Pods with a record.
    pub pods: usize,
    /// Attempts of containers among them.
    pub containers: usize,
    /// Cgroups that belonged to no known pod.
    pub stray_cgroups: usize,
}

impl Embedded {
    /// Opens the backend and adopts the pods of an earlier one: those whose
    /// shim lives run on untouched; of the others, what runs is ended and
    /// noted as lost.
    ///
    /// # Errors
    /// No usable cgroups, an unreadable state directory, or a pod that can
    /// neither be adopted nor ended.
    pub async fn open(mut options: Options) -> Result<Self, RuntimeError> {
        let (state_dir, exe) = (options.state_dir.clone(), options.shim_exe.clone());
        let (state_dir, host, no_users) = blocking(move || {
            fs::create_dir_all(&state_dir).map_err(doing("making directory", &state_dir))?;
            let state_dir = fs::canonicalize(&state_dir).map_err(doing("resolving", &state_dir))?;
            let no_users = exe
                .try_users(&state_dir)
                .map_err(doing("trying out user namespaces in", &state_dir))?;
            Ok((state_dir, look_at_host()?, no_users))
        })
        .await?;
        options.state_dir = state_dir;
        let missing = host.missing();
        if !missing.is_empty() {
            tracing::info!(
                capabilities = missing.join(","),
                "this host does not let containers have some capabilities; those that ask for one are refused"
            );
        }
        if let Some(why) = &no_users {
            tracing::info!(
                why,
                "pods cannot have users of their own here; those with `hostUsers: false` are refused"
            );
        }
        let (hints, _) = broadcast::channel(HINTS_MAX);
        let embedded = Self {
            ranges: Mutex::new(Ranges::new(options.user_ids)),
            options,
            host,
            no_users,
            pods: Mutex::default(),
            hints,
            background: Mutex::new(JoinSet::new()),
        };
        let entries = fs::read_dir(&embedded.options.state_dir).map_err(doing("listing", &embedded.options.state_dir))?;
        let mut uids = Vec::new();
        for entry in entries.flatten() {
            match entry.file_name().into_string().unwrap_or_default().parse::<Uid>() {
                Ok(uid) => uids.push(uid),
                Err(_) => tracing::warn!(path = %entry.path().display(), "not a pod's directory; left alone"),
            }
        }
        let mut adopting = futures::stream::iter(uids.into_iter().map(|uid| embedded.adopt(uid))).buffer_unordered(AT_A_TIME);
        while let Some(adopted) = adopting.next().await {
            adopted?;
        }
        drop(adopting);
        Ok(embedded)
    }

    async fn adopt(&self, uid: Uid) -> Result<(), RuntimeError> {
        let pod = self.pod_or_new(&uid);
        let _gate = pod.gate.lock().await;
        let pod_ = pod.clone();
        let has_record = blocking(move || load(&pod_)).await?;
        if !has_record {
            // Begun and never written down, or almost removed.
            return self.erase_unrecorded(&pod).await;
        }
        let (stopped, ids) = match &pod.known().sandbox {
            Some(sandbox) => (sandbox.phase == Phase::Stopped, sandbox.ids),
            None => (false, None),
        };
        if stopped {
            return Ok(());
        }
        if let Some(ids) = ids {
            self.ranges().keep(&uid, ids);
        }
        {
            let mut known = pod.known();
            known.unsettled = known.attempts.iter().map(|a| a.record.id.clone()).collect();
        }
        match connect(&pod.dir.0, SOCKET_FILE).map(|stream| self.take_client(&pod, stream)) {
            Ok(client) => match greet(&*client?).await {
                Ok(_) => match pod.observe().await? {
                    Some(seen) => self.settle(&pod, &seen).await,
                    None => Ok(()),
                },
                // It lives, and so do its containers: whoever asks it hears
                // that it does not answer, until it does or is killed.
                Err(error @ ClientError::Late(_)) => {
                    tracing::warn!(uid = %uid, error = %error, "the pod's shim does not answer yet");
                    Ok(())
                }
                Err(error) => {
                    tracing::warn!(uid = %uid, error = %error, "the pod's shim does not answer; its containers are lost");
                    self.end_sandbox(&pod).await
                }
            },
            Err(error) => {
                tracing::warn!(uid = %uid, error = %error, "the pod's shim has died; its containers are lost");
                self.end_sandbox(&pod).await
            }
        }
    }

    /// Removes attempts that were written down but not made: the earlier agent
    /// died before the shim was asked, or before it was done. The caller holds
    /// the gate, and has seen what the shim has.
    pub(super) async fn settle(&self, pod: &Arc<Pod>, seen: &Observation) -> Result<(), RuntimeError> {
        loop {
            let Some(id) = pod.known().unsettled.last().cloned() else {
                return Ok(());
            };
            if !seen.containers.iter().any(|c| c.id.0 == id) {
                self.remove_container(pod, &id).await?;
            }
            pod.known().unsettled.retain(|unsettled| *unsettled != id);
        }
    }

    async fn erase_unrecorded(&self, pod: &Arc<Pod>) -> Result<(), RuntimeError> {
        self.options.network.detach(&pod.uid).await.map_err(RuntimeError::Network)?;
        let (dir, trees) = (pod.dir.clone(), self.host.trees.clone());
        let groups = CgroupParent::ALL.map(|parent| pod.group_in(parent));
        blocking(move || {
            for group in groups {
                destroy(&trees, &group)?;
            }
            remove_tree(&dir.0)
        })
        .await?;
        self.forget(pod);
        Ok(())
    }

    /// Removes every pod, and every cgroup of a pod under the root, for
    /// `lifepod down`; the root too, unless somebody else uses it.
    ///
    /// # Errors
    /// The first thing that could not be removed; the rest still is.
    pub async fn purge(&self) -> Result<Purged, RuntimeError> {
        let pods: Vec<Arc<Pod>> = self.pods().values().cloned().collect();
        let containers = pods.iter().map(|pod| pod.known().attempts.len()).sum();
        let mut purged = Purged {
            pods: pods.len(),
            containers,
            stray_cgroups: 0,
        };
        let removals = pods.into_iter().map(|pod| async move { self.remove_sandbox(&pod.uid).await });
        let results: Vec<_> = futures::stream::iter(removals).buffer_unordered(AT_A_TIME).collect().await;
        let (trees, root) = (self.host.trees.clone(), self.options.cgroup_root.clone());
        let strays = blocking(move || {
            let mut strays = 0;
            let parents = CgroupParent::ALL.map(|parent| parent.name().map_or_else(|| root.clone(), |name| root.join(name)));
            // The root is first, and goes last.
            for parent in parents.iter().rev() {
                for name in trees.children(parent) {
                    let is_pod = name.starts_with("pod");
                    // What others have put there is theirs.
                    if is_pod || (name == SHIMS_GROUP && *parent == root) {
                        destroy(&trees, &parent.join(&name))?;
                        strays += usize::from(is_pod);
                    }
                }
                if trees.children(parent).is_empty() && trees.processes(parent).is_empty() {
                    trees.remove(parent).map_err(removing(parent))?;
                }
            }
            Ok(strays)
        })
        .await;
        results.into_iter().collect::<Result<(), _>>()?;
        purged.stray_cgroups = strays?;
        Ok(purged)
    }
}

/// Reads a pod's records; whether there is one of the sandbox.
fn load(pod: &Pod) -> Result<bool, RuntimeError> {
    let Some(sandbox) = pod.dir.read_sandbox()? else { return Ok(false) };
    let attempts = pod.dir.read_attempts()?;
    let mut known = pod.known();
    known.sandbox = Some(sandbox);
    known.attempts = attempts
        .into_iter()
        .map(|(record, notes)| {
            let exit = read_exit(&pod.dir.attempt_dir(&record.id));
            Attempt {
                record,
                notes,
                exit,
                making: false,
            }
        })
        .collect();
    Ok(true)
}

fn look_at_host() -> Result<Host, RuntimeError> {
    let trees = Trees::detect().map_err(|error| RuntimeError::Config(error.to_string()))?;
    let status = Path::new("/proc/self/status");
    let capabilities = Host::capabilities_of(&fs::read_to_string(status).map_err(doing("reading", status))?);
    let score = Path::new("/proc/self/oom_score_adj");
    let text = fs::read_to_string(score).map_err(doing("reading", score))?;
    Ok(Host {
        trees,
        capabilities,
        own_oom_score: text.trim().parse().unwrap_or_default(),
        app_armor: Kernel::below(Path::new("/")),
    })
}

fn destroy(trees: &Trees, group: &Path) -> Result<(), RuntimeError> {
    trees.destroy(group, DESTROY).map_err(removing(group))
}

fn removing(group: &Path) -> impl FnOnce(CgroupError) -> RuntimeError {
    let doing = format!("removing cgroup {}", group.display());
    move |cause| RuntimeError::Io {
        doing,
        source: std::io::Error::other(cause),
    }
}
