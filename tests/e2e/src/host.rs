//! A network namespace that stands for one machine.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A network namespace with loopback up and no way out. Removed when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
}

impl Host {
    /// Makes the namespace. Its name is unique on this machine.
    ///
    /// # Errors
    /// When the caller is not root or `ip` is missing.
    pub fn new(label: &str) -> Result<Self> {
        let name = format!("lp-{label}-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        run(Command::new("ip").args(["netns", "add", &name]))
            .context("a network namespace is needed: this must run as root, with iproute2 installed")?;
        let host = Self { name };
        run(host.command("ip").args(["link", "set", "lo", "up"]))?;
        Ok(host)
    }

    /// The name of the namespace, unique on this machine.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that runs on this host. Only the network differs: `ip netns
    /// exec` would also hide the cgroup tree and each command's mounts from
    /// the next one.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Gives the host an Ethernet interface, as `ens33` of the tutorial. Its
    /// other end lies in the same namespace, so nothing is reached through it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_interface(&self, name: &str, address: &str) -> Result<()> {
        let peer = format!("{name}-peer");
        run(self
            .command("ip")
            .args(["link", "add", name, "type", "veth", "peer", "name", &peer]))?;
        run(self.command("ip").args(["link", "set", &peer, "up"]))?;
        run(self.command("ip").args(["link", "set", name, "up"]))?;
        self.add_address(name, address)
    }

    /// Adds an address to an interface, as `ifconfig ens33:1 ADDRESS` does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        run(self.command("ip").args(["address", "add", address, "dev", interface])).map(|_| ())
    }

    /// Names of the network links on this host.
    ///
    /// # Errors
    /// When `ip` cannot be run.
    pub fn links(&self) -> Result<Vec<String>> {
        let output = run(self.command("ip").args(["-o", "link"]))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .collect())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let removed = run(Command::new("ip").args(["netns", "delete", &self.name]));
        if let Err(error) = removed {
            eprintln!("network namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Runs a command to its end; a failure carries what it printed.
///
/// # Errors
/// When it cannot be started or does not exit with 0.
pub fn run(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}
