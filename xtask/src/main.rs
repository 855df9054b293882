//! Lifepod's own build tool: sets up, checks, tests, demonstrates, measures.
//!
//! Reading order: this file, then `demo.rs` and `bench.rs` for what a user
//! sees, `tidy.rs` for the house rules.

mod bench;
mod conformance;
mod demo;
mod escapes;
mod generated;
mod images;
mod pod_fields;
mod protobuf;
mod schema;
mod setup;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sets up, checks, tests, demonstrates and measures Lifepod")]
struct Flags {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Sets up, then runs every test: unit, transcript, contract, end-to-end.
    Test {
        /// Passed to `cargo test`: a filter, or `-- --nocapture`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// fmt, clippy, tidy, generated files, and the tests that need no root.
    Check,
    /// Sets up, then shows the tutorial's init-container Pod, start to end.
    Demo,
    /// Measures speed and size; prints JSON.
    Bench {
        /// How many Pods to start one at a time.
        #[arg(long, default_value_t = 50)]
        rounds: usize,
        /// Measure this part alone: pods, slices, probes, objects or load
        #[arg(long)]
        only: Option<String>,
    },
    /// Runs worlds of seeded faults until so many steps are made: the night's run.
    Laws {
        /// Steps of the state machine, all worlds together.
        #[arg(long, default_value_t = 1_000_000)]
        steps: u64,
        /// One world alone, again: what a failure or a former run has printed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Builds the tutorial's images from Debian packages.
    Images,
    /// Checks crate edges, file sizes and banned names.
    Tidy,
    /// Writes docs/conformance.md: which test shows which row of the specification.
    Conformance {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Writes docs/pod-fields.md: what becomes of every field of a Pod, and which test shows it.
    PodFields {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Writes the table of docs/security.md: what was tried to get out of a container.
    Escapes {
        /// Compare with the committed page instead of writing it.
        #[arg(long)]
        check: bool,
    },
    /// Generates the schema table and its protobuf field numbers from published sources.
    Schema {
        /// Compare with the committed table instead of writing it.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = root();
    match Flags::parse().task {
        Task::Test { rest } => test(&root, &rest),
        Task::Check => check(&root),
        Task::Demo => demo::run(&root),
        Task::Laws { steps, seed: None } => laws(&root, "STEPS", steps),
        Task::Laws { seed: Some(seed), .. } => laws(&root, "SEED", seed),
        Task::Bench { rounds, only } => bench::run(&root, rounds, only.as_deref()),
        Task::Images => {
            setup::packages(&[setup::Tool::Busybox])?;
            images::run(&image_dir(&root))
        }
        Task::Tidy => tidy::run(&root),
        Task::Conformance { check } => conformance::run(&root, check),
        Task::PodFields { check } => pod_fields::run(&root, check),
        Task::Escapes { check } => escapes::run(&root, check),
        Task::Schema { check } => schema::run(&root, check),
    }
}

/// The workspace's directory.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// Where cargo puts what it builds.
fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

fn image_dir(root: &Path) -> PathBuf {
    target_dir(root).join("images")
}

/// Builds what is released and what measures it, always the same way: packages
/// built apart would each be built with other features, and all again. Gives
/// where they are.
fn release(root: &Path) -> Result<PathBuf> {
    step(
        "release build",
        cargo(root).args(["build", "--release", "--package", "lifepod", "--package", "bench"]),
    )?;
    Ok(target_dir(root).join("release"))
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs a step with its output shown; its name is printed first.
fn step(name: &str, command: &mut Command) -> Result<()> {
    eprintln!("==> {name}");
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{name} failed: {command:?} ended with {status}");
    Ok(())
}

fn test(root: &Path, rest: &[String]) -> Result<()> {
    setup::packages(&setup::ALL)?;
    setup::kubectl_for_tests()?;
    let python = setup::python_clients(&target_dir(root))?;
    eprintln!("==> images");
    images::run(&image_dir(root))?;
    eprintln!("==> tidy");
    tidy::run(root)?;
    step("format", cargo(root).args(["fmt", "--all", "--check"]))?;
    step(
        "clippy",
        cargo(root).args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    )?;
    step("build", cargo(root).args(["build", "--workspace", "--bin", "lifepod"]))?;
    eprintln!("==> pod fields");
    pod_fields::run(root, true)?;
    let mut tests = cargo(root);
    tests
        .env("LIFEPOD_BINARY", target_dir(root).join("debug/lifepod"))
        .env("LIFEPOD_PYTHON", python)
        .env("LIFEPOD_IMAGES", image_dir(root));
    step("tests", tests.args(["test", "--workspace"]).args(rest))
}

/// How long every check looks for a seed that breaks a law.
const LAWS_SECONDS: u64 = 10;

/// Worlds of seeded faults, each one's seed printed before it begins.
fn laws(root: &Path, how_much: &str, number: u64) -> Result<()> {
    let fresh = [
        "test",
        "--workspace",
        "--test",
        "laws",
        "--",
        "--exact",
        "pods_converge_after_the_last_fault_for_fresh_seeds",
        "--nocapture",
    ];
    step("worlds of seeded faults", cargo(root).env(how_much, number.to_string()).args(fresh))
}

fn check(root: &Path) -> Result<()> {
    eprintln!("==> conformance");
    conformance::run(root, true)?;
    eprintln!("==> pod fields");
    pod_fields::run(root, true)?;
    eprintln!("==> escapes");
    escapes::run(root, true)?;
    step("format", cargo(root).args(["fmt", "--all", "--check"]))?;
    eprintln!("==> tidy");
    tidy::run(root)?;
    step(
        "clippy",
        cargo(root).args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
    )?;
    // Names that start so need root or a registry; `cargo xtask test` runs them.
    let rest = [
        "test",
        "--workspace",
        "--exclude",
        "e2e",
        "--exclude",
        "clients",
        "--",
        "--skip",
        "root_",
        "--skip",
        "registry_",
    ];
    step("tests without root", cargo(root).args(rest))?;
    laws(root, "SECONDS", LAWS_SECONDS)
}
