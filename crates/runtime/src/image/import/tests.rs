use std::fs;

use super::super::testing::{Tar, TestImage, descriptor, gzip, tree};
use super::*;

struct Scene {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(dir.path().join("images")).unwrap();
        Self { dir, store }
    }

    fn import(&self, archive: &[u8]) -> Result<Vec<String>, ImageError> {
        let path = self.dir.path().join("archive.tar");
        fs::write(&path, archive).unwrap();
        self.store.import(&path)
    }

    fn assert_empty(&self) {
        assert!(self.store.list().unwrap().is_empty());
        self.store.collect(&std::collections::HashSet::new()).unwrap();
        assert_eq!(fs::read_dir(self.dir.path().join("images/layers")).unwrap().count(), 0);
    }
}

fn two_layers() -> TestImage {
    TestImage::new(vec![
        Tar::new().directory("etc", 0o755).file("etc/a", "low").finish(),
        Tar::new().directory("etc", 0o755).file("etc/b", "high").finish(),
    ])
}

#[test]
fn oci_archives_plain_and_compressed() {
    for compress in [
        |bytes: Vec<u8>| bytes,
        |bytes: Vec<u8>| gzip(&bytes),
        |bytes: Vec<u8>| zstd::encode_all(bytes.as_slice(), 1).unwrap(),
    ] {
        let scene = Scene::new();
        let image = two_layers();
        assert_eq!(
            scene.import(&compress(image.oci_archive("app:1"))).unwrap(),
            ["docker.io/library/app:1"]
        );
        let stored = scene.store.lookup("app:1").unwrap().unwrap();
        assert_eq!(stored.image.id, image.id());
        assert_eq!(
            stored.image.digests,
            [format!("docker.io/library/app@{}", Digest::of(&image.manifest))]
        );
        assert_eq!(tree(&stored.layers[0]), ["etc", "etc/a"]);
        assert_eq!(fs::read_to_string(stored.layers[1].join("etc/b")).unwrap(), "high");
        assert_eq!(stored.config.env, ["A=b"]);
    }
}

#[test]
fn docker_save_archives() {
    let scene = Scene::new();
    let image = two_layers();
    let names = scene.import(&image.docker_archive(&["app:1", "quay.io/x/app:2"])).unwrap();
    assert_eq!(names, ["docker.io/library/app:1", "quay.io/x/app:2"]);
    let stored = scene.store.lookup("quay.io/x/app:2").unwrap().unwrap();
    assert_eq!((stored.image.id.clone(), stored.layers.len()), (image.id(), 2));
    // The same layers from another kind of archive are the same layers.
    scene.import(&image.oci_archive("again:1")).unwrap();
    assert_eq!(scene.store.lookup("again:1").unwrap().unwrap().layers, stored.layers);
}

#[test]
fn layout_directories_with_an_index_inside() {
    let scene = Scene::new();
    let image = two_layers();
    let layout = scene.dir.path().join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let mut of_host = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
    let host = Platform::host();
    of_host["platform"] = serde_json::json!({ "os": host.os, "architecture": host.architecture });
    let mut foreign = of_host.clone();
    foreign["digest"] = serde_json::json!(Digest::of(b"absent"));
    foreign["platform"]["architecture"] = serde_json::json!("s390x");
    let inner = serde_json::json!({ "schemaVersion": 2, "manifests": [foreign, of_host] })
        .to_string()
        .into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.index.v1+json", &inner);
    entry["annotations"] = serde_json::json!({ "org.opencontainers.image.ref.name": "example.org/app:3" });
    fs::write(
        layout.join("index.json"),
        serde_json::json!({ "schemaVersion": 2, "manifests": [entry] }).to_string(),
    )
    .unwrap();
    for blob in image.layers.iter().chain([&image.config, &image.manifest, &inner]) {
        fs::write(layout.join("blobs/sha256").join(Digest::of(blob).hex()), blob).unwrap();
    }
    assert_eq!(scene.store.import(&layout).unwrap(), ["example.org/app:3"]);
    assert_eq!(
        scene
            .store
            .lookup(&format!("example.org/app@{}", Digest::of(&inner)))
            .unwrap()
            .unwrap()
            .image
            .id,
        image.id()
    );
}

