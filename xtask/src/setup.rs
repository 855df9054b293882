//! The Debian packages that Lifepod, its tests and its demonstration need.

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
    /// `kubectl`. Any version will do; Debian's is used where none is.
    Kubectl,
    /// `curl`, to fetch a page as the tutorial does.
    Curl,
    /// `mkfs.ext4`, for the tests of a full disk.
    Mkfs,
}

/// Everything `cargo xtask test` needs.
pub(crate) const ALL: [Tool; 7] = [
    Tool::Ip,
    Tool::Nft,
    Tool::Busybox,
    Tool::Registry,
    Tool::Kubectl,
    Tool::Curl,
    Tool::Mkfs,
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
        }
    }

    fn is_present(self) -> bool {
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
