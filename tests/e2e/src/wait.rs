//! Waiting for a condition, with a bound and a name.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Calls `check` until it gives a value. Gives up after `limit`, and then says
/// what was awaited and what `check` saw last.
///
/// # Errors
/// When the time is up or `check` fails.
pub fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<std::result::Result<T, String>>) -> Result<T> {
    let started = Instant::now();
    loop {
        let seen = match check()? {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        if started.elapsed() > limit {
            bail!("gave up after {limit:?} waiting for {what}; last seen: {seen}");
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}
