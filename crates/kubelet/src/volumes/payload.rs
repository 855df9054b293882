//! The files of volumes that carry content: ConfigMaps, Secrets, fields of the
//! pod, tokens, and all of these together. Pure.
//!
//! Source: upstream `pkg/volume/{configmap,secret,downwardapi,projected}`,
//! `MakePayload`, `CollectData`, `collectData`.

use std::collections::BTreeMap;

use api::typed::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection, WireQuantity};

use crate::environment::field;
use crate::sources::{Content, Found, Kind, Reference, SourceError};

/// Mode of files where neither the item nor the volume says. Source: Pod API
/// reference, `defaultMode`.
const MODE: i32 = 0o644;
/// Mode of tokens in a pod that says who its files belong to.
const TOKEN_MODE: i32 = 0o600;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// Its owner, where that is not root.
    pub(crate) uid: Option<u32>,
}

/// The files of a volume, by path in it.
pub(crate) type Payload = BTreeMap<String, File>;

/// What the content of a volume is taken from.
pub(crate) struct Around<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) found: &'a Found,
    pub(crate) allocatable: &'a BTreeMap<String, WireQuantity>,
    /// Tokens of a projected volume, by the index of their source.
    pub(crate) tokens: &'a BTreeMap<usize, Result<String, String>>,
}

/// Every object a volume takes its content from.
pub(crate) fn references(volume: &Volume) -> Vec<Reference> {
    let mut references = Vec::new();
    references.extend(volume.config_map.as_ref().map(|map| Reference::config_map(&map.name)));
    let secret = volume.secret.as_ref().and_then(|secret| secret.secret_name.as_deref());
    references.extend(secret.map(Reference::secret));
    for source in projections(volume) {
        references.extend(source.config_map.as_ref().map(|map| Reference::config_map(&map.name)));
        references.extend(source.secret.as_ref().map(|secret| Reference::secret(&secret.name)));
    }
    references.retain(|reference| !reference.name.is_empty());
    references
}

/// The tokens of a projected volume, by the index of their source.
pub(crate) fn tokens(volume: &Volume) -> impl Iterator<Item = (usize, &ServiceAccountTokenProjection)> {
    let sources = projections(volume).enumerate();
    sources.filter_map(|(index, source)| source.service_account_token.as_ref().map(|token| (index, token)))
}

fn projections(volume: &Volume) -> impl Iterator<Item = &VolumeProjection> {
    volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten())
}

/// The files of a volume; `None` for one that carries no content.
///
/// # Errors
/// In upstream's words; what is wrong with several sources is all said.
pub(crate) fn of(volume: &Volume, around: &Around<'_>) -> Result<Option<Payload>, String> {
    let mut payload = Payload::new();
    if let Some(map) = &volume.config_map {
        let reference = Reference::config_map(&map.name);
        around.keys(&mut payload, &reference, map.items.as_deref(), map.default_mode, map.optional)?;
    } else if let Some(secret) = &volume.secret {
        let reference = Reference::secret(secret.secret_name.as_deref().unwrap_or_default());
        around.keys(
            &mut payload,
            &reference,
            secret.items.as_deref(),
            secret.default_mode,
            secret.optional,
        )?;
    } else if let Some(downward) = &volume.downward_api {
        around
            .fields(&mut payload, downward.items.as_deref(), downward.default_mode)
            .map_err(|errors| aggregate(&errors))?;
    } else if let Some(projected) = &volume.projected {
        let mode = projected.default_mode;
        let mut errors = Vec::new();
        for (index, source) in projections(volume).enumerate() {
            if let Some(map) = &source.config_map {
                let reference = Reference::config_map(&map.name);
                errors.extend(
                    around
                        .keys(&mut payload, &reference, map.items.as_deref(), mode, map.optional)
                        .err(),
                );
            }
            if let Some(secret) = &source.secret {
                let reference = Reference::secret(&secret.name);
                errors.extend(
                    around
                        .keys(&mut payload, &reference, secret.items.as_deref(), mode, secret.optional)
                        .err(),
                );
            }
            if let Some(downward) = &source.downward_api {
                errors.extend(
                    around
                        .fields(&mut payload, downward.items.as_deref(), mode)
                        .err()
                        .into_iter()
                        .flatten(),
                );
            }
            if let Some(wanted) = &source.service_account_token {
                match around.tokens.get(&index) {
                    Some(Ok(token)) => drop(payload.insert(wanted.path.clone(), around.token(token, mode))),
                    Some(Err(error)) => errors.push(format!("failed to fetch token: {error}")),
                    None => errors.push("failed to fetch token: it was not asked for".to_owned()),
                }
            }
        }
        if !errors.is_empty() {
            return Err(aggregate(&errors));
        }
    } else {
        return Ok(None);
    }
    Ok(Some(payload))
}

