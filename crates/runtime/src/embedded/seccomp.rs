//! Which system calls a container may make: from a profile to the programs its
//! processes put on. Pure but for reading a profile of the node's own.
//!
//! `default.rs` holds `RuntimeDefault`, `profile.rs` the format of `Localhost`
//! profiles, `compile.rs` what both become.
//!
//! A process of another machine language than the node's own, such as a 32-bit
//! program on x86-64, is killed under any profile.

mod compile;
mod default;
mod profile;

use std::io::Read;
use std::path::Path;

use shim::seccomp::Filters;

use crate::Seccomp;

/// A profile is text for people; a longer file is something else.
const PROFILE_BYTES_MAX: u64 = 1 << 20;

/// The filters of a container with these capabilities (OCI names) in its
/// bounding set.
///
/// # Errors
/// A profile that cannot be read or says what cannot be done, for people.
pub(super) fn filters(choice: &Seccomp, capabilities: &[String]) -> Result<Filters, String> {
    let profile = match choice {
        Seccomp::Unconfined => return Ok(Filters::default()),
        Seccomp::RuntimeDefault => default::profile(capabilities),
        Seccomp::Localhost(path) => {
            let refused = |cause: &dyn std::fmt::Display| format!("cannot load seccomp profile {:?}: {cause}", path.display().to_string());
            let text = read(path).map_err(|cause| refused(&cause))?;
            profile::parse(&text).map_err(|cause| refused(&cause))?
        }
    };
    compile::compile(&profile)
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = std::fs::File::open(path)?;
    let mut text = Vec::new();
    file.take(PROFILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > PROFILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is longer than {PROFILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
