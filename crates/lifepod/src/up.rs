//! `lifepod up`: the platform in the foreground.

use std::time::Instant;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::flags::Up;
use crate::platform::{Platform, Report};

/// Runs until a signal or a fault. Containers stay.
pub(crate) async fn run(up: Up, started: Instant) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut platform = Platform::start(&up).await?;
    print_report(&platform.report, &up, started);
    let fault = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        error = platform.failed() => Some(error),
    };
    platform.stop().await;
    match fault {
        None => {
            println!("stopped; containers keep running. `lifepod up` takes them over again, `lifepod down` removes them");
            Ok(())
        }
        Some(error) => Err(error),
    }
}

fn print_report(report: &Report, up: &Up, started: Instant) {
    let memory_gb = report.memory_bytes / (1 << 30);
    println!(
        "Lifepod {} is up after {} ms, serving Kubernetes {}",
        env!("CARGO_PKG_VERSION"),
        started.elapsed().as_millis(),
        report.version
    );
    println!("  API server  {}", report.server);
    println!(
        "  node        {}: {} CPUs, {memory_gb} GiB, pods in {}",
        report.node, report.cpus, report.pod_cidr
    );
    println!("  data        {}", up.data.data_dir.display());
    println!(
        "  kubectl     export KUBECONFIG={}",
        up.data.data_dir.join("admin.kubeconfig").display()
    );
}
