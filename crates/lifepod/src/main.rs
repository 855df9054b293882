//! The `lifepod` binary: flags, wiring and roles. No logic of its own.
//!
//! Reading order: [`flags`], [`platform`] (how the parts are put together),
//! then one file per command.

mod check;
mod down;
mod flags;
mod images;
mod in_cluster;
mod layout;
mod node;
mod node_api;
mod platform;
mod preflight;
mod run;
mod secrets;
mod settings;
mod simulate;
mod up;
mod why;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use flags::{Command, Flags};

fn main() -> ExitCode {
    // Before any thread, allocator tuning or runtime: a shim forks, and must
    // be small and single-threaded.
    if std::env::args_os().nth(1).is_some_and(|role| role == shim::ROLE) {
        return shim::main();
    }
    let started = Instant::now();
    let flags = Flags::parse();
    match dispatch(flags.command, started) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lifepod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command, started: Instant) -> Result<ExitCode> {
    match command {
        Command::Version => println!(
            "lifepod {}, serving Kubernetes {}",
            env!("CARGO_PKG_VERSION"),
            apiserver::server::Version::default().git_version
        ),
        Command::Completion { shell } => clap_complete::generate(shell, &mut Flags::command(), "lifepod", &mut std::io::stdout()),
        Command::Up(up) => {
            log_to_stderr("info");
            tokio_runtime()?.block_on(up::run(up, started))?;
        }
        Command::Down(down) => {
            log_to_stderr("warn");
            tokio_runtime()?.block_on(down::run(down))?;
        }
        Command::Run(run) => {
            log_to_stderr("error");
            return tokio_runtime()?.block_on(run::run(run));
        }
        Command::Check(check) => return check::run(&check),
        Command::Simulate(simulate) => return simulate::run(&simulate),
        Command::Secrets { command } => {
            log_to_stderr("warn");
            tokio_runtime()?.block_on(secrets::run(command))?;
        }
        Command::Why(why) => {
            log_to_stderr("error");
            return tokio_runtime()?.block_on(why::run(why));
        }
        Command::Images { command } => {
            log_to_stderr("warn");
            tokio_runtime()?.block_on(images::run(command))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Log lines go to standard error; `LIFEPOD_LOG` takes `tracing` filters.
fn log_to_stderr(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LIFEPOD_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .init();
}

fn tokio_runtime() -> Result<tokio::runtime::Runtime> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        // Blocking work here is short: files, netlink, mounts.
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}
