//! `lifepod down`: ends the platform and removes what it made on this host.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kubelet::Drain;
use runtime::embedded::UserIds;
use runtime::image::PullOptions;
use rustix::process::{Pid, Signal, kill_process};

use crate::flags::{Down, Up};
use crate::layout::{Layout, Lock};
use crate::platform::Platform;
use crate::settings::Settings;
use crate::{node, preflight};

/// What stopping pods may take beyond their grace.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// How long a running `lifepod up` may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Stops, removes, and tells what was removed. Objects and images stay.
pub(crate) async fn run(down: Down) -> Result<()> {
    preflight::check()?;
    let layout = Layout::new(&down.data.data_dir)?;
    if !layout.exists() {
        bail!("there is no data directory {}; nothing is to be removed", layout.root().display());
    }
    let mut lock = take_over(&layout).await?;
    let Some(settings) = Settings::read(&layout)? else {
        println!("nothing of {} is on this host", layout.root().display());
        return Ok(());
    };
    if down.grace > 0 {
        drop(lock);
        if let Err(error) = stop_pods(&down, &layout).await {
            eprintln!("the pods are not stopped by their grace but killed: {error:#}");
        }
        lock = take_over(&layout).await?;
    }
    let _lock = lock;
    // Nobody gets ids any more.
    let user_ids = UserIds::for_pods(0);
    let parts = node::open(&settings, preflight::host_ip(), None, PullOptions::default(), user_ids, &layout).await?;
    let removed = node::purge(&parts, &layout).await?;
    println!(
        "removed {removed} pods from this host; objects and images stay in {}",
        layout.root().display()
    );
    Ok(())
}

/// Lets the pods stop by their grace: with a platform as the last one was,
/// whose node says that it is shutting down.
async fn stop_pods(down: &Down, layout: &Layout) -> Result<()> {
    let mut up = Up::last(layout)?;
    up.data = down.data.clone();
    let (grace, critical) = (
        Duration::from_secs(down.grace),
        Duration::from_secs(down.grace_critical.min(down.grace)),
    );
    let mut platform = Platform::start_with(&up, Some(Drain { grace, critical })).await?;
    let stopped = tokio::time::timeout(grace + DRAIN_LIMIT, platform.drained()).await;
    platform.stop().await;
    stopped.with_context(|| format!("they did not stop within {} s", grace.as_secs()))?
}

/// The data directory's lock, after the process that held it has ended.
async fn take_over(layout: &Layout) -> Result<Lock> {
    let holder = match Lock::try_take(layout)? {
        Ok(lock) => return Ok(lock),
        Err(pid) => pid,
    };
    let pid = i32::try_from(holder).ok().and_then(Pid::from_raw);
    let pid = pid.with_context(|| {
        format!(
            "{} is in use, by a process that left no id; end it, then run this again",
            layout.root().display()
        )
    })?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {holder}"))?;
    let waiting = async {
        loop {
            if let Ok(lock) = Lock::try_take(layout)? {
                return Ok(lock);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(STOP_LIMIT, waiting).await {
        Ok(result) => result,
        Err(_) => {
            bail!("process {holder} did not end within {STOP_LIMIT:?} of SIGTERM; end it with `kill -9 {holder}`, then run this again")
        }
    }
}
