//! What links are called, and the marks by which ours are known again.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use api::Uid;

/// Longest name the kernel gives a link: `IFNAMSIZ` less the final zero.
const LINK_NAME_MAX: usize = 15;

/// Name of the pod's end of its veth pair.
pub(crate) const POD_LINK: &str = "eth0";

/// How the names of the host's ends of pods' veth pairs begin.
pub const HOST_LINK_PREFIX: &str = "lp";

/// A name fit for a bridge, for an nftables table and for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeName(String);

/// A text that cannot name a bridge.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a bridge: 1 to 15 letters, digits, '-' and '_' can, beginning with a letter")]
pub struct InvalidBridgeName(pub String);

impl BridgeName {
    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BridgeName {
    fn default() -> Self {
        Self("lifepod0".to_owned())
    }
}

impl FromStr for BridgeName {
    type Err = InvalidBridgeName;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = text.len() <= LINK_NAME_MAX
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidBridgeName(text.to_owned()))
        }
    }
}

impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of the host's end of a pod's veth pair: `lp` and 52 bits of a hash of
/// the UID, which for the few hundred pods of a node do not collide.
pub(crate) fn host_link(uid: &Uid) -> String {
    format!("{HOST_LINK_PREFIX}{:013x}", fnv1a(uid.as_str().as_bytes()) >> 12)
}

/// Whether a link name has the shape [`host_link`] gives.
pub(crate) fn is_host_link(name: &str) -> bool {
    name.strip_prefix(HOST_LINK_PREFIX)
        .is_some_and(|rest| rest.len() == 13 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Link group all veths of one bridge carry. It stays on a link whose bridge
/// has gone, so that purging finds every one. Never 0, which is every link's.
pub(crate) fn link_group(bridge: &BridgeName) -> u32 {
    let hash = fnv1a(bridge.as_str().as_bytes()).to_be_bytes();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]).max(1)
}

/// Hardware address that goes with an IPv4 address. A reused address keeps its
/// hardware address, so no neighbour cache on the node is ever out of date.
/// `0a` marks it as locally administered.
pub(crate) fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    vec![0x0a, 0x58, a, b, c, d]
}

/// FNV-1a, 64 bits. UIDs are random already; this only shortens them.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_fnv1a() {
        // Test vectors of the algorithm's authors.
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn bridge_names_that_would_break_something_are_refused() {
        for bad in ["", "sixteen-letters-", "0bridge", "-x", "a b", "a/b", "a\"b", "br{"] {
            assert!(bad.parse::<BridgeName>().is_err(), "{bad:?}");
        }
        assert_eq!("lifepod0".parse(), Ok(BridgeName::default()));
    }

    proptest! {
        #[test]
        fn every_pod_gets_a_name_the_kernel_takes(uid in "[A-Za-z0-9][A-Za-z0-9-]{0,62}") {
            let name = host_link(&uid.parse().unwrap());
            prop_assert!(name.len() <= LINK_NAME_MAX);
            prop_assert!(is_host_link(&name));
        }

        #[test]
        fn other_links_are_not_taken_for_ours(name in "(eth|lo|veth|lp|lifepod|lp0123456789ab)[g-z0-9]{0,8}[g-z]") {
            prop_assert!(!is_host_link(&name));
        }
    }
}
