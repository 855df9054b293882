//! Measures speed and size of a release build. Prints JSON; asserts nothing.

use std::path::Path;
use std::process::Stdio;

use anyhow::Result;
use e2e::Platform;
use e2e::host::run as run_command;
use e2e::platform::Build;

use crate::{image_dir, images, release, setup};

/// Room for the fleets of probed pods.
const FLAGS: [&str; 4] = ["--max-pods", "600", "--pod-cidr", "10.244.0.0/22"];

/// Prepares a host with images, then lets the `bench` program start and
/// measure the platform there.
///
/// # Errors
/// When a step fails.
pub(crate) fn run(root: &Path, rounds: usize, only: Option<&str>) -> Result<()> {
    setup::packages(&[setup::Tool::Ip, setup::Tool::Nft, setup::Tool::Kubectl])?;
    images::run(&image_dir(root))?;
    let release = release(root)?;
    let build = Build {
        binary: release.join("lifepod"),
        images: image_dir(root),
    };
    // A first start makes keys and kubeconfig, and takes the images in.
    let mut platform = Platform::start_with("bench", &build, &FLAGS)?;
    platform.stop()?;

    let mut bench = platform.host.command(&release.join("bench").to_string_lossy());
    bench
        .arg("--kubeconfig")
        .arg(platform.kubeconfig())
        .arg("--data-dir")
        .arg(platform.data_dir());
    bench.args(["--rounds", &rounds.to_string()]);
    if let Some(part) = only {
        bench.args(["--only", part]);
    }
    bench.arg("--").arg(&build.binary);
    bench
        .args(["up", "--node-name", "node1", "--cgroup-root", platform.cgroup_root(), "--data-dir"])
        .arg(platform.data_dir())
        .args(FLAGS);
    let output = run_command(bench.env("LIFEPOD_LOG", "error").stderr(Stdio::inherit()))?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    platform.down()?;
    Ok(())
}
