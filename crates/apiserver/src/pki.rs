//! The cluster's own certificate authority, and what it signs.
//!
//! Keys are ECDSA P-256. Files that hold a key are written to a temporary
//! name with mode 0600, synced, and renamed.

pub mod request;

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::Time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

const CA_NAME: &str = "lifepod-ca";
const DAY: Duration = Duration::from_secs(86_400);
const CA_DAYS: u32 = 3_650;
const LEAF_DAYS: u32 = 365;

/// What can go wrong with keys and certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("cannot read {path}; check that it exists and who may read it")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Only one half of the authority is there.
    #[error(
        "{missing} is missing beside {present}; restore it, or remove both to make a new authority (every client certificate then has to be made anew)"
    )]
    Incomplete {
        /// The file that is there.
        present: PathBuf,
        /// The file that is not.
        missing: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{path} cannot be used: {why}; restore it, or remove it and its sibling to make a new authority")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate library refused.
    #[error("cannot make a certificate for {subject}")]
    Sign {
        /// Whose certificate.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// More than one group was asked for.
    #[error(
        "a client certificate for {user} was asked for with the groups {groups:?}; only one group per certificate can be encoded, and leaving out the others would silently take rights away"
    )]
    SeveralGroups {
        /// Whose certificate.
        user: String,
        /// What was asked for.
        groups: Vec<String>,
    },
    /// A request for a certificate is none.
    #[error("the request for a certificate cannot be used: {why}")]
    Request {
        /// What is wrong with it.
        why: String,
    },
    /// TLS would not take the certificate or key.
    #[error("TLS does not accept the {what}")]
    Tls {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct KeyedCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its private key, PKCS#8. A secret.
    pub key_pem: String,
}

impl std::fmt::Debug for KeyedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// The cluster's certificate authority.
pub struct Authority {
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority in `dir` (`ca.crt`, `ca.key`), or makes one there.
    ///
    /// # Errors
    /// When the files cannot be read or written, only one is there, or they
    /// do not belong together.
    pub fn open_or_create(dir: &Path, now: Time) -> Result<Self, PkiError> {
        let (certificate_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        match (certificate_path.exists(), key_path.exists()) {
            (true, true) => Self::open(&certificate_path, &key_path, now),
            // The key is written first, so a key alone is a creation that was
            // cut short: nothing can have been signed with it yet.
            (false, _) => Self::create(dir, &certificate_path, &key_path, now),
            (true, false) => Err(PkiError::Incomplete {
                present: certificate_path,
                missing: key_path,
            }),
        }
    }

    fn create(dir: &Path, certificate_path: &Path, key_path: &Path, now: Time) -> Result<Self, PkiError> {
        let sign = |source| PkiError::Sign {
            subject: CA_NAME.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(|source| PkiError::Write {
            path: dir.to_owned(),
            source,
        })?;
        let key = KeyPair::generate().map_err(sign)?;
        let params = ca_params(now);
        let certificate_pem = params.self_signed(&key).map_err(sign)?.pem();
        write_file(key_path, key.serialize_pem().as_bytes(), 0o600)?;
        write_file(certificate_path, certificate_pem.as_bytes(), 0o644)?;
        Ok(Self {
            certificate_pem,
            issuer: Issuer::new(params, key),
        })
    }

    fn open(certificate_path: &Path, key_path: &Path, now: Time) -> Result<Self, PkiError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|source| PkiError::Read {
                path: path.to_owned(),
                source,
            })
        };
        let damaged = |path: &Path, why: String| PkiError::Damaged {
            path: path.to_owned(),
            why,
        };
        let certificate_pem = read(certificate_path)?;
        let key = KeyPair::from_pem(&read(key_path)?).map_err(|error| damaged(key_path, error.to_string()))?;
        let der =
            CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|error| damaged(certificate_path, error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| damaged(certificate_path, error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(damaged(
                certificate_path,
                format!("it was not made with the key in {}", key_path.display()),
            ));
        }
        let name = parsed
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default();
        if name != CA_NAME {
            return Err(damaged(certificate_path, format!("its common name is {name:?}, not {CA_NAME:?}")));
        }
        let expires = Time::from_secs(parsed.validity().not_after.timestamp());
        if expires <= now {
            return Err(damaged(certificate_path, format!("it expired at {expires}")));
        }
        Ok(Self {
            certificate_pem,
            issuer: Issuer::new(ca_params(now), key),
        })
    }

