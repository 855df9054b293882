//! Where images of a registry are fetched: mirrors first, then the registry.
//!
//! ```yaml
//! registries:
//!   docker.io:
//!     mirrors: [http://127.0.0.1:5000]
//!   registry.example:
//!     insecure: true    # plain HTTP
//! ```

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::Deserialize;

use super::error::ImageError;

/// Largest configuration file read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration of registries. The default has no mirrors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registries {
    #[serde(default)]
    registries: BTreeMap<String, Registry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Registry {
    #[serde(default)]
    mirrors: Vec<Mirror>,
    #[serde(default)]
    insecure: bool,
}

/// `[http://|https://]host[:port]`, checked when read.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Mirror {
    host: String,
    plain: bool,
}

impl TryFrom<String> for Mirror {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let (host, plain) = if let Some(host) = text.strip_prefix("http://") {
            (host, true)
        } else if let Some(host) = text.strip_prefix("https://") {
            (host, false)
        } else {
            (text.as_str(), is_loopback(&text))
        };
        let host = host.strip_suffix('/').unwrap_or(host);
        let fits = !host.is_empty()
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
        if !fits {
            return Err(format!("mirror {text:?} is not of the form http://host:port or https://host:port"));
        }
        Ok(Self {
            host: host.to_owned(),
            plain,
        })
    }
}

/// One place to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port.
    pub(crate) host: String,
    /// HTTP instead of HTTPS.
    pub(crate) plain: bool,
    /// Not the registry itself.
    pub(crate) mirror: bool,
}

impl Registries {
    /// Reads a YAML or JSON file.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let failed = |reason: String| ImageError::Registries {
            path: path.to_owned(),
            reason,
        };
        let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
        if size > FILE_BYTES_MAX {
            return Err(failed(format!("it has {size} bytes, at most {FILE_BYTES_MAX} are read")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::parse(&text).map_err(failed)
    }

    /// Reads YAML, of which JSON is a part.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    /// Where to ask for images of `registry`, in order.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let configured = self.registries.get(registry);
        let mut endpoints: Vec<Endpoint> = configured
            .iter()
            .flat_map(|registry| &registry.mirrors)
            .map(|mirror| Endpoint {
                host: mirror.host.clone(),
                plain: mirror.plain,
                mirror: true,
            })
            .collect();
        let plain = is_loopback(registry) || configured.is_some_and(|registry| registry.insecure);
        endpoints.push(Endpoint {
            host: registry.to_owned(),
            plain,
            mirror: false,
        });
        endpoints
    }
}

/// Whether a registry is on this machine: then plain HTTP is as safe as any.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost"
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_before_the_registry() {
        let registries =
            Registries::parse("registries:\n  docker.io:\n    mirrors: [http://127.0.0.1:5000, https://mirror.example/]\n").unwrap();
        let hosts: Vec<_> = registries
            .endpoints("docker.io")
            .into_iter()
            .map(|e| (e.host, e.plain, e.mirror))
            .collect();
        assert_eq!(
            hosts,
            [
                ("127.0.0.1:5000".to_owned(), true, true),
                ("mirror.example".to_owned(), false, true),
                ("docker.io".to_owned(), false, false)
            ]
        );
    }

    #[test]
    fn json_is_read_too() {
        let registries = Registries::parse(r#"{"registries":{"r.example":{"insecure":true}}}"#).unwrap();
        assert!(registries.endpoints("r.example")[0].plain);
        assert!(!registries.endpoints("other.example")[0].plain);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let error = Registries::parse("registries:\n  docker.io:\n    mirorrs: []\n").unwrap_err();
        assert!(error.contains("mirorrs"), "{error}");
        let error = Registries::parse("registries:\n  docker.io:\n    mirrors: [ftp://x/y]\n").unwrap_err();
        assert!(error.contains("ftp://x/y"), "{error}");
    }

    #[test]
    fn loopback_is_plain() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1:80", "[::2]:5000", "127.0.0.1.example"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
