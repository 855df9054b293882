//! A running Lifepod on a [`Host`] of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::host::{Host, run};
use crate::wait;

/// How long `lifepod up` may take until `/readyz` answers, on a loaded machine.
const READY_LIMIT: Duration = Duration::from_secs(30);

/// Where the things under test are.
#[derive(Clone, Debug)]
pub struct Build {
    /// The `lifepod` binary.
    pub binary: PathBuf,
    /// Archives of the tutorial's images.
    pub images: PathBuf,
}

impl Build {
    /// What `cargo xtask test` has prepared: the binary and the images are
    /// found through `LIFEPOD_BINARY` and `LIFEPOD_IMAGES`.
    ///
    /// # Errors
    /// When they are not set: the tests are run by `cargo xtask test`.
    pub fn from_env() -> Result<Self> {
        let path = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .with_context(|| format!("{name} is not set: run these tests with `cargo xtask test`"))
        };
        Ok(Self {
            binary: path("LIFEPOD_BINARY")?,
            images: path("LIFEPOD_IMAGES")?,
        })
    }
}

/// A Lifepod with its own network, data, cgroups and `kubectl` settings.
/// Taken down, with everything it made, when dropped.
#[derive(Debug)]
pub struct Platform {
    /// The machine it believes to be alone on.
    pub host: Host,
    build: Build,
    dir: TempDir,
    child: Option<Child>,
    flags: Vec<String>,
}

impl Platform {
    /// Starts `lifepod up` with the tutorial's images and waits for it.
    ///
    /// # Errors
    /// When it does not become ready; the message carries its log.
    pub fn start(label: &str, build: &Build) -> Result<Self> {
        Self::start_with(label, build, &[])
    }

    /// The same, with more flags for `lifepod up`.
    ///
    /// # Errors
    /// When it does not become ready; the message carries its log.
    pub fn start_with(label: &str, build: &Build, flags: &[&str]) -> Result<Self> {
        let mut platform = Self::prepared(label, build, flags)?;
        for archive in fs::read_dir(&build.images).with_context(|| format!("reading {}", build.images.display()))? {
            let archive = archive?.path();
            if archive.extension().is_some_and(|e| e == "tar") {
                run(platform.lifepod(&["images", "import"]).arg(&archive))?;
            }
        }
        platform.up()?;
        Ok(platform)
    }

    /// A host and a data directory, nothing started and no image imported.
    ///
    /// # Errors
    /// When the host cannot be made.
    pub fn prepared(label: &str, build: &Build, flags: &[&str]) -> Result<Self> {
        let host = Host::new(label)?;
        let dir = tempfile::Builder::new().prefix("lifepod-").tempdir()?;
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        Ok(Self {
            host,
            build: build.clone(),
            dir,
            child: None,
            flags,
        })
    }

    /// Replaces the flags that the next `lifepod up` is given.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// The data directory given to `lifepod`.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The cgroup root given to `lifepod`: the name of the host, so that
    /// several can run at once.
    #[must_use]
    pub fn cgroup_root(&self) -> &str {
        self.host.name()
    }