    /// The authority's certificate, PEM: what clients verify servers with.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// A certificate for a server reached by `names` (DNS names and IP
    /// addresses).
    ///
    /// # Errors
    /// When a name is not one a certificate can hold.
    pub fn serving(&self, common_name: &str, names: &[String], now: Time) -> Result<KeyedCertificate, PkiError> {
        let mut params = leaf_params(common_name, now);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        for name in names {
            let san = match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(|source| PkiError::Sign {
                    subject: name.clone(),
                    source,
                })?),
            };
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        self.sign(common_name, &params)
    }

    /// A certificate that identifies `user` in `groups`.
    ///
    /// # Errors
    /// With more than one group: `rcgen` keeps one value per subject
    /// attribute, and the others would be lost without a word.
    pub fn client(&self, user: &str, groups: &[&str], now: Time) -> Result<KeyedCertificate, PkiError> {
        let mut params = leaf_params(user, now);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        match groups {
            [] => {}
            [group] => params.distinguished_name.push(DnType::OrganizationName, *group),
            several => {
                return Err(PkiError::SeveralGroups {
                    user: user.to_owned(),
                    groups: several.iter().map(|&group| group.to_owned()).collect(),
                });
            }
        }
        self.sign(user, &params)
    }

    fn sign(&self, subject: &str, params: &CertificateParams) -> Result<KeyedCertificate, PkiError> {
        let failed = |source| PkiError::Sign {
            subject: subject.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(KeyedCertificate {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// TLS for the HTTPS front: shows `serving`, asks for a client
    /// certificate of this authority, and lets callers without one through
    /// (they are told 401 where that matters).
    ///
    /// # Errors
    /// When TLS refuses the certificates.
    pub fn tls(&self, serving: &KeyedCertificate) -> Result<Arc<ServerConfig>, PkiError> {
        fn refused<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> PkiError {
            move |source| PkiError::Tls {
                what,
                source: Box::new(source),
            }
        }
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(refused("authority's certificate"))?;
        roots.add(ca).map_err(refused("authority's certificate"))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).allow_unauthenticated();
        let verifier = verifier.build().map_err(refused("client verifier"))?;
        let chain = vec![CertificateDer::from_pem_slice(serving.certificate_pem.as_bytes()).map_err(refused("serving certificate"))?];
        let key = PrivateKeyDer::from_pem_slice(serving.key_pem.as_bytes()).map_err(refused("serving key"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(refused("protocol versions"))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(refused("serving certificate"))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl Authority {
    /// TLS for a client that trusts servers of this authority and shows them
    /// `client`.
    ///
    /// # Errors
    /// When TLS refuses the certificates.
    pub fn client_tls(&self, client: &KeyedCertificate) -> Result<Arc<ClientConfig>, PkiError> {
        fn refused<E: std::error::Error + Send + Sync + 'static>(what: &'static str) -> impl Fn(E) -> PkiError {
            move |source| PkiError::Tls {
                what,
                source: Box::new(source),
            }
        }
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(refused("authority's certificate"))?;
        roots.add(ca).map_err(refused("authority's certificate"))?;
        let chain = vec![CertificateDer::from_pem_slice(client.certificate_pem.as_bytes()).map_err(refused("client certificate"))?];
        let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes()).map_err(refused("client key"))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(refused("protocol versions"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(refused("client certificate"))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// The cryptography everything here uses. Named, because two providers in one
/// binary make rustls' implicit default panic.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn ca_params(now: Time) -> CertificateParams {
    let mut params = named_params(CA_NAME, now, CA_DAYS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params
}

fn leaf_params(common_name: &str, now: Time) -> CertificateParams {
    let mut params = named_params(common_name, now, LEAF_DAYS);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

fn named_params(common_name: &str, now: Time, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // A day of slack for clients whose clock is behind.
    let (year, month, day) = date(now - DAY);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    let (year, month, day) = date(now + DAY * days);
    params.not_after = rcgen::date_time_ymd(year, month, day);
    params
}

fn date(time: Time) -> (i32, u8, u8) {
    let date = time.timestamp().to_zoned(jiff::tz::TimeZone::UTC).date();
    (i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
}

/// A kubeconfig for one cluster and one user. JSON, which is valid YAML.
#[must_use]
pub fn kubeconfig(server: &str, ca_pem: &str, user: &str, client: &KeyedCertificate) -> String {
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lifepod", "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&client.certificate_pem),
            "client-key-data": STANDARD.encode(&client.key_pem),
        }}],
        "contexts": [{"name": "lifepod", "context": {"cluster": "lifepod", "user": user}}],
        "current-context": "lifepod",
    });
    format!("{config:#}\n")
}

/// Writes a file so that it is there whole or not at all, with `mode`.
///
/// # Errors
/// When the disk refuses; nothing is left behind then.
pub fn write_file(path: &Path, contents: &[u8], mode: u32) -> Result<(), PkiError> {
    let failed = |source| PkiError::Write {
        path: path.to_owned(),
        source,
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
    })();
    if written.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests;
