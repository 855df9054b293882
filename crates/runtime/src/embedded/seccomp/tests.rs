use shim::seccomp::{Filters, Instruction};
use syscalls::Sysno;

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const LOG: u32 = 0x7ffc_0000;
/// Source: Linux `uapi/linux/audit.h`.
const ARCH: u32 = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };

/// A small classic BPF machine: what the kernel would answer to a call.
fn run(program: &[Instruction], arch: u32, call: u32, args: [u64; 6]) -> u32 {
    let mut seen = Vec::new();
    seen.extend(call.to_le_bytes());
    seen.extend(arch.to_le_bytes());
    seen.extend(0_u64.to_le_bytes());
    seen.extend(args.iter().flat_map(|arg| arg.to_le_bytes()));
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let (code, jt, jf, k) = program[at];
        let skip = |yes: bool| usize::from(if yes { jt } else { jf });
        at += 1;
        match code {
            0x20 => {
                let from = k as usize;
                accumulator = u32::from_le_bytes(seen[from..from + 4].try_into().unwrap());
            }
            0x05 => at += k as usize,
            0x15 => at += skip(accumulator == k),
            0x25 => at += skip(accumulator > k),
            0x35 => at += skip(accumulator >= k),
            0x54 => accumulator &= k,
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// The strictest answer, of equally strict ones the last.
fn answer(filters: &Filters, arch: u32, call: u32, args: [u64; 6]) -> u32 {
    let strictness = |answer: u32| (answer & 0xffff_0000).cast_signed();
    filters
        .0
        .iter()
        .map(|program| run(program, arch, call, args))
        .fold(ALLOW, |strictest, answer| {
            if strictness(answer) <= strictness(strictest) {
                answer
            } else {
                strictest
            }
        })
}

fn of(filters: &Filters, call: Sysno, first: u64) -> u32 {
    answer(filters, ARCH, u32::try_from(call.id()).unwrap(), [first, 0, 0, 0, 0, 0])
}

fn default(capabilities: &[&str]) -> Filters {
    let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).to_owned()).collect();
    filters(&Seccomp::RuntimeDefault, &capabilities).unwrap()
}

#[test]
fn every_name_of_the_default_is_a_call() {
    // Those of one machine only; a misspelt name would be left out in silence.
    let elsewhere: &[&str] = if cfg!(target_arch = "x86_64") {
        &[]
    } else {
        &[
            "access",
            "alarm",
            "arch_prctl",
            "chmod",
            "chown",
            "creat",
            "dup2",
            "epoll_create",
            "epoll_ctl_old",
            "epoll_wait",
            "epoll_wait_old",
            "eventfd",
            "fork",
            "futimesat",
            "get_thread_area",
            "getdents",
            "getpgrp",
            "inotify_init",
            "ioperm",
            "iopl",
            "lchown",
            "link",
            "lstat",
            "mkdir",
            "mknod",
            "modify_ldt",
            "open",
            "pause",
            "pipe",
            "poll",
            "readlink",
            "rename",
            "rmdir",
            "select",
            "set_thread_area",
            "signalfd",
            "stat",
            "symlink",
            "time",
            "unlink",
            "uretprobe",
            "utime",
            "utimes",
            "vfork",
        ]
    };
    let unknown: Vec<_> = default::names()
        .filter(|name| name.parse::<Sysno>().is_err() && !elsewhere.contains(name))
        .collect();
    assert_eq!(unknown, Vec::<&str>::new());
}