    /// The log of `lifepod up` so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("up.log")).unwrap_or_default()
    }

    /// A `lifepod` command on this host and its data directory.
    #[must_use]
    pub fn lifepod(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(&self.build.binary.to_string_lossy());
        command.args(args).arg("--data-dir").arg(self.data_dir());
        command
    }

    /// Starts `lifepod up` and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message carries its log.
    pub fn up(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts `lifepod up` without waiting.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "lifepod up runs already");
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("up.log"))?;
        let mut command = self.lifepod(&["up", "--node-name", "node1", "--cgroup-root", self.cgroup_root()]);
        command.args(&self.flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("cannot start lifepod up")?);
        Ok(())
    }

    /// Waits until `/readyz` answers and the node is Ready.
    ///
    /// # Errors
    /// When that takes too long or the process ends; the message carries its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = wait::until("a Ready node", READY_LIMIT, || {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                bail!("lifepod up ended with {status}");
            }
            if !self.kubeconfig().exists() {
                return Ok(Err("no kubeconfig yet".to_owned()));
            }
            let nodes = self.kubectl(&["get", "nodes", "--no-headers"])?;
            let text = String::from_utf8_lossy(&nodes.stdout).into_owned();
            let up = text.split_whitespace().any(|word| word == "Ready");
            Ok(if up {
                Ok(())
            } else {
                Err(format!("{text}{}", String::from_utf8_lossy(&nodes.stderr)))
            })
        });
        ready.with_context(|| format!("lifepod up did not become ready; its log:\n{}", self.log()))
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// Process id of `lifepod up`. `nsenter` replaces itself by the program,
    /// so the child is the program.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Ends `lifepod up` with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("lifepod up does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Ends `lifepod up` with SIGTERM and waits for it.
    ///
    /// # Errors
    /// When it does not run or does not end.
    pub fn stop(&mut self) -> Result<std::process::ExitStatus> {
        let pid = self.pid().context("lifepod up does not run")?;
        run(Command::new("kill").args(["-TERM", &pid.to_string()]))?;
        let mut child = self.child.take().context("lifepod up does not run")?;
        wait::until("lifepod up to end", Duration::from_secs(20), || {
            Ok(child.try_wait()?.ok_or_else(|| "it still runs".to_owned()))
        })
    }

    /// Runs `lifepod down`, which also ends `lifepod up`. Pods are killed:
    /// tests do not wait for what does not heed its stop signal.
    ///
    /// # Errors
    /// When it fails; the message carries what it printed.
    pub fn down(&mut self) -> Result<Output> {
        self.down_with(&["--grace", "0"])
    }

    /// The same, with flags.
    ///
    /// # Errors
    /// When it fails; the message carries what it printed.
    pub fn down_with(&mut self, flags: &[&str]) -> Result<Output> {
        let output = run(self.lifepod(&["down"]).args(flags))?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(output)
    }

    /// The stock `kubectl` as the administrator of this Lifepod.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = self.host.command("kubectl");
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .env("KUBECACHEDIR", self.dir.path().join("cache"));
        command
    }

    /// Runs `kubectl` to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn kubectl(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.kubectl_command();
        command
            .args(args)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run {command:?}"))
    }

    /// Runs `kubectl`, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// When it exits with another code than 0.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = run(self.kubectl_command().args(args).stdin(Stdio::null()))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes a manifest and creates what it holds.
    ///
    /// # Errors
    /// When `kubectl create` fails.
    pub fn create(&self, manifest: &str) -> Result<String> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(self.dir.path())?;
        fs::write(file.path(), manifest)?;
        self.ok(&["create", "-f", &file.path().to_string_lossy()])
    }

    /// An object as JSON; `None` when it does not exist.
    ///
    /// # Errors
    /// When `kubectl` fails for another reason.
    pub fn get(&self, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>> {
        let output = self.kubectl(&["get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found"])?;
        ensure!(
            output.status.success(),
            "kubectl get {kind} {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        if output.stdout.is_empty() {
            Ok(None)
        } else {
            Ok(Some(serde_json::from_slice(&output.stdout)?))
        }
    }

    /// What happened to an object, `type reason message` a line.
    ///
    /// # Errors
    /// When `kubectl` fails.
    pub fn events(&self, namespace: &str, name: &str) -> Result<String> {
        let selector = format!("involvedObject.name={name}");
        let columns = "jsonpath={range .items[*]}{.type} {.reason} {.message}{\"\\n\"}{end}";
        self.ok(&["get", "events", "-n", namespace, "--field-selector", &selector, "-o", columns])
    }

    /// Waits until a pod satisfies `check`, which says what it sees otherwise.
    ///
    /// # Errors
    /// When that takes too long; the message carries the pod and the log.
    pub fn wait_pod<T>(&self, namespace: &str, name: &str, what: &str, limit: Duration, check: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let seen = wait::until(&format!("pod {namespace}/{name}: {what}"), limit, || {
            Ok(match self.get(namespace, "pod", name)? {
                None => Err("it does not exist".to_owned()),
                Some(pod) => check(&pod).ok_or_else(|| pod["status"].to_string()),
            })
        });
        seen.with_context(|| format!("log of lifepod up:\n{}", tail(&self.log(), 40)))
    }

    /// Waits until a pod has the given STATUS in `kubectl get pods`.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_status(&self, namespace: &str, name: &str, status: &str, limit: Duration) -> Result<()> {
        let seen = wait::until(&format!("pod {namespace}/{name} to be {status}"), limit, || {
            let line = self.kubectl(&["get", "pod", name, "-n", namespace, "--no-headers"])?;
            let text = String::from_utf8_lossy(&line.stdout).into_owned();
            Ok(if text.split_whitespace().nth(2) == Some(status) {
                Ok(())
            } else {
                Err(text)
            })
        });
        seen.with_context(|| format!("log of lifepod up:\n{}", tail(&self.log(), 40)))
    }

    /// What this Lifepod has left on the machine: mounts below its data
    /// directory, cgroups of its root, links and packet rules of its host,
    /// processes with its data directory on their command line.
    ///
    /// # Errors
    /// When the system cannot be asked.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let data = self.data_dir().to_string_lossy().into_owned();
        found.extend(
            fs::read_to_string("/proc/self/mounts")?
                .lines()
                .filter(|line| line.contains(&data))
                .map(|line| format!("mount {line}")),
        );
        cgroups(Path::new("/sys/fs/cgroup"), self.cgroup_root(), 3, &mut found);
        found.extend(
            self.host
                .links()?
                .into_iter()
                .filter(|link| link.starts_with("lifepod") || link.starts_with("lp"))
                .map(|link| format!("link {link}")),
        );
        let rules = run(self.host.command("nft").args(["list", "ruleset"]))?;
        found.extend(
            String::from_utf8_lossy(&rules.stdout)
                .lines()
                .filter(|line| line.contains("lifepod"))
                .map(|line| format!("rule {line}")),
        );
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&data) && !line.starts_with("nsenter") {
                found.push(format!("process {pid} {line}"));
            }
        }
        Ok(found)
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of lifepod up:\n{}", tail(&self.log(), 80));
        }
        if self.data_dir().exists()
            && let Err(error) = self.down()
        {
            eprintln!("lifepod down: {error:#}");
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn cgroups(dir: &Path, name: &str, depth: u32, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        if entry.file_name().to_string_lossy() == name {
            found.push(format!("cgroup {}", entry.path().display()));
        } else if depth > 0 {
            cgroups(&entry.path(), name, depth - 1, found);
        }
    }
}

/// How often the first container of a pod was restarted; -1 while no status
/// says so.
#[must_use]
pub fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(-1)
}

/// The last `lines` lines of a text.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