/// As upstream joins several errors.
fn aggregate(errors: &[String]) -> String {
    match errors {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn bits(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(MODE)).unwrap_or_default() & 0o777
}

impl Around<'_> {
    fn content(&self, reference: &Reference, optional: Option<bool>) -> Result<Option<&Content>, String> {
        match self.found.get(reference) {
            Some(Ok(content)) => Ok(Some(content)),
            Some(Err(error)) if error.is_not_found() && optional == Some(true) => Ok(None),
            Some(Err(error)) => Err(error.to_string()),
            None => Err(SourceError::NotSynced { kind: reference.kind }.to_string()),
        }
    }

    fn keys(
        &self,
        payload: &mut Payload,
        reference: &Reference,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let Some(content) = self.content(reference, optional)? else {
            return Ok(());
        };
        let file = |data: &Vec<u8>, mode: Option<i32>| File {
            data: data.clone(),
            mode: bits(mode),
            uid: None,
        };
        let items = items.unwrap_or_default();
        if items.is_empty() {
            let all = content.data.iter().chain(&content.binary);
            payload.extend(all.map(|(key, data)| (key.clone(), file(data, mode))));
        }
        for item in items {
            match content.data.get(&item.key).or_else(|| content.binary.get(&item.key)) {
                Some(data) => drop(payload.insert(item.path.clone(), file(data, item.mode.or(mode)))),
                None if optional == Some(true) => {}
                None => {
                    return Err(match reference.kind {
                        Kind::ConfigMap => format!("configmap references non-existent config key: {}", item.key),
                        Kind::Secret => format!("references non-existent secret key: {}", item.key),
                    });
                }
            }
        }
        Ok(())
    }

    fn fields(&self, payload: &mut Payload, items: Option<&[DownwardAPIVolumeFile]>, mode: Option<i32>) -> Result<(), Vec<String>> {
        let mut errors = Vec::new();
        for item in items.unwrap_or_default() {
            let value = if let Some(selector) = &item.field_ref {
                field::of_pod(self.pod, &selector.field_path)
            } else if let Some(selector) = &item.resource_field_ref {
                // Its container is always named.
                field::resource(self.pod, &Container::default(), selector, self.allocatable)
            } else {
                continue;
            };
            match value {
                Ok(text) => {
                    let file = File {
                        data: text.into_bytes(),
                        mode: bits(item.mode.or(mode)),
                        uid: None,
                    };
                    payload.insert(item.path.clone(), file);
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Readable for the one user of the pod, or its group, and nobody else,
    /// where the pod has either.
    fn token(&self, token: &str, mode: Option<i32>) -> File {
        let user = the_user(self.pod);
        let narrow = user.is_some() || group(self.pod).is_some();
        File {
            data: token.as_bytes().to_vec(),
            mode: bits(if narrow { Some(TOKEN_MODE) } else { mode }),
            uid: user,
        }
    }
}

/// `spec.securityContext.fsGroup`.
pub(crate) fn group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    context.fs_group.and_then(|gid| u32::try_from(gid).ok())
}

/// The user all containers run as, if there is one.
/// Source: upstream `pkg/volume/util/util.go`, `FsUserFrom`.
fn the_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| {
        container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user)
            .or(of_pod)
    });
    let first = users.next()??;
    let same = users.all(|user| user == Some(first));
    same.then(|| u32::try_from(first).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    fn found(reference: Reference, data: &[(&str, &str)]) -> Found {
        let content = Content {
            data: data
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
                .collect(),
            ..Content::default()
        };
        Found::from([(reference, Ok(Arc::new(content)))])
    }

    /// Path, content, mode and owner.
    type Row = (String, String, u32, Option<u32>);

    fn files(volume: Value, security: Value, found: &Found) -> Result<Vec<Row>, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "namespace": "dev", "labels": { "a": "b" } },
            "spec": { "securityContext": security, "containers": [{ "name": "c", "resources": { "limits": { "memory": "2Mi" } } }] },
        }))
        .unwrap();
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume: Volume = serde_json::from_value(volume).unwrap();
        let tokens = tokens(&volume).map(|(index, _)| (index, Ok("secret-token".to_owned()))).collect();
        let around = Around {
            pod: &pod,
            found,
            allocatable: &BTreeMap::new(),
            tokens: &tokens,
        };
        let payload = of(&volume, &around)?.unwrap();
        let list = payload.into_iter();
        Ok(list
            .map(|(path, file)| (path, String::from_utf8(file.data).unwrap(), file.mode, file.uid))
            .collect())
    }

    fn file(path: &str, data: &str, mode: u32) -> Row {
        (path.to_owned(), data.to_owned(), mode, None)
    }

    #[test]
    fn keys_become_files_with_their_modes() {
        let all = found(Reference::config_map("m"), &[("a", "1"), ("b", "2")]);
        let whole = files(json!({ "configMap": { "name": "m", "defaultMode": 0o440 } }), json!({}), &all).unwrap();
        assert_eq!(whole, [file("a", "1", 0o440), file("b", "2", 0o440)]);
        let items = json!([{ "key": "b", "path": "x/y", "mode": 0o755 }]);
        let some = files(json!({ "configMap": { "name": "m", "items": items } }), json!({}), &all).unwrap();
        assert_eq!(some, [file("x/y", "2", 0o755)]);
    }

    #[test]
    fn what_is_missing_is_said_unless_it_may_be() {
        let none = Found::from([(
            Reference::secret("s"),
            Err(SourceError::NotFound {
                kind: Kind::Secret,
                name: "s".to_owned(),
            }),
        )]);
        let volume = |optional: bool| json!({ "secret": { "secretName": "s", "optional": optional } });
        assert_eq!(files(volume(false), json!({}), &none).unwrap_err(), "secret \"s\" not found");
        assert_eq!(files(volume(true), json!({}), &none).unwrap(), []);
        let empty = found(Reference::config_map("m"), &[]);
        let item = |optional: bool| json!({ "configMap": { "name": "m", "optional": optional, "items": [{ "key": "k", "path": "p" }] } });
        assert_eq!(
            files(item(false), json!({}), &empty).unwrap_err(),
            "configmap references non-existent config key: k"
        );
        assert_eq!(files(item(true), json!({}), &empty).unwrap(), []);
        let both = json!({ "projected": { "sources": [
            { "secret": { "name": "s" } }, { "configMap": { "name": "gone" } },
        ] } });
        assert_eq!(
            files(both, json!({}), &none).unwrap_err(),
            "[secret \"s\" not found, failed to sync configmap cache: timed out waiting for the condition]"
        );
    }

    #[test]
    fn a_projected_volume_is_all_of_its_sources() {
        let volume = json!({ "projected": { "defaultMode": 0o444, "sources": [
            { "serviceAccountToken": { "path": "token" } },
            { "configMap": { "name": "m", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
            { "downwardAPI": { "items": [
                { "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } },
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "mem", "resourceFieldRef": { "containerName": "c", "resource": "limits.memory", "divisor": "1Mi" }, "mode": 0o400 },
            ] } },
        ] } });
        let ca = found(Reference::config_map("m"), &[("ca.crt", "CA")]);
        let expected = [
            file("ca.crt", "CA", 0o444),
            file("labels", "a=\"b\"", 0o444),
            file("mem", "2", 0o400),
            file("namespace", "dev", 0o444),
            file("token", "secret-token", 0o444),
        ];
        assert_eq!(files(volume.clone(), json!({}), &ca).unwrap(), expected);
        let owned = files(volume.clone(), json!({ "runAsUser": 7 }), &ca).unwrap();
        assert_eq!(owned[4], ("token".to_owned(), "secret-token".to_owned(), 0o600, Some(7)));
        let grouped = files(volume, json!({ "fsGroup": 8 }), &ca).unwrap();
        assert_eq!(grouped[4], file("token", "secret-token", 0o600));
    }
}
