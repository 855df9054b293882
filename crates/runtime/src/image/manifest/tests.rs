use super::*;

fn index(entries: &[(&str, &str, &str, char)]) -> Index {
    let manifests: Vec<serde_json::Value> = entries
        .iter()
        .map(|(os, architecture, variant, digit)| {
            serde_json::json!({
                "digest": format!("sha256:{}", digit.to_string().repeat(64)),
                "size": 1,
                "platform": { "os": os, "architecture": architecture, "variant": variant },
            })
        })
        .collect();
    let text = serde_json::json!({ "schemaVersion": 2, "manifests": manifests }).to_string();
    match Document::parse(text.as_bytes()).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("read as a manifest"),
    }
}

fn platform(architecture: &str) -> Platform {
    Platform {
        os: "linux".to_owned(),
        architecture: architecture.to_owned(),
        variant: String::new(),
    }
}

#[test]
fn the_hosts_platform_is_chosen() {
    let index = index(&[
        ("linux", "arm64", "v8", 'a'),
        ("windows", "amd64", "", 'b'),
        ("linux", "amd64", "v3", 'c'),
        ("linux", "amd64", "", 'd'),
    ]);
    assert!(index.choose(&platform("amd64")).unwrap().digest.hex().starts_with('d'));
    assert!(index.choose(&platform("arm64")).unwrap().digest.hex().starts_with('a'));
}

#[test]
fn a_missing_platform_is_told_with_what_there_is() {
    let index = index(&[("linux", "arm64", "v8", 'a'), ("unknown", "unknown", "", 'b')]);
    assert_eq!(index.choose(&platform("amd64")).unwrap_err(), "linux/arm64/v8");
}

#[test]
fn documents_are_told_apart_by_content_without_media_type() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let manifest = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":2}},"layers":null}}"#);
    assert!(matches!(Document::parse(manifest.as_bytes()), Ok(Document::Manifest(manifest)) if manifest.layers.is_empty()));
    let both = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":2}},"manifests":[]}}"#);
    assert_eq!(Document::parse(both.as_bytes()).unwrap_err(), "is both an index and a manifest");
}

#[test]
fn what_is_no_image_is_refused() {
    for (text, says) in [
        ("", "is not a manifest"),
        ("[]", "schema version 0"),
        (r#"{"schemaVersion":1}"#, "schema version 1"),
        (r#"{"schemaVersion":2,"mediaType":"text/plain"}"#, "text/plain"),
        (
            r#"{"schemaVersion":2,"config":{"digest":"../../etc/passwd","size":1}}"#,
            "invalid reference format",
        ),
    ] {
        let error = Document::parse(text.as_bytes()).unwrap_err();
        assert!(error.contains(says), "{text}: {error}");
    }
    let layers = vec![serde_json::json!({"digest": format!("sha256:{}", "0".repeat(64)), "size": 1}); LAYERS_MAX + 1];
    let text = serde_json::json!({"schemaVersion": 2, "config": layers[0], "layers": layers}).to_string();
    assert!(Document::parse(text.as_bytes()).unwrap_err().contains("501 layers"));
}

#[test]
fn configurations_with_nulls_are_read() {
    let text = r#"{"architecture":"amd64","os":"linux","config":{"Entrypoint":null,"Cmd":["sh"],"Env":null,"User":"1000:5","WorkingDir":"/w","StopSignal":"SIGQUIT"},"rootfs":{"diff_ids":null}}"#;
    let configuration = Configuration::parse(text.as_bytes()).unwrap();
    assert_eq!(
        configuration.config,
        ImageConfig {
            cmd: vec!["sh".to_owned()],
            user: "1000:5".to_owned(),
            working_dir: "/w".to_owned(),
            stop_signal: Some("SIGQUIT".to_owned()),
            ..ImageConfig::default()
        }
    );
    assert!(configuration.suits(&platform("amd64")));
    assert!(!configuration.suits(&platform("arm64")));
    let bare = Configuration::parse(br#"{"rootfs":{}}"#).unwrap();
    assert!(bare.suits(&platform("amd64")) && bare.config == ImageConfig::default());
}

#[test]
fn chain_ids_are_those_of_the_specification() {
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let chain = chain_ids(&[a.clone(), b.clone()]);
    assert_eq!(chain, [a.clone(), Digest::of(format!("{a} {b}").as_bytes())]);
    assert!(chain_ids(&[]).is_empty());
}

#[test]
fn only_layers_are_layers() {
    check_layer_type("application/vnd.docker.image.rootfs.diff.tar.gzip").unwrap();
    for (media_type, says) in [
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", "fetched from elsewhere"),
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.wasm.content.layer.v1+wasm", "not a container layer"),
    ] {
        assert!(check_layer_type(media_type).unwrap_err().contains(says), "{media_type}");
    }
}
