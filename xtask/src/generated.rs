//! Files that are made of other files, and committed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Writes a file, or, to `check`, fails when it is not as it should be.
///
/// # Errors
/// When the file cannot be read or written, or is out of date; that message
/// names the `task` that mends it.
pub(crate) fn keep(root: &Path, file: &str, text: &str, check: bool, task: &str) -> Result<()> {
    let path = root.join(file);
    if !check {
        return fs::write(&path, text).with_context(|| format!("writing {}", path.display()));
    }
    let committed = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    ensure!(
        committed == text,
        "{file} is not what it is made of says; write it anew with `cargo xtask {task}`"
    );
    Ok(())
}
