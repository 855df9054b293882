//! Debian packages: which version is current, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A package at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
}

/// Files of packages, under one directory.
#[derive(Debug)]
pub(super) struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a file of a package, `path` relative, is.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
}

/// The versions that would be installed now. Fetches the lists of packages if
/// this machine has none.
pub(super) fn candidates(names: &[&str]) -> Result<Vec<Package>> {
    let ask = || -> Result<Vec<Package>> {
        let output = run(Command::new("apt-cache").arg("policy").args(names).env("LC_ALL", "C"))?;
        Ok(parse_policy(&output))
    };
    let mut found = ask()?;
    if found.len() < names.len() {
        run(Command::new("apt-get").args(["update", "--quiet"]))?;
        found = ask()?;
    }
    for name in names {
        ensure!(
            found.iter().any(|package| package.name == *name),
            "Debian package {name} is not available; see `apt-cache policy {name}`"
        );
    }
    Ok(found)
}

/// Reads `apt-cache policy`: a line `NAME:`, then indented `Candidate: VERSION`.
fn parse_policy(text: &str) -> Vec<Package> {
    let mut packages = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if !line.starts_with(' ') {
            name = line.strip_suffix(':');
        } else if let (Some(of), Some(version)) = (name, line.trim().strip_prefix("Candidate: "))
            && version != "(none)"
        {
            packages.push(Package {
                name: of.to_owned(),
                version: version.to_owned(),
            });
        }
    }
    packages
}

/// Downloads packages and unpacks them into a directory under `scratch`.
pub(super) fn unpack(packages: &[Package], scratch: &Path) -> Result<Unpacked> {
    let (archives, root) = (scratch.join("archives"), scratch.join("root"));
    for directory in [&archives, &root] {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let download = || {
        run(Command::new("apt-get")
            // The directory is ours alone, so apt's own user could not write there.
            .args(["download", "--quiet", "-o", "APT::Sandbox::User=root"])
            .args(packages.iter().map(|package| format!("{}={}", package.name, package.version)))
            .current_dir(&archives))
    };
    if download().is_err() {
        // The lists may name versions that the mirror has dropped since.
        run(Command::new("apt-get").args(["update", "--quiet"]))?;
        download()?;
    }
    let mut unpacked = 0;
    for entry in fs::read_dir(&archives).context("listing downloaded packages")? {
        run(Command::new("dpkg-deb").arg("--extract").arg(entry?.path()).arg(&root))?;
        unpacked += 1;
    }
    ensure!(
        unpacked == packages.len(),
        "apt-get downloaded {unpacked} packages instead of {}",
        packages.len()
    );
    Ok(Unpacked { root })
}

/// This machine's architecture in Debian's and Go's words, which agree for
/// those that images are built for.
pub(super) fn architecture() -> Result<String> {
    Ok(run(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let line = format!("{command:?}");
    let output = command
        .output()
        .with_context(|| format!("running {line}; building images needs Debian's apt and dpkg"))?;
    if !output.status.success() {
        bail!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("output of {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_names_the_candidate_and_not_the_installed_version() {
        let text = "nginx:\n  Installed: (none)\n  Candidate: 1.22.1-9\n  Version table:\n     1.22.1-9 500\nmissing:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(
            parse_policy(text),
            [Package {
                name: "nginx".to_owned(),
                version: "1.22.1-9".to_owned()
            }]
        );
    }
}
