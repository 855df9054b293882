//! `lifepod secrets`: the key Secrets are encrypted with.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use apiserver::sealed::{Keys, Sealed};

use crate::flags::Secrets;
use crate::layout::{Layout, Lock};

/// Does what a command says.
pub(crate) async fn run(command: Secrets) -> Result<()> {
    match command {
        Secrets::RotateKey { data } => rotate(&Layout::new(&data.data_dir)?).await,
    }
}

/// Encrypts every Secret with a new key, and forgets the old ones. Cut short
/// at any point, both keys are in the file and every Secret can be read.
async fn rotate(layout: &Layout) -> Result<()> {
    if !layout.store().exists() {
        bail!("there is nothing stored in {}", layout.root().display());
    }
    let _lock = Lock::take(layout)?;
    let path = layout.encryption_keys();
    let keys = Keys::open_or_create(&path)?.with_new()?;
    keys.write(&path)?;
    let directory = layout.store();
    let store = tokio::task::spawn_blocking(move || store::Embedded::open(&directory, store::Options::default())).await??;
    let store = Arc::new(store);
    let resealed = Sealed::new(store.clone(), keys.clone()).reseal().await;
    let closed = store.close().await;
    let resealed = resealed.context("encrypting the stored Secrets; the old keys are kept")?;
    closed.context("closing the store; the old keys are kept")?;
    if let Some((key, why)) = resealed.unreadable.first() {
        bail!(
            "{} of the stored Secrets cannot be decrypted, the first at {key}: {why}; the old keys are kept. Put the lost key back, or delete \
             them: kubectl delete --raw '/api/v1/namespaces/NAMESPACE/secrets/NAME?ignoreStoreReadErrorWithClusterBreakingPotential=true'",
            resealed.unreadable.len()
        );
    }
    keys.newest_only().write(&path)?;
    println!(
        "{} Secrets are encrypted with the new key {}; the old keys are gone",
        resealed.count,
        keys.newest()
    );
    Ok(())
}
