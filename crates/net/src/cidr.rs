//! A range of IPv4 addresses in CIDR form.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An IPv4 range a node hands pod addresses out of: `10.88.0.0/24`.
///
/// The prefix is 8 to 30 bits long and no host bits are set. The first address
/// belongs to the network, the last is broadcast, the second is the bridge's;
/// the others are for pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    base: Ipv4Addr,
    prefix_bits: u8,
}

/// A text that is not a usable [`Cidr`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCidr {
    /// Not `a.b.c.d/n`.
    #[error("{0:?} is not an IPv4 range such as 10.88.0.0/24")]
    Shape(String),
    /// Too small for a bridge and one pod, or absurdly large.
    #[error("{0:?} cannot serve pods: the prefix must be 8 to 30 bits long")]
    Prefix(String),
    /// An address inside the range instead of the range.
    #[error("{given:?} names an address, not a range: write {meant}")]
    HostBits {
        /// What was given.
        given: String,
        /// The range that holds it.
        meant: Cidr,
    },
}

impl Cidr {
    /// The prefix length in bits.
    #[must_use]
    pub fn prefix_bits(self) -> u8 {
        self.prefix_bits
    }

    /// The bridge's address: the first usable one.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.at(1)
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.base)
    }

    /// How many addresses the range has for pods.
    #[must_use]
    pub fn pods(self) -> u32 {
        (!self.mask()) - 2
    }

    /// The `index`-th pod address, counted from 0 and around the end.
    #[must_use]
    pub fn pod(self, index: u32) -> Ipv4Addr {
        self.at(2 + index % self.pods())
    }

    /// Which pod address this is; `None` for any other address.
    #[must_use]
    pub fn pod_index(self, address: Ipv4Addr) -> Option<u32> {
        let index = u32::from(address).checked_sub(u32::from(self.base))?.checked_sub(2)?;
        (index < self.pods()).then_some(index)
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base) + offset)
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - self.prefix_bits)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || InvalidCidr::Shape(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(shape)?;
        let address: Ipv4Addr = address.parse().map_err(|_| shape())?;
        let prefix_bits: u8 = prefix.parse().map_err(|_| shape())?;
        if !(8..=30).contains(&prefix_bits) {
            return Err(InvalidCidr::Prefix(text.to_owned()));
        }
        let base = Ipv4Addr::from(u32::from(address) & (u32::MAX << (32 - prefix_bits)));
        let range = Self { base, prefix_bits };
        if base == address {
            Ok(range)
        } else {
            Err(InvalidCidr::HostBits {
                given: text.to_owned(),
                meant: range,
            })
        }
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(range: Cidr) -> Self {
        range.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_parts() {
        let range: Cidr = "10.88.4.0/22".parse().unwrap();
        assert_eq!(range.gateway(), Ipv4Addr::new(10, 88, 4, 1));
        assert_eq!(range.pods(), 1021);
        assert_eq!(range.pod(0), Ipv4Addr::new(10, 88, 4, 2));
        assert_eq!(range.pod(1020), Ipv4Addr::new(10, 88, 7, 254));
        assert_eq!(range.pod(1021), range.pod(0));
        assert!(range.contains(Ipv4Addr::new(10, 88, 7, 255)) && !range.contains(Ipv4Addr::new(10, 88, 8, 0)));
        for other in [
            range.gateway(),
            Ipv4Addr::new(10, 88, 4, 0),
            Ipv4Addr::new(10, 88, 7, 255),
            Ipv4Addr::new(10, 88, 3, 9),
        ] {
            assert_eq!(range.pod_index(other), None, "{other}");
        }
        assert_eq!("10.0.0.0/30".parse::<Cidr>().unwrap().pods(), 1);
    }

    #[test]
    fn a_bad_range_is_refused_with_what_to_write() {
        for (text, want) in [
            ("10.0.0.0", "is not an IPv4 range"),
            ("fd00::/64", "is not an IPv4 range"),
            ("10.0.0.0/33", "must be 8 to 30"),
            ("10.0.0.0/31", "must be 8 to 30"),
            ("10.0.0.0/0", "must be 8 to 30"),
            ("10.0.0.7/24", "write 10.0.0.0/24"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        }
    }
}
