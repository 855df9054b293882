use std::os::unix::fs::PermissionsExt;

use api::Time;

use super::claims::Bound;
use super::*;

fn of(name: &str) -> Bound {
    Bound {
        name: name.to_owned(),
        uid: format!("{name}-uid"),
    }
}

fn claims() -> Claims {
    Claims {
        audiences: vec!["a".to_owned(), "b".to_owned()],
        expires_s: 1_000,
        issued_s: 400,
        id: "j".to_owned(),
        namespace: "ns".to_owned(),
        account: of("sa"),
        pod: Some(of("pod")),
        secret: None,
        node: Some(of("node")),
        warn_after_s: Some(900),
    }
}

fn tokens() -> Tokens {
    Tokens::new(DEFAULT_ISSUER, "https://x/openid/v1/jwks", SigningKey::ephemeral().unwrap())
}

fn altered(token: &str, part: usize, change: impl Fn(&mut Value)) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[part]).unwrap()).unwrap();
    change(&mut value);
    parts[part] = URL_SAFE_NO_PAD.encode(value.to_string());
    parts.join(".")
}

#[test]
fn what_is_issued_is_read_back() {
    let tokens = tokens();
    let token = tokens.issue(&claims()).unwrap();
    for _ in 0..2 {
        assert_eq!(*tokens.read(&token).unwrap(), claims());
    }
    let mut bare = claims();
    (bare.pod, bare.node, bare.warn_after_s) = (None, None, None);
    assert_eq!(*tokens.read(&tokens.issue(&bare).unwrap()).unwrap(), bare);
}

#[test]
fn what_is_not_ours_is_not_read() {
    let tokens = tokens();
    let token = tokens.issue(&claims()).unwrap();
    let other = self::tokens();
    let unsigned = {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let payload = token.split('.').nth(1).unwrap();
        format!("{header}.{payload}.")
    };
    let elsewhere = Tokens::new("https://elsewhere", "", SigningKey::ephemeral().unwrap());
    let foreign = elsewhere.issue(&claims()).unwrap();
    let table = [
        (String::new(), TokenError::Malformed),
        ("a.b.c".to_owned(), TokenError::Malformed),
        ("..".to_owned(), TokenError::Malformed),
        ("a".repeat(20_000), TokenError::Malformed),
        (format!("{token}="), TokenError::Malformed),
        (unsigned, TokenError::Signature),
        (other.issue(&claims()).unwrap(), TokenError::Signature),
        (foreign.clone(), TokenError::Signature),
        (altered(&token, 0, |header| header["alg"] = json!("HS256")), TokenError::Signature),
        (altered(&token, 0, |header| header["alg"] = json!("es256")), TokenError::Signature),
        (altered(&token, 0, |header| header["kid"] = json!("")), TokenError::Signature),
        (
            altered(&token, 1, |payload| payload["exp"] = json!(9_000_000_000_i64)),
            TokenError::Signature,
        ),
        (token[..token.len() - 2].to_owned(), TokenError::Signature),
    ];
    for (text, error) in table {
        assert_eq!(tokens.read(&text).unwrap_err(), error, "{text:.80}");
    }
    let renamed = Tokens::new("https://new", "", SigningKey::ephemeral().unwrap());
    assert!(renamed.read(&foreign).is_err());
    // The same key under another name.
    let dir = tempfile::tempdir().unwrap();
    let key = |()| SigningKey::open_or_create(&dir.path().join("sa.key")).unwrap();
    let (one, two) = (Tokens::new("https://one", "", key(())), Tokens::new("https://two", "", key(())));
    assert_eq!(two.read(&one.issue(&claims()).unwrap()).unwrap_err(), TokenError::Issuer);
}

#[test]
fn the_key_is_kept_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sa.key");
    let first = SigningKey::open_or_create(&path).unwrap();
    let again = SigningKey::open_or_create(&path).unwrap();
    assert_eq!(first.id(), again.id());
    assert!(again.verifies(b"m", &first.sign(b"m").unwrap()));
    assert!(!again.verifies(b"n", &first.sign(b"m").unwrap()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "nothing").unwrap();
    let error = SigningKey::open_or_create(&path).map(|_| ()).unwrap_err();
    assert!(matches!(error, KeyError::Damaged { .. }), "{error}");
}

#[test]
fn time_is_taken_with_a_minute_of_slack() {
    let at = |s| claims().refused_at(Time::from_secs(s));
    assert_eq!(at(339), Some("service account token is not valid yet"));
    assert_eq!(at(340), None);
    assert_eq!(at(1_060), None);
    assert_eq!(at(1_061), Some("service account token has expired"));
    assert!(!claims().stale_at(Time::from_secs(900)));
    assert!(claims().stale_at(Time::from_secs(901)));
}

#[test]
fn a_bearer_is_who_upstream_says() {
    let identity = claims().identity();
    assert_eq!(identity.user, "system:serviceaccount:ns:sa");
    assert_eq!(identity.uid, "sa-uid");
    assert!(identity.is_in("system:serviceaccounts") && identity.is_in("system:serviceaccounts:ns"));
    let extra: Vec<String> = identity
        .extra
        .iter()
        .map(|(key, value)| format!("{key}={}", value.join(",")))
        .collect();
    assert_eq!(
        extra,
        [
            "authentication.kubernetes.io/credential-id=JTI=j",
            "authentication.kubernetes.io/node-name=node",
            "authentication.kubernetes.io/node-uid=node-uid",
            "authentication.kubernetes.io/pod-name=pod",
            "authentication.kubernetes.io/pod-uid=pod-uid",
        ]
    );
}

#[test]
fn only_so_many_tokens_are_remembered() {
    let mut seen = Seen::default();
    let shared = Arc::new(claims());
    for n in 0..(3 * REMEMBERED as u64) {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_le_bytes());
        seen.put(digest, Arc::clone(&shared));
        assert!(seen.get(&digest).is_some());
    }
    assert!(seen.young.len() + seen.old.len() <= 2 * REMEMBERED);
}

#[test]
fn keys_are_published_as_a_reader_needs_them() {
    let tokens = tokens();
    let jwks = tokens.jwks();
    let key = &jwks["keys"][0];
    assert_eq!(
        (&key["kty"], &key["crv"], &key["alg"]),
        (&json!("EC"), &json!("P-256"), &json!("ES256"))
    );
    // Verified with nothing but the published key.
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let token = tokens.issue(&claims()).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap())
        .unwrap();
    assert_eq!(tokens.discovery()["issuer"], DEFAULT_ISSUER);
}
