//! Filters on system calls: how the agent hands them over, and putting them on.
//!
//! The agent writes them into the attempt's directory before the attempt is
//! made; every process of the container puts them on last of all, commands of
//! `exec` as well. An attempt without the file is not run: a filter that got
//! lost must not become a container without one.
//!
//! ```text
//! file:    { length of the program in instructions (u16) { code (u16) jt (u8) jf (u8) k (u32) } }
//! ```
//!
//! Numbers are little-endian. No program at all is an unconfined container.

use std::io;
use std::path::Path;

use libc::{sock_filter, sock_fprog};

/// In the attempt's directory.
pub const SECCOMP_FILE: &str = "seccomp";

/// Bytes of one instruction in the file.
const INSTRUCTION_BYTES: usize = 8;
/// Most instructions of one program. Source: Linux `uapi/linux/bpf_common.h`, `BPF_MAXINSNS`.
const INSTRUCTIONS_MAX: usize = 4096;

/// One instruction: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// Classic BPF programs, put on in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(pub Vec<Vec<Instruction>>);

impl Filters {
    /// The file's content.
    ///
    /// # Errors
    /// A program that no kernel takes, for people.
    pub fn encode(&self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for program in &self.0 {
            let length = u16::try_from(program.len())
                .ok()
                .filter(|n| (1..=INSTRUCTIONS_MAX).contains(&usize::from(*n)));
            let length =
                length.ok_or_else(|| format!("a filter of {} instructions; at most {INSTRUCTIONS_MAX} are taken", program.len()))?;
            bytes.extend(length.to_le_bytes());
            for (code, jt, jf, k) in program {
                bytes.extend(code.to_le_bytes());
                bytes.extend([*jt, *jf]);
                bytes.extend(k.to_le_bytes());
            }
        }
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// A file that was cut short or is something else.
    pub fn decode(mut bytes: &[u8]) -> io::Result<Self> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the container's seccomp filters are cut short");
        let mut programs = Vec::new();
        while !bytes.is_empty() {
            let (length, rest) = bytes.split_first_chunk().ok_or_else(broken)?;
            let length = usize::from(u16::from_le_bytes(*length)) * INSTRUCTION_BYTES;
            let (program, rest) = rest.split_at_checked(length).filter(|_| length > 0).ok_or_else(broken)?;
            let (instructions, _) = program.as_chunks::<INSTRUCTION_BYTES>();
            programs.push(
                instructions
                    .iter()
                    .map(|[c0, c1, jt, jf, k0, k1, k2, k3]| {
                        (u16::from_le_bytes([*c0, *c1]), *jt, *jf, u32::from_le_bytes([*k0, *k1, *k2, *k3]))
                    })
                    .collect(),
            );
            bytes = rest;
        }
        Ok(Self(programs))
    }

    /// Those of an attempt.
    ///
    /// # Errors
    /// The file is not there or not whole.
    pub(crate) fn of_attempt(dir: &Path) -> io::Result<Self> {
        Self::decode(&std::fs::read(dir.join(SECCOMP_FILE))?)
    }

    /// Puts them on the calling process, for good. It must have `CAP_SYS_ADMIN`
    /// or have given up new privileges. Source: seccomp(2).
    ///
    /// # Errors
    /// The kernel's reason.
    pub(crate) fn put_on(&self) -> io::Result<()> {
        for program in &self.0 {
            let mut instructions: Vec<sock_filter> = program.iter().map(|&(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect();
            let filter = sock_fprog {
                len: u16::try_from(instructions.len()).map_err(io::Error::other)?,
                filter: instructions.as_mut_ptr(),
            };
            // SAFETY: the kernel copies `len` instructions from `filter`, which
            // outlives the call.
            let refused = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter) };
            if refused != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_come_back_as_they_were() {
        for filters in [
            Filters::default(),
            Filters(vec![vec![(0x20, 0, 0, 4), (0x15, 1, 255, u32::MAX)], vec![(6, 0, 0, 0x7fff_0000)]]),
        ] {
            assert_eq!(Filters::decode(&filters.encode().unwrap()).unwrap(), filters);
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let bytes = Filters(vec![vec![(6, 0, 0, 0x7fff_0000); 3]]).encode().unwrap();
        for end in 1..bytes.len() {
            assert!(Filters::decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        assert!(Filters::decode(&[0, 0]).is_err(), "a program without instructions");
        assert!(Filters(vec![Vec::new()]).encode().is_err());
        assert!(Filters(vec![vec![(6, 0, 0, 0); 4097]]).encode().is_err());
    }

    #[test]
    fn an_attempt_without_filters_is_not_an_unconfined_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Filters::of_attempt(dir.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