#[test]
fn what_is_not_an_archive_is_refused_with_a_reason() {
    let image = two_layers();
    let unnamed = String::from_utf8_lossy(&image.docker_archive(&[])).into_owned().into_bytes();
    for (archive, says) in [
        (b"hello".to_vec(), "archive.tar"),
        (Vec::new(), "neither an OCI image layout"),
        (Tar::new().file("a", "b").finish(), "neither an OCI image layout"),
        (Tar::new().file("index.json", "{}").finish(), "schema version 0"),
        (
            Tar::new().file("manifest.json", r#"[{"Config":"../../etc/passwd"}]"#).finish(),
            "outside itself",
        ),
        (
            Tar::new().file("manifest.json", r#"[{"Config":"gone.json"}]"#).finish(),
            "gone.json is missing",
        ),
        (unnamed, "has no name"),
        (image.docker_archive(&["Upper:1"]), "must be lowercase"),
    ] {
        let scene = Scene::new();
        let error = scene.import(&archive).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        scene.assert_empty();
    }
    let error = Scene::new().store.import(Path::new("/no/such/file")).unwrap_err();
    assert!(error.to_string().contains("/no/such/file"), "{error}");
}

#[test]
fn changed_content_is_refused() {
    let image = two_layers();
    for (at, what) in [
        (0, "uncompressed layer layer0/layer.tar"),
        (1, "uncompressed layer layer1/layer.tar"),
    ] {
        let mut changed = two_layers();
        changed.plain[at] = Tar::new().file("evil", "").finish();
        let scene = Scene::new();
        let error = scene.import(&changed.docker_archive(&["app:1"])).unwrap_err();
        assert!(
            matches!(&error, ImageError::DigestMismatch { what: which, .. } if which == what),
            "{error}"
        );
        scene.assert_empty();
    }
    let mut archive = image.oci_archive("app:1");
    let config = archive.windows(4).position(|window| window == b"A=b\"").unwrap();
    archive[config] = b'B';
    let scene = Scene::new();
    assert!(matches!(scene.import(&archive).unwrap_err(), ImageError::DigestMismatch { .. }));
    scene.assert_empty();
}

#[test]
fn images_for_other_machines_are_refused() {
    let scene = Scene::new();
    let image = TestImage::of_architecture(vec![Tar::new().finish()], "s390x");
    let error = scene.import(&image.oci_archive("app:1")).unwrap_err().to_string();
    let host = Platform::host();
    assert!(
        error.starts_with("no match for platform in manifest ")
            && error.ends_with(&format!("not found; this node is {host}, it offers linux/s390x")),
        "{error}"
    );
    scene.assert_empty();
}

#[test]
fn a_layer_beyond_the_limits_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let limits = super::super::Limits {
        archive_bytes: 100_000,
        entries: 5,
    };
    let store = ImageStore::open_with(dir.path().join("images"), limits).unwrap();
    let import = |layer: Vec<u8>| {
        let path = dir.path().join("archive.tar");
        // Compressed, so that only what is inside is too large.
        fs::write(&path, TestImage::new(vec![layer]).oci_archive("bomb:1")).unwrap();
        store.import(&path).unwrap_err().to_string()
    };
    let error = import(Tar::new().file("zeros", &"0".repeat(1 << 20)).finish());
    assert!(error.ends_with("the archive has more than 100000 bytes"), "{error}");
    let many = (0..6).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), ""));
    let error = import(many.finish());
    assert!(error.ends_with("the archive has more than 5 entries"), "{error}");
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn links_in_old_docker_archives_are_followed() {
    let layer = Tar::new().file("a", "b").finish();
    let image = TestImage::new(vec![layer.clone()]);
    let manifest = r#"[{"Config":"c.json","RepoTags":["app:1"],"Layers":["two/layer.tar"]}]"#;
    let header = Tar::header(tar::EntryType::Regular, 0o644, layer.len());
    let archive = Tar::new()
        .file("c.json", std::str::from_utf8(&image.config).unwrap())
        .file("manifest.json", manifest)
        .raw(header, "one/layer.tar", "", &layer)
        .symlink("two/layer.tar", "../one/layer.tar")
        .finish();
    assert_eq!(Scene::new().import(&archive).unwrap(), ["docker.io/library/app:1"]);
}
