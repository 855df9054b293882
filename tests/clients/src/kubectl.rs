//! The stock kubectls of this machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::Server;

/// Versions the API server speaks to, by minor number.
const MINORS: std::ops::RangeInclusive<u32> = 31..=33;

/// A stock kubectl.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kubectl {
    /// Of its version, such as 33 for v1.33.
    pub minor: u32,
    program: PathBuf,
}

/// What a run of it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Exit code; -1 when it was killed.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Every kubectl of 1.31 to 1.33: the one in the search path, and those beside
/// it, by version. Where none of these is installed, the one in the path.
///
/// # Errors
/// When there is no kubectl at all.
pub fn kubectls() -> Result<Vec<Kubectl>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path)
        .map(|dir| dir.join("kubectl"))
        .find(|program| program.is_file());
    let first = first.context("no kubectl in the search path; `cargo xtask test` installs one")?;
    // A dispatcher, or the program itself; the others stand beside it.
    let real = first.canonicalize().with_context(|| format!("resolving {}", first.display()))?;
    let beside = real.parent().map(std::fs::read_dir).transpose()?.into_iter().flatten();
    let mut programs: Vec<PathBuf> = beside
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(OsStr::to_str)
                .is_some_and(|name| name.starts_with("kubectl."))
        })
        .collect();
    programs.push(first.clone());
    let mut found: Vec<Kubectl> = programs.iter().filter_map(|program| version(program).ok()).collect();
    found.sort();
    found.dedup_by_key(|kubectl| kubectl.minor);
    if found.iter().any(Kubectl::is_reviewed) {
        found.retain(Kubectl::is_reviewed);
    }
    if found.is_empty() {
        bail!("{} does not say its version", first.display());
    }
    Ok(found)
}

fn version(program: &Path) -> Result<Kubectl> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output()?;
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let minor = value["clientVersion"]["minor"].as_str().unwrap_or_default();
    let minor = minor.trim_end_matches(|c: char| !c.is_ascii_digit()).parse()?;
    Ok(Kubectl {
        minor,
        program: program.to_owned(),
    })
}

impl Kubectl {
    /// Whether it is of a version whose conversations are reviewed.
    #[must_use]
    pub fn is_reviewed(&self) -> bool {
        MINORS.contains(&self.minor)
    }

    /// Runs it against a server, with files in a directory of their own; the
    /// arguments are one line, words that hold spaces in single quotes.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, server: &Server, arguments: &str, stdin: &str) -> Result<Run> {
        let home = server.directory().join(format!("home-{}", self.minor));
        std::fs::create_dir_all(&home)?;
        let mut child = Command::new(&self.program)
            .args(words(arguments))
            .current_dir(server.directory())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &home)
            .env("KUBECONFIG", server.kubeconfig())
            .env("KUBE_EDITOR", server.directory().join("editor"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        if let Some(mut input) = child.stdin.take() {
            use std::io::Write;
            // One that does not read its input may have ended already.
            let _ = input.write_all(stdin.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
