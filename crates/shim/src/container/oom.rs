//! Which process died when memory ran out: the container's first, or another.
//!
//! The kernel counts kills and does not say whom it killed. A count that grew
//! while the first process lives on, and is not dying, was another's.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use crate::cgroup::{OomNotice, Trees};

/// The kernel tells before it kills, and a killed process takes its time to
/// go: so long is waited before each look, and so often is looked.
const LOOK_AFTER: Duration = Duration::from_millis(50);
const LOOKS_MAX: u32 = 20;

/// Linux `PF_EXITING`, of the flags in `/proc/<pid>/stat`.
const EXITING: u64 = 4;

/// What is known of a container's memory.
#[derive(Debug, Default)]
pub(super) struct Oom {
    notice: Option<OomNotice>,
    /// Kills that were not of the first process.
    of_others: u64,
    look_at: Option<Instant>,
    looks: u32,
}

impl Oom {
    /// Watches a container's group. A kernel that cannot tell lets kills be
    /// counted when the container ends.
    pub(super) fn watch(trees: &Trees, group: &Path) -> Self {
        let notice = trees.oom_notice(group).unwrap_or_else(|cause| {
            eprintln!("watching the memory of {}: {cause}", group.display());
            None
        });
        Self { notice, ..Self::default() }
    }

    pub(super) fn of_others(&self) -> u64 {
        self.of_others
    }

    pub(super) fn descriptor(&self) -> Option<&OwnedFd> {
        match self.notice.as_ref()? {
            OomNotice::Counter(fd) | OomNotice::File(fd) => Some(fd),
        }
    }

    pub(super) fn flags(&self) -> PollFlags {
        match self.notice {
            Some(OomNotice::File(_)) => PollFlags::PRI,
            Some(OomNotice::Counter(_)) | None => PollFlags::IN,
        }
    }

    pub(super) fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// Takes the notice, so that the next one is seen, and looks soon.
    pub(super) fn on_notice(&mut self, now: Instant) {
        let taken = match &self.notice {
            Some(OomNotice::Counter(fd)) => rustix::io::read(fd, &mut [0; 8]).is_ok(),
            Some(OomNotice::File(file)) => rustix::io::pread(file, &mut [0; 512], 0).is_ok(),
            None => return,
        };
        if !taken {
            // Its group is gone; it would be urgent for ever.
            self.notice = None;
        }
        self.look_at.get_or_insert(now + LOOK_AFTER);
        self.looks = 0;
    }

    /// Looks, if it is time; whether another process than the first was killed
    /// since the last look. `kills` is what the kernel has counted.
    pub(super) fn look(&mut self, now: Instant, first: i32, kills: impl FnOnce() -> u64) -> bool {
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        self.looks += 1;
        let kills = kills();
        let grown = kills > self.of_others;
        if grown && !is_dying(first) {
            self.of_others = kills;
            self.look_at = None;
            return true;
        }
        // Not killed yet, or the first process is about to end: that settles it.
        self.look_at = (self.looks < LOOKS_MAX).then(|| now + LOOK_AFTER);
        false
    }

    /// The first process has ended by `signal`; whether for want of memory.
    /// Kills of others that went unnoticed are counted now.
    pub(super) fn ended(&mut self, signal: Option<i32>, kills: u64) -> bool {
        self.look_at = None;
        self.notice = None;
        let since = kills.saturating_sub(self.of_others);
        let was_it = signal == Some(libc::SIGKILL) && since > 0;
        self.of_others += since - u64::from(was_it);
        was_it
    }
}

/// Whether a process is gone, going, or has SIGKILL before it.
fn is_dying(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map(|(_, rest)| rest.split(' ').collect())
        .unwrap_or_default();
    let exiting = fields
        .get(6)
        .and_then(|flags| flags.parse::<u64>().ok())
        .is_none_or(|flags| flags & EXITING != 0);
    let dead = fields.first().is_none_or(|state| matches!(*state, "Z" | "X"));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kill = 1_u64 << (libc::SIGKILL - 1);
    let pending = |name: &str| {
        let set = status.lines().find_map(|line| line.strip_prefix(name));
        set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
            .is_some_and(|set| set & kill != 0)
    };
    exiting || dead || pending("SigPnd:") || pending("ShdPnd:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_anothers_while_the_first_process_lives() {
        let own = i32::try_from(std::process::id()).unwrap();
        let start = Instant::now();
        let (mut oom, later) = (Oom::default(), start + LOOK_AFTER);
        assert!(!oom.look(start, own, || 1), "nobody said a word");
        oom.look_at = Some(later);
        assert!(!oom.look(start, own, || 1), "too soon");
        assert!(!oom.look(later, own, || 0), "not killed yet");
        assert!(oom.look(later + LOOK_AFTER, own, || 1));
        assert_eq!((oom.of_others(), oom.look_at()), (1, None));
        // The next is of a first process that is gone: told by its end.
        oom.look_at = Some(later);
        assert!(!oom.look(later, 0, || 2));
        assert!(oom.ended(Some(libc::SIGKILL), 2));
        assert_eq!(oom.of_others(), 1);
    }

    #[test]
    fn an_end_is_for_want_of_memory_by_the_kernels_own_hand_only() {
        let ended = |signal, before, kills| {
            let mut oom = Oom {
                of_others: before,
                ..Oom::default()
            };
            (oom.ended(signal, kills), oom.of_others())
        };
        assert_eq!(ended(Some(libc::SIGKILL), 0, 1), (true, 0));
        assert_eq!(ended(Some(libc::SIGKILL), 1, 1), (false, 1), "killed later, by somebody");
        assert_eq!(ended(None, 0, 1), (false, 1), "a shell whose child was killed");
        assert_eq!(ended(Some(libc::SIGTERM), 0, 2), (false, 2));
        assert_eq!(ended(Some(libc::SIGKILL), 0, 3), (true, 2));
    }
}
