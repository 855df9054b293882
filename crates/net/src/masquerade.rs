//! Source address translation for what leaves the pods' range, and the way to
//! the API server, as one nftables table of our own.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{BridgeName, Cidr, Redirect};

/// Where `nft` may be; a service's `PATH` often lacks the system directories.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

const NFT_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the kernel's ruleset could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    /// The program is not on this machine.
    #[error("the nft program is not installed; install the package nftables")]
    Missing,
    /// It could not be run to its end.
    #[error("running nft: {0}")]
    Run(io::Error),
    /// It refused.
    #[error("nft: {0}")]
    Refused(String),
}

/// Name of the table of one bridge.
pub(crate) fn table(bridge: &BridgeName) -> String {
    format!("lifepod_{bridge}")
}

/// The transaction that makes the table exactly so, whatever it was before.
///
/// Traffic between pods passes the bridge only and keeps its addresses.
pub(crate) fn rules(bridge: &BridgeName, range: Cidr, redirect: Option<&Redirect>) -> String {
    let removal = removal(bridge);
    let redirect = redirect.map(|redirect| redirect.chains(bridge)).unwrap_or_default();
    let table = table(bridge);
    format!(
        "{removal}table ip {table} {{\n\
         \tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority 100; policy accept;\n\
         \t\tip saddr {range} oifname != \"{bridge}\" masquerade\n\
         \t}}\n\
         {redirect}}}\n"
    )
}

/// The transaction that removes the table, or does nothing if there is none:
/// only what exists can be deleted, so it is declared first.
pub(crate) fn removal(bridge: &BridgeName) -> String {
    let table = table(bridge);
    format!("table ip {table}\ndelete table ip {table}\n")
}

/// Applies a transaction in the calling thread's network namespace.
pub(crate) fn apply(transaction: &str) -> Result<(), NftError> {
    run(&["-f", "-"], transaction).map(drop)
}

/// Whether the bridge's table exists in the calling thread's namespace.
pub(crate) fn exists(bridge: &BridgeName) -> Result<bool, NftError> {
    let wanted = format!("table ip {}", table(bridge));
    Ok(run(&["list", "tables"], "")?.lines().any(|line| line.trim() == wanted))
}

fn run(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut child = spawn(arguments)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has died already says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    if !ended(&child, NFT_TIMEOUT).map_err(NftError::Run)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(NftError::Refused(format!("no answer within {} s", NFT_TIMEOUT.as_secs())));
    }
    let status = child.wait().map_err(NftError::Run)?;
    let mut output = String::new();
    let mut complaint = String::new();
    child
        .stdout
        .take()
        .map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut output))
        .map_err(NftError::Run)?;
    child
        .stderr
        .take()
        .map_or(Ok(0), |mut pipe| pipe.read_to_string(&mut complaint))
        .map_err(NftError::Run)?;
    if status.success() {
        Ok(output)
    } else {
        Err(NftError::Refused(complaint.trim().to_owned()))
    }
}

fn spawn(arguments: &[&str]) -> Result<Child, NftError> {
    for program in PROGRAMS {
        match Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
        {
            Ok(child) => return Ok(child),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NftError::Run(error)),
        }
    }
    Err(NftError::Missing)
}

/// Waits for a child's end without reaping it; `false` after `timeout`. What
/// it prints fits the pipes: a line or two, or the names of all tables.
fn ended(child: &Child, timeout: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transaction_replaces_only_our_table() {
        let range = "10.88.0.0/24".parse().unwrap();
        let text = rules(&BridgeName::default(), range, None);
        assert_eq!(
            text,
            "table ip lifepod_lifepod0\n\
             delete table ip lifepod_lifepod0\n\
             table ip lifepod_lifepod0 {\n\
             \tchain postrouting {\n\
             \t\ttype nat hook postrouting priority 100; policy accept;\n\
             \t\tip saddr 10.88.0.0/24 oifname != \"lifepod0\" masquerade\n\
             \t}\n\
             }\n"
        );
        let redirect = Redirect {
            service: "10.96.0.1:443".parse().unwrap(),
            target: "10.88.0.1:6443".parse().unwrap(),
        };
        let with = rules(&BridgeName::default(), range, Some(&redirect));
        let chains = "\tchain prerouting {\n\
             \t\ttype nat hook prerouting priority -100; policy accept;\n\
             \t\tiifname \"lifepod0\" ip daddr 10.96.0.1 tcp dport 443 dnat to 10.88.0.1:6443\n\
             \t}\n\
             \tchain output {\n\
             \t\ttype nat hook output priority -100; policy accept;\n\
             \t\tip daddr 10.96.0.1 tcp dport 443 dnat to 10.88.0.1:6443\n\
             \t}\n\
             }\n";
        assert_eq!(
            Some(with.as_str()),
            text.strip_suffix("}\n").map(|start| format!("{start}{chains}")).as_deref()
        );
    }
}