#[test]
fn the_default_lets_programs_run_and_keeps_the_host_closed() {
    let filters = default(&["CAP_CHOWN"]);
    for call in [
        Sysno::read,
        Sysno::execve,
        Sysno::openat,
        Sysno::futex,
        Sysno::exit_group,
        Sysno::capset,
    ] {
        assert_eq!(of(&filters, call, 0), ALLOW, "{call:?}");
    }
    for call in [
        Sysno::mount,
        Sysno::reboot,
        Sysno::init_module,
        Sysno::unshare,
        Sysno::setns,
        Sysno::bpf,
        Sysno::keyctl,
        Sysno::io_uring_setup,
    ] {
        assert_eq!(of(&filters, call, 0), ERRNO | 1, "{call:?}");
    }
    assert_eq!(of(&filters, Sysno::clone3, 0), ERRNO | 38, "C libraries go back to clone");
    assert_eq!(of(&filters, Sysno::clone, 0x0001_1200), ALLOW, "threads and processes");
    assert_eq!(of(&filters, Sysno::clone, 0x1000_0000), ERRNO | 1, "a user namespace");
    assert_eq!(of(&filters, Sysno::socket, 2), ALLOW);
    assert_eq!(of(&filters, Sysno::socket, 40), ERRNO | 1, "the machine's host");
    assert_eq!(of(&filters, Sysno::personality, 0xffff_ffff), ALLOW);
    assert_eq!(of(&filters, Sysno::personality, 0x0004_0000), ERRNO | 1, "no randomized addresses");
    assert_eq!(answer(&filters, 0x4000_0003, 0, [0; 6]), KILL_PROCESS, "32-bit programs");
    assert_eq!(answer(&filters, ARCH, 0x4000_0000, [0; 6]), ERRNO | 1, "x32 calls");
}

#[test]
fn a_capability_brings_its_calls() {
    assert_eq!(of(&default(&["CAP_SYS_TIME"]), Sysno::clock_settime, 0), ALLOW);
    assert_eq!(of(&default(&[]), Sysno::clock_settime, 0), ERRNO | 1);
    let admin = default(&["CAP_SYS_ADMIN"]);
    for call in [Sysno::mount, Sysno::clone3, Sysno::unshare] {
        assert_eq!(of(&admin, call, 0), ALLOW, "{call:?}");
    }
    assert_eq!(of(&admin, Sysno::clone, 0x1000_0000), ALLOW);
}

fn localhost(text: &str) -> Result<Filters, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.json");
    std::fs::write(&path, text).unwrap();
    filters(&Seccomp::Localhost(path), &[])
}

#[test]
fn a_profile_of_the_node_is_followed() {
    let filters = localhost(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [
            {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 17},
            {"names": ["sync"], "action": "SCMP_ACT_KILL_PROCESS"},
            {"names": ["getpid"], "action": "SCMP_ACT_LOG"},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["dup3"], "action": "SCMP_ACT_ERRNO",
             "args": [{"index": 0, "value": 3, "op": "SCMP_CMP_LT"}, {"index": 0, "value": 9, "op": "SCMP_CMP_GT"}]}]}"#,
    )
    .unwrap();
    let call = |call: Sysno, args| answer(&filters, ARCH, u32::try_from(call.id()).unwrap(), args);
    assert_eq!(call(Sysno::mkdirat, [0; 6]), ERRNO | 17);
    assert_eq!(call(Sysno::sync, [0; 6]), KILL_PROCESS);
    assert_eq!(call(Sysno::getpid, [0; 6]), LOG);
    assert_eq!(call(Sysno::read, [0; 6]), ALLOW);
    assert_eq!(call(Sysno::kill, [1, 9, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(call(Sysno::kill, [2, 9, 0, 0, 0, 0]), ALLOW, "conditions hold together");
    assert_eq!(call(Sysno::dup3, [2, 0, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(call(Sysno::dup3, [5, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(call(Sysno::dup3, [10, 0, 0, 0, 0, 0]), ERRNO | 1, "one argument twice: either");
}

#[test]
fn what_cannot_be_followed_is_refused() {
    for (text, why) in [
        ("{", "EOF"),
        (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, "SCMP_ACT_MAYBE"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#,
            "flags",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}"#, "listeners"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "SCMP_ACT_NOTIFY",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}}]}"#,
            "includes",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "argument",
        ),
    ] {
        let refusal = localhost(text).unwrap_err();
        assert!(
            refusal.starts_with("cannot load seccomp profile") && refusal.contains(why),
            "{refusal}"
        );
    }
    let missing = filters(&Seccomp::Localhost("/no/such/profile.json".into()), &[]).unwrap_err();
    assert_eq!(
        missing,
        "cannot load seccomp profile \"/no/such/profile.json\": No such file or directory (os error 2)"
    );
}

#[test]
fn unconfined_has_no_filter() {
    assert_eq!(filters(&Seccomp::Unconfined, &[]).unwrap(), Filters::default());
}
