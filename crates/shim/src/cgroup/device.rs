//! Which device files a version 2 group may open or make.
//!
//! Version 1 has a controller with files for this, which libcontainer sets.
//! Version 2 asks a program attached to the group instead. Without one, a
//! container that may make device nodes could make, and open, the node's disk.
//!
//! Source: Linux `cgroup-v2.rst`, "Device controller"; the list is the OCI
//! runtime specification's default devices, pseudo-terminals, and leave to
//! make (not open) any node.

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const DEVICE_CHARACTER: i32 = 2;
const ACCESS_MAKE: i32 = 1;

/// Character devices that may be opened: major, minor (`None`: any).
const ALLOWED: [(i32, Option<i32>); 9] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts
    (5, Some(1)), // console
];

/// One eBPF instruction. Source: Linux `instruction-set.rst`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Source register in the high half, destination in the low half.
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

const fn op(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        value,
    }
}

/// The program: register 1 points at `{access << 16 | type, major, minor}`.
/// Register 2 gets the type, 3 the access, 4 the major, 5 the minor number.
fn program() -> Vec<Instruction> {
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND_VALUE, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
        // Making a node of any kind, without opening it.
        op(JUMP_NOT_EQUAL, 3, 0, 2, ACCESS_MAKE),
        op(MOVE_VALUE, 0, 0, 0, 1),
        op(EXIT, 0, 0, 0, 0),
        // Where to jump is filled in below.
        op(JUMP_NOT_EQUAL, 2, 0, 0, DEVICE_CHARACTER),
    ];
    let decision = code.len() - 1;
    for (major, minor) in ALLOWED {
        match minor {
            Some(minor) => {
                code.push(op(JUMP_NOT_EQUAL, 4, 0, 3, major));
                code.push(op(JUMP_NOT_EQUAL, 5, 0, 2, minor));
            }
            None => code.push(op(JUMP_NOT_EQUAL, 4, 0, 2, major)),
        }
        code.extend([op(MOVE_VALUE, 0, 0, 0, 1), op(EXIT, 0, 0, 0, 0)]);
    }
    let refuse = code.len();
    code[decision].offset = i16::try_from(refuse - decision - 1).unwrap_or(i16::MAX);
    code.extend([op(MOVE_VALUE, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    code
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used.
#[repr(C)]
struct LoadRequest {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log: [u32; 2],
    log_buffer: u64,
    rest: [u64; 3],
}

/// `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct AttachRequest {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
/// Further programs of groups inside this one also have their say.
const ALLOW_MULTI: u32 = 2;

/// Attaches the program to the group at `dir`. It goes with the group.
pub(super) fn restrict(dir: &Path) -> io::Result<()> {
    let group = File::open(dir)?;
    let code = program();
    let load = LoadRequest {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(code.len()).map_err(io::Error::other)?,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        log_buffer: 0,
        rest: [0; 3],
    };
    // SAFETY: `load` is the start of a `bpf_attr`, the kernel takes missing
    // bytes as zero, and the memory it points at outlives the call.
    let loaded = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const load, size_of::<LoadRequest>()) };
    let loaded = i32::try_from(loaded).map_err(io::Error::other)?;
    if loaded < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = AttachRequest {
        target: group.as_raw_fd().unsigned_abs(),
        program: loaded.as_raw_fd().unsigned_abs(),
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: as above; both descriptors are open.
    let attached = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attach, size_of::<AttachRequest>()) };
    if attached < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn allowed(kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let context = [i64::from(access << 16 | kind), i64::from(major), i64::from(minor)];
        let code = program();
        let mut registers = [0_i64; 11];
        let mut at = 0_usize;
        loop {
            let i = code[at];
            let (destination, source) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let value = i64::from(i.value);
            at += 1;
            match i.code {
                LOAD_WORD => registers[destination] = context[usize::try_from(i.offset).unwrap() / 4],
                MOVE_REGISTER => registers[destination] = registers[source],
                MOVE_VALUE => registers[destination] = value,
                AND_VALUE => registers[destination] &= value,
                SHIFT_RIGHT => registers[destination] >>= value,
                JUMP_NOT_EQUAL if registers[destination] != value => at += usize::try_from(i.offset).unwrap(),
                JUMP_NOT_EQUAL => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn only_standard_devices_open() {
        const READ: i32 = 2;
        const WRITE: i32 = 4;
        assert!(allowed(DEVICE_CHARACTER, READ | WRITE, 1, 3), "null");
        assert!(allowed(DEVICE_CHARACTER, READ, 136, 77), "a pts");
        assert!(allowed(DEVICE_CHARACTER, READ | ACCESS_MAKE, 1, 9), "urandom");
        assert!(!allowed(DEVICE_CHARACTER, READ, 1, 1), "memory");
        assert!(!allowed(DEVICE_CHARACTER, READ, 5, 3));
        assert!(!allowed(1, READ, 254, 0), "a disk");
        assert!(!allowed(1, READ, 1, 3), "a block device with null's numbers");
        assert!(allowed(1, ACCESS_MAKE, 254, 0), "a node may be made");
        assert!(!allowed(1, READ | ACCESS_MAKE, 254, 0), "but not opened");
    }

    #[test]
    fn root_the_kernel_takes_the_program() {
        let Ok(trees) = super::super::Trees::detect() else { return };
        let Some(v2) = trees.v2.clone() else { return };
        let dir = v2.join(format!("lifepod-device-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let restricted = restrict(&dir);
        std::fs::remove_dir(&dir).unwrap();
        restricted.unwrap();
    }
}
