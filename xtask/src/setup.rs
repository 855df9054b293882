//! The Debian packages that Lifepod, its tests and its demonstration need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// A program that must be there, and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `ip`, for the network namespaces of tests.
    Ip,
    /// `nft`, for masquerading.
    Nft,
    /// A static `busybox`, for test root file systems.
    Busybox,
    /// `docker-registry`, the real registry that tests pull from.
    Registry,
    /// `kubectl`. To use Lifepod any version will do, and Debian's is
    /// installed where none is; the tests want [`KUBECTL_MINOR`].
    Kubectl,
    /// `curl`, to fetch a page as the tutorial does.
    Curl,
    /// `mkfs.ext4`, for the tests of a full disk.
    Mkfs,
    /// `python3`, for the tests of clients that it runs.
    Python,
}

/// The clients of the tests that Python runs: the official one, of the API
/// version that is served, and Helm's library, which is client-go.
const PYTHON_CLIENTS: [&str; 2] = ["kubernetes==33.1.0", "helm-python-sdk==0.2.2"];

/// The oldest `kubectl` that has every command the tests use: `events` came in
/// 1.26, `explain` by OpenAPI v3 in 1.27.
const KUBECTL_MINOR: u32 = 27;

/// Everything `cargo xtask test` needs.
pub(crate) const ALL: [Tool; 8] = [
    Tool::Ip,
    Tool::Nft,
    Tool::Busybox,
    Tool::Registry,
    Tool::Kubectl,
    Tool::Curl,
    Tool::Mkfs,
    Tool::Python,
];

impl Tool {
    const fn program(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Nft => "nft",
            Self::Busybox => "busybox",
            Self::Registry => "docker-registry",
            Self::Kubectl => "kubectl",
            Self::Curl => "curl",
            Self::Mkfs => "mkfs.ext4",
            Self::Python => "python3",
        }
    }

    const fn package(self) -> &'static str {
        match self {
            Self::Ip => "iproute2",
            Self::Nft => "nftables",
            Self::Busybox => "busybox-static",
            Self::Registry => "docker-registry",
            Self::Kubectl => "kubernetes-client",
            Self::Curl => "curl",
            Self::Mkfs => "e2fsprogs",
            Self::Python => "python3-venv",
        }
    }

    fn is_present(self) -> bool {
        // Debian's Python comes without what makes environments.
        if self == Self::Python {
            let made = Command::new(self.program()).args(["-c", "import ensurepip, venv"]).output();
            return made.is_ok_and(|output| output.status.success());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
        std::env::split_paths(&path)
            .chain(usual)
            .any(|dir| dir.join(self.program()).is_file())
    }
}

/// Installs the packages of those tools that are missing.
///
/// # Errors
/// When a package cannot be installed; the message says which.
pub(crate) fn packages(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&str> = tools.iter().filter(|tool| !tool.is_present()).map(|tool| tool.package()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("==> installing {}", missing.join(", "));
    // The lists may be stale or absent; a failed update is told by the install.
    let _ = apt(&["update", "-q"]);
    let mut args = vec!["install", "-q", "-y", "--no-install-recommends"];
    args.extend(&missing);
    apt(&args).with_context(|| format!("cannot install {}: install them by hand, then run this again", missing.join(", ")))
}

fn apt(args: &[&str]) -> Result<()> {
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("cannot run apt-get")?;
    if !output.status.success() {
        bail!("apt-get {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A Python with the clients of the tests, in an environment of its own under
/// the target directory. Made once.
///
/// # Errors
/// When the environment cannot be made, or a client not be installed.
pub(crate) fn python_clients(target: &Path) -> Result<PathBuf> {
    let environment = target.join("python");
    let python = environment.join("bin/python");
    // Written last: what is half made is made again.
    let done = environment.join("installed");
    let wanted = PYTHON_CLIENTS.join(" ");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    eprintln!("==> installing the Python packages {wanted}");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment)).context("cannot make a Python environment")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(PYTHON_CLIENTS);
    run(&mut pip).with_context(|| format!("cannot install the Python packages {wanted}"))?;
    std::fs::write(&done, wanted).with_context(|| format!("cannot write {}", done.display()))?;
    Ok(python)
}

/// Whether `kubectl` is new enough for the tests. Debian 12's is not.
///
/// # Errors
/// When it is older, or does not say what it is.
pub(crate) fn kubectl_for_tests() -> Result<()> {
    let asked = Command::new("kubectl").args(["version", "--client", "--output=json"]).output();
    let output = asked.context("cannot run kubectl")?;
    let version: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("kubectl version --client does not say which version it is")?;
    let number = |field: &str| -> u32 {
        let text = version["clientVersion"][field].as_str().unwrap_or_default();
        // Some builds write `20+`.
        text.trim_end_matches('+').parse().unwrap_or_default()
    };
    let (major, minor) = (number("major"), number("minor"));
    if (major, minor) < (1, KUBECTL_MINOR) {
        bail!(
            "kubectl is {major}.{minor}, and the tests use commands of 1.{KUBECTL_MINOR}: \
             put a newer one first on the PATH (https://kubernetes.io/docs/tasks/tools/), then run this again"
        );
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
