use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::authn;

const NOW: Time = Time::from_secs(1_800_000_000);

#[test]
fn a_reopened_authority_signs_what_the_first_one_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::open_or_create(dir.path(), NOW).unwrap();
    let again = Authority::open_or_create(dir.path(), NOW).unwrap();
    assert_eq!(first.certificate_pem(), again.certificate_pem());
    assert_eq!(fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(first.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .unwrap();
    let client = again.client("system:node:n1", &["system:nodes"], NOW).unwrap();
    let der = CertificateDer::from_pem_slice(client.certificate_pem.as_bytes()).unwrap();
    let at = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    verifier.verify_client_cert(&der, &[], at).unwrap();
    assert_eq!(
        authn::from_certificate(&der).unwrap(),
        authn::Identity::new("system:node:n1", &["system:nodes"])
    );
}

#[test]
fn a_second_group_is_refused_instead_of_lost() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), NOW).unwrap();
    let error = authority.client("admin", &["a", "b"], NOW).unwrap_err();
    assert!(matches!(error, PkiError::SeveralGroups { .. }), "{error}");
}

#[test]
fn halves_and_strangers_are_refused() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Authority::open_or_create(one.path(), NOW).unwrap();
    Authority::open_or_create(other.path(), NOW).unwrap();
    fs::copy(other.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::open_or_create(one.path(), NOW), Err(PkiError::Damaged { .. })));
    fs::remove_file(one.path().join("ca.key")).unwrap();
    assert!(matches!(
        Authority::open_or_create(one.path(), NOW),
        Err(PkiError::Incomplete { .. })
    ));
    let late = NOW + DAY * (CA_DAYS + 2);
    assert!(matches!(
        Authority::open_or_create(other.path(), late),
        Err(PkiError::Damaged { .. })
    ));
}

#[test]
fn a_creation_that_was_cut_short_is_done_again() {
    let dir = tempfile::tempdir().unwrap();
    write_file(&dir.path().join("ca.key"), b"half", 0o600).unwrap();
    let authority = Authority::open_or_create(dir.path(), NOW).unwrap();
    assert!(authority.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    Authority::open_or_create(dir.path(), NOW).unwrap();
}

#[test]
fn a_serving_certificate_makes_a_tls_front() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), NOW).unwrap();
    let serving = authority
        .serving("apiserver", &["127.0.0.1".into(), "localhost".into(), "localhost".into()], NOW)
        .unwrap();
    assert_eq!(
        authority.tls(&serving).unwrap().alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
    assert!(authority.serving("apiserver", &["a name\u{e9}".into()], NOW).is_err());
}

#[test]
fn a_kubeconfig_is_json_with_the_credentials_inline() {
    let client = KeyedCertificate {
        certificate_pem: "C".into(),
        key_pem: "K".into(),
    };
    let config: serde_json::Value = serde_json::from_str(&kubeconfig("https://127.0.0.1:6443", "CA", "admin", &client)).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(config["users"][0]["user"]["client-key-data"], STANDARD.encode("K"));
}

fn requested(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "system:node:n1");
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

#[test]
fn a_request_is_signed_for_what_it_asks_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), NOW).unwrap();
    let pem = requested(|params| {
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
        params.subject_alt_names.push(SanType::DnsName("n1".try_into().unwrap()));
    });
    let subject = request::read(&pem).unwrap();
    assert_eq!(
        (subject.common_name.as_str(), subject.organizations.as_slice()),
        ("system:node:n1", &["system:nodes".to_owned()][..])
    );
    assert_eq!(
        (subject.ip_addresses.as_slice(), subject.dns_names.as_slice()),
        (&["10.0.0.1".to_owned()][..], &["n1".to_owned()][..])
    );
    let usages = ["digital signature".to_owned(), "client auth".to_owned()];
    let signed = authority.sign_request(&pem, &usages, Duration::from_secs(3_600), NOW).unwrap();
    let der = CertificateDer::from_pem_slice(signed.as_bytes()).unwrap();
    assert_eq!(
        authn::from_certificate(&der).unwrap(),
        authn::Identity::new("system:node:n1", &["system:nodes"])
    );
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    assert_eq!(parsed.validity().not_after.timestamp(), 1_800_003_600);
    assert_eq!(parsed.validity().not_before.timestamp(), 1_799_999_700);
    let extended = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    assert!(!parsed.is_ca());

    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap())
        .unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .unwrap();
    let at = |seconds| rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    verifier.verify_client_cert(&der, &[], at(1_800_000_000)).unwrap();
    assert!(verifier.verify_client_cert(&der, &[], at(1_800_003_601)).is_err());
}

#[test]
fn what_is_no_request_is_not_signed() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(dir.path(), NOW).unwrap();
    let sign = |pem: &str, usage: &str| authority.sign_request(pem, &[usage.to_owned()], Duration::from_secs(3_600), NOW);
    assert!(matches!(sign("nothing", "client auth"), Err(PkiError::Request { .. })));
    assert!(matches!(
        sign(authority.certificate_pem(), "client auth"),
        Err(PkiError::Request { .. })
    ));
    assert!(matches!(sign(&requested(|_| {}), "cert sign"), Err(PkiError::Request { .. })));
    // Altered after it was signed by its key: one letter of the name.
    let pem = requested(|_| {});
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    let mut der = block.contents;
    let at = der.windows(2).position(|window| window == b"n1").unwrap();
    der[at + 1] = b'2';
    let altered = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        STANDARD.encode(der)
    );
    assert!(sign(&altered, "client auth").is_err());
    let ca = sign(
        &requested(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        "client auth",
    );
    if let Ok(ca) = ca {
        let der = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
        assert!(!X509Certificate::from_der(&der).unwrap().1.is_ca());
    }
}
