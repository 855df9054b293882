//! Processes outside of pods that the kernel kills because the machine has no
//! memory left: told of the node. A pod's own are told of the pod.
//!
//! Source: upstream `pkg/kubelet/oom/oom_watcher_linux.go`; the kernel's words,
//! since Linux 5.0, `mm/oom_kill.c`, `dump_oom_summary`; `/dev/kmsg`: Linux
//! `Documentation/ABI/testing/dev-kmsg`. Upstream tells only of victims in the
//! root cgroup, in which no service of a systemd machine is.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::execute::Ports;
use crate::node_events::NodeEvents;

const KERNEL_LOG: &str = "/dev/kmsg";
/// Longest record of the kernel's. Source: Linux `kernel/printk/internal.h`,
/// `PRINTKRB_RECORD_MAX` and `PRINTK_MESSAGE_MAX`.
const RECORD_BYTES_MAX: usize = 8 << 10;

/// Who was killed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Victim {
    /// The whole machine had no memory left, and not only a cgroup.
    is_global: bool,
    /// Its memory cgroup.
    group: String,
    /// The process.
    name: String,
    /// Its number on the node.
    pid: u64,
}

/// Reads one record of the kernel's log. Those that programs write there are
/// not the kernel's, whatever they say.
fn victim(record: &str) -> Option<Victim> {
    let (about, text) = record.lines().next()?.split_once(';')?;
    let priority: u32 = about.split(',').next()?.parse().ok()?;
    let is_kernels = priority >> 3 == 0;
    let summary = text.strip_prefix("oom-kill:").filter(|_| is_kernels)?;
    let (around, of) = summary.split_once(",task_memcg=")?;
    // A name may hold a comma; numbers end the line.
    let (group, of) = of.split_once(",task=")?;
    let (of, _) = of.rsplit_once(",uid=")?;
    let (name, pid) = of.rsplit_once(",pid=")?;
    Some(Victim {
        is_global: around.split(',').any(|word| word == "global_oom"),
        group: group.to_owned(),
        name: name.to_owned(),
        pid: pid.parse().ok()?,
    })
}

/// What is told of the node, if the victim is not in a pod of `uids`.
fn message(victim: &Victim, is_pod: impl Fn(&str) -> bool) -> Option<String> {
    let in_pod = victim.group.split('/').filter_map(|part| part.strip_prefix("pod")).any(is_pod);
    let Victim { name, pid, .. } = victim;
    (victim.is_global && !in_pod).then(|| format!("System OOM encountered, victim process: {name}, pid: {pid}"))
}

/// Tells of every victim from now on, until `shutdown`.
pub(crate) async fn watch(ports: Ports, events: NodeEvents, shutdown: CancellationToken) {
    let log = match open() {
        Ok(log) => log,
        Err(error) => {
            tracing::warn!(path = KERNEL_LOG, error = %error, "kills for want of memory outside of pods will not be told: the kernel's log cannot be read");
            return;
        }
    };
    let tell = |victim: Victim| {
        let is_pod = |uid: &str| ports.pods.all().iter().any(|(known, _)| known.as_str() == uid);
        if let Some(message) = message(&victim, is_pod) {
            events.warn("SystemOOM", message);
        }
    };
    tokio::select! {
        ended = follow(&log, tell) => if let Err(error) = ended {
            tracing::warn!(path = KERNEL_LOG, error = %error, "kills for want of memory outside of pods will not be told any more");
        },
        () = shutdown.cancelled() => {}
    }
}

/// The kernel's log from here on.
fn open() -> io::Result<AsyncFd<File>> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let mut log = File::options().read(true).custom_flags(flags).open(KERNEL_LOG)?;
    log.seek(SeekFrom::End(0))?;
    register(log)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for owners of a descriptor that close it early; a file is none"
)]
fn register(log: File) -> io::Result<AsyncFd<File>> {
    AsyncFd::new(log)
}

/// Reads records, one at a time as the kernel gives them, until the log ends.
async fn follow(log: &AsyncFd<File>, tell: impl Fn(Victim)) -> io::Result<()> {
    let mut record = vec![0; RECORD_BYTES_MAX];
    loop {
        let mut ready = log.readable().await?;
        let read = match ready.try_io(|log| log.get_ref().read(&mut record)) {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(read)) => read,
            // Overwritten before it was read: the next read goes on after it.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => continue,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => continue,
        };
        if let Some(victim) = victim(&String::from_utf8_lossy(&record[..read])) {
            tell(victim);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// As Linux 6.1 wrote them.
    const GLOBAL: &str = "6,1203,913745183,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/system.slice/cron.service,task=stress,pid=16713,uid=0\n SUBSYSTEM=x\n";
    const IN_POD: &str = "6,1204,913745184,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/lifepod/burstable/pod0b1e/c0,task=java,pid=7,uid=1000\n";
    const OF_CGROUP: &str = "6,1205,913745185,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/user.slice,task_memcg=/user.slice,task=python3,pid=99,uid=0\n";

    fn said(record: &str) -> Option<String> {
        message(&victim(record)?, |uid| uid == "0b1e")
    }

    #[test]
    fn only_the_machines_own_victims_are_told() {
        assert_eq!(
            said(GLOBAL).as_deref(),
            Some("System OOM encountered, victim process: stress, pid: 16713")
        );
        assert_eq!(said(IN_POD), None, "its pod tells of it");
        assert_eq!(
            said(&IN_POD.replace("pod0b1e", "podother")).as_deref(),
            Some("System OOM encountered, victim process: java, pid: 7")
        );
        assert_eq!(said(OF_CGROUP), None, "the machine had memory left");
        assert_eq!(said(&GLOBAL.replace("6,", "14,")), None, "a program wrote it");
        let odd = GLOBAL.replace("task=stress", "task=a,pid=1,uid=2");
        assert_eq!(
            said(&odd).as_deref(),
            Some("System OOM encountered, victim process: a,pid=1,uid=2, pid: 16713")
        );
        for other in [
            "",
            "6,1,2,-",
            "6,1,2,-;usb 1-1: new device",
            "6,1,2,-;oom-kill:constraint=CONSTRAINT_NONE",
        ] {
            assert_eq!(victim(other), None, "{other}");
        }
    }

    /// Each datagram is a record, as each read of the kernel's log is.
    #[tokio::test]
    async fn the_log_is_followed_record_by_record() {
        let (kernel, log) = UnixDatagram::pair().unwrap();
        log.set_nonblocking(true).unwrap();
        let log = register(File::from(OwnedFd::from(log))).unwrap();
        let mut kernel = File::from(OwnedFd::from(kernel));
        for record in ["6,1,2,-;usb 1-1: new device\n", GLOBAL, IN_POD, OF_CGROUP] {
            kernel.write_all(record.as_bytes()).unwrap();
        }
        let (told, mut names) = tokio::sync::mpsc::unbounded_channel();
        let all = async {
            for expected in ["stress", "java", "python3"] {
                assert_eq!(names.recv().await.as_deref(), Some(expected));
            }
        };
        tokio::select! {
            ended = follow(&log, |victim| told.send(victim.name).unwrap()) => panic!("the log goes on: {ended:?}"),
            () = all => {}
        }
    }
}
