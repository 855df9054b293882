//! Which name and password a pod's pull secrets hold for an image. Pure.
//!
//! Source: upstream `pkg/credentialprovider/{config,keyring}.go`,
//! `secrets/secrets.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::typed::Pod;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use runtime::Auth;
use runtime::image::Reference as ImageName;
use serde::Deserialize;

use crate::sources::{Content, Reference};

/// How secrets name the registry of images without one.
const DEFAULT_REGISTRY: &str = "index.docker.io";

#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

/// Every pull secret a pod names.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let named = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    named
        .filter(|secret| !secret.name.is_empty())
        .map(|secret| Reference::secret(&secret.name))
        .collect()
}

/// What to try for an image, the most specific first. A secret that cannot be
/// read says nothing, as upstream; the pull then fails and says so.
pub(crate) fn of(image: &str, secrets: &[Arc<Content>]) -> Vec<Auth> {
    let Ok(name) = image.parse::<ImageName>() else { return Vec::new() };
    let name = name.name();
    let entries: Vec<(String, Auth)> = secrets.iter().flat_map(|secret| read(secret)).collect();
    let mut matching: Vec<&(String, Auth)> = entries.iter().filter(|(key, _)| matches(key, &name)).collect();
    if matching.is_empty() && name.starts_with("docker.io/") {
        matching = entries
            .iter()
            .filter(|(key, _)| key.split('/').next() == Some(DEFAULT_REGISTRY))
            .collect();
    }
    // Longer keys are more specific; of equal ones the first secret's is first.
    matching.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    let mut auths = Vec::new();
    for (_, auth) in matching {
        if !auths.contains(auth) {
            auths.push(auth.clone());
        }
    }
    auths
}

fn read(secret: &Content) -> Vec<(String, Auth)> {
    let get = |key: &str| secret.data.get(key);
    let entries = match secret.secret_type.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => get(".dockerconfigjson")
            .and_then(|text| serde_json::from_slice::<Config>(text).ok())
            .map(|config| config.auths),
        Some("kubernetes.io/dockercfg") => get(".dockercfg").and_then(|text| serde_json::from_slice(text).ok()),
        _ => None,
    };
    let entries: BTreeMap<String, Entry> = entries.unwrap_or_default();
    entries
        .into_iter()
        .filter_map(|(key, entry)| Some((host_and_path(&key), entry.auth()?)))
        .collect()
}

impl Entry {
    /// `auth` wins over the two fields.
    fn auth(self) -> Option<Auth> {
        if self.auth.is_empty() {
            let Self { username, password, .. } = self;
            return (!username.is_empty()).then_some(Auth { username, password });
        }
        let decoded = STANDARD.decode(self.auth.trim()).ok()?;
        let text = String::from_utf8(decoded).ok()?;
        let (username, password) = text.split_once(':')?;
        Some(Auth {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }
}

/// A key without scheme, and without what stands for the API alone.
fn host_and_path(key: &str) -> String {
    let plain = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = plain.split_once('/').unwrap_or((plain, ""));
    let path = path.strip_prefix("v1/").or_else(|| path.strip_prefix("v2/")).unwrap_or(path);
    let path = path.trim_end_matches('/');
    if path.is_empty() || path == "v1" || path == "v2" {
        host.to_owned()
    } else {
        format!("{host}/{path}")
    }
}

/// `*` stands for a part of a host name between dots.
fn matches(key: &str, image: &str) -> bool {
    let (key_host, key_path) = key.split_once('/').unwrap_or((key, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    let port = |host: &str| {
        host.rsplit_once(':')
            .map_or((host.to_owned(), String::new()), |(h, p)| (h.to_owned(), p.to_owned()))
    };
    let ((key_host, key_port), (host, own_port)) = (port(key_host), port(host));
    let (key_parts, parts): (Vec<&str>, Vec<&str>) = (key_host.split('.').collect(), host.split('.').collect());
    key_port == own_port
        && key_parts.len() == parts.len()
        && key_parts.iter().zip(&parts).all(|(pattern, part)| glob(pattern, part))
        && path.starts_with(key_path)
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => text
            .strip_prefix(before)
            .is_some_and(|rest| (0..=rest.len()).any(|at| rest.is_char_boundary(at) && glob(after, &rest[at..]))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn secret(kind: &str, key: &str, value: &Value) -> Arc<Content> {
        Arc::new(Content {
            data: BTreeMap::from([(key.to_owned(), value.to_string().into_bytes())]),
            secret_type: Some(kind.to_owned()),
            ..Content::default()
        })
    }

    fn users(image: &str, auths: Value) -> Vec<String> {
        let secret = secret("kubernetes.io/dockerconfigjson", ".dockerconfigjson", &json!({ "auths": auths }));
        of(image, &[secret])
            .into_iter()
            .map(|auth| format!("{}:{}", auth.username, auth.password))
            .collect()
    }

    #[test]
    fn the_registry_of_the_image_decides() {
        let user = |name: &str| json!({ "username": name, "password": "p" });
        let auths = json!({
            "https://index.docker.io/v1/": user("hub"), "registry.example:5000": user("host"),
            "https://registry.example:5000/team": user("team"), "*.example.org": user("glob"),
        });
        assert_eq!(users("nginx", auths.clone()), ["hub:p"]);
        assert_eq!(users("registry.example:5000/x/y:1", auths.clone()), ["host:p"]);
        assert_eq!(users("registry.example:5000/team/y:1", auths.clone()), ["team:p", "host:p"]);
        assert_eq!(users("eu.example.org/x", auths.clone()), ["glob:p"]);
        for other in ["registry.example/x/y", "a.b.example.org/x", "example.org/x"] {
            assert_eq!(users(other, auths.clone()), Vec::<String>::new(), "{other}");
        }
    }

    #[test]
    fn both_forms_of_a_password_and_of_a_secret_are_read() {
        let encoded = STANDARD.encode("me:a:b");
        assert_eq!(
            users("r.io/x", json!({ "r.io": { "auth": encoded, "username": "not-me" } })),
            ["me:a:b"]
        );
        let old = secret(
            "kubernetes.io/dockercfg",
            ".dockercfg",
            &json!({ "r.io": { "username": "u", "password": "p" } }),
        );
        assert_eq!(of("r.io/x", &[old])[0].username, "u");
        let opaque = secret("Opaque", ".dockercfg", &json!({ "r.io": { "username": "u", "password": "p" } }));
        assert!(of("r.io/x", &[opaque]).is_empty());
    }
}
