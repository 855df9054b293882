//! What [`Strategy::allocate`](super::Strategy::allocate) may give away.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::str::FromStr;

/// The shortest prefix: with more addresses than this, choosing one gets slow.
///
/// Source: upstream `cmd/kube-apiserver/app/options/validation.go`,
/// `maxCIDRBits`.
const PREFIX_MIN: u8 = 12;
/// The longest prefix that leaves an address beside the API server's own.
const PREFIX_MAX: u8 = 30;

/// The port under which every client of a cluster knows its API server.
const API_SERVER_PORT: u16 = 443;

/// What objects may be given, cluster-wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// An address in the range of Services. The first of the range is the API
    /// server's own.
    pub service: Ipv4Addr,
    /// Leading bits all addresses of Services share, 12 to 30.
    pub service_prefix: u8,
}

impl Default for Ranges {
    /// `10.96.0.0/12`, as kubeadm's default.
    fn default() -> Self {
        Self {
            service: Ipv4Addr::new(10, 96, 0, 0),
            service_prefix: PREFIX_MIN,
        }
    }
}

/// Text that is no range of Services.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// There is no `/`, or what stands around it are not an address and a number.
    #[error("the service range {text:?} is not an IPv4 range; write an address, a slash and a prefix length, such as 10.96.0.0/16")]
    Malformed {
        /// As given.
        text: String,
    },
    /// The prefix length leaves too many addresses or none.
    #[error("the service range {text:?} has the prefix length {prefix}; it must be {PREFIX_MIN} to {PREFIX_MAX}, such as 10.96.0.0/16")]
    Prefix {
        /// As given.
        text: String,
        /// What stands behind the slash.
        prefix: u8,
    },
}

impl FromStr for Ranges {
    type Err = RangeError;

    /// The range of Services as CIDR text, such as `10.96.0.0/16`.
    fn from_str(text: &str) -> Result<Self, RangeError> {
        let malformed = || RangeError::Malformed { text: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let service = address.parse().map_err(|_| malformed())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let service_prefix = prefix.parse().ok().filter(|_| digits).ok_or_else(malformed)?;
        if !(PREFIX_MIN..=PREFIX_MAX).contains(&service_prefix) {
            return Err(RangeError::Prefix {
                text: text.to_owned(),
                prefix: service_prefix,
            });
        }
        Ok(Self { service, service_prefix })
    }
}

impl Ranges {
    /// The lowest address of the range of Services.
    #[must_use]
    pub fn service_network(&self) -> Ipv4Addr {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.service_prefix)).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.service) & mask)
    }

    /// Address and port of the API server's own Service: the first of the range.
    #[must_use]
    pub fn api_server(&self) -> SocketAddrV4 {
        let first = u32::from(self.service_network()).saturating_add(1);
        SocketAddrV4::new(Ipv4Addr::from(first), API_SERVER_PORT)
    }

    /// How many addresses the range of Services holds; saturates.
    #[must_use]
    pub fn service_size(&self) -> u32 {
        1_u32.checked_shl(32 - u32::from(self.service_prefix)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_an_ipv4_cidr_that_leaves_addresses() {
        let parsed = |text: &str| {
            text.parse::<Ranges>()
                .map(|ranges| (ranges.service_network().to_string(), ranges.service_size()))
        };
        assert_eq!(parsed("10.96.0.0/12"), Ok(("10.96.0.0".to_owned(), 1 << 20)));
        assert_eq!(parsed("10.43.7.9/24"), Ok(("10.43.7.0".to_owned(), 256)));
        assert_eq!(Ranges::default(), "10.96.0.0/12".parse().unwrap());
        assert_eq!(Ranges::default().api_server().to_string(), "10.96.0.1:443");
        for text in [
            "",
            "10.96.0.0",
            "10.96.0.0/",
            "10.96.0.0/+16",
            "10.96.0/16",
            "fd00::/112",
            "10.96.0.0/16/1",
            "10.96.0.0/256",
            " 10.96.0.0/16",
        ] {
            let error = parsed(text).unwrap_err();
            assert_eq!(error, RangeError::Malformed { text: text.to_owned() });
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        for (text, prefix) in [("10.0.0.0/8", 8), ("10.0.0.0/31", 31)] {
            let error = parsed(text).unwrap_err();
            assert_eq!(
                error,
                RangeError::Prefix {
                    text: text.to_owned(),
                    prefix
                }
            );
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
