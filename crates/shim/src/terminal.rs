//! Terminals: made inside the container, held outside it.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::protocol::{HANDED_TERMINAL, TerminalSize};

/// The container's own multiplexer: its terminals are in its `/dev/pts`.
const MULTIPLEXER: &str = "/dev/pts/ptmx";

/// Makes a terminal, hands its controlling side over `socket`, and makes the
/// other the calling process' terminal and its three standard streams. The
/// process must lead a session that has no terminal, inside the container.
pub(crate) fn take(socket: BorrowedFd<'_>, size: TerminalSize) -> io::Result<()> {
    let ours = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(MULTIPLEXER)?;
    let theirs = other_side(&ours)?;
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size)?;
    rustix::process::ioctl_tiocsctty(&theirs)?;
    rustix::stdio::dup2_stdin(&theirs)?;
    rustix::stdio::dup2_stdout(&theirs)?;
    rustix::stdio::dup2_stderr(&theirs)?;
    hand_over(socket, HANDED_TERMINAL, Some(ours.as_fd()))
}

/// Unlocks and opens the side programs use, whatever is mounted where.
fn other_side(ours: &File) -> io::Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: the request reads one int, which lives for the call.
    if unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes its flags by value and makes a descriptor.
    let theirs = unsafe { libc::ioctl(ours.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if theirs < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(theirs) })
}

/// Sends `word`, and a descriptor with it, over a fresh socket.
pub(crate) fn hand_over(socket: BorrowedFd<'_>, word: u8, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        attached.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    sendmsg(socket, &[IoSlice::new(&[word])], &mut attached, SendFlags::NOSIGNAL)?;
    Ok(())
}
