use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::testing::registry::{Answer, CuttingProxy, PASSWORD, Registry, Scripted, USER};
use super::super::testing::{Tar, TestImage, descriptor};
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

    fn puller(&self) -> Puller {
        self.puller_with(PullOptions::default())
    }

    fn puller_with(&self, options: PullOptions) -> Puller {
        Puller::new(self.store.clone(), options)
    }

    fn downloads(&self) -> Vec<std::path::PathBuf> {
        fs::read_dir(self.dir.path().join("images/downloads"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    /// Neither image, nor layer, nor any download that is not what its name says.
    fn assert_nothing_left(&self) {
        assert!(self.store.list().unwrap().is_empty());
        self.store.collect(&HashSet::new()).unwrap();
        assert_eq!(fs::read_dir(self.dir.path().join("images/layers")).unwrap().count(), 0);
        for download in self.downloads() {
            let content = fs::read(&download).unwrap();
            assert!(
                content.is_empty() || download.ends_with(Digest::of(&content).hex()),
                "{}",
                download.display()
            );
        }
    }
}

/// Content that does not compress, different for each seed.
fn noise(bytes: usize, seed: u64) -> String {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b' ' + ((state >> 40) % 95) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

fn two_layers() -> TestImage {
    let low = Tar::new().file("keep", "1").file("gone", "1").finish();
    let high = Tar::new().file(".wh.gone", "").file("new", "2").finish();
    TestImage::new(vec![low, high])
}

#[tokio::test]
async fn registry_image_by_tag_and_by_digest() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = two_layers();
    registry.push("a/app:1", &image).await;
    let puller = scene.puller();
    let mut news = puller.progress();
    let name = format!("{}/a/app:1", registry.host);
    let pulled = puller.pull(&name, None).await.unwrap();
    assert_eq!(pulled.image.id, image.id());
    assert_eq!(pulled.image.tags, [name.as_str()]);
    let by_digest = format!("{}/a/app@{}", registry.host, Digest::of(&image.manifest));
    assert_eq!(pulled.image.digests, [by_digest.as_str()]);
    assert_eq!(fs::read_to_string(pulled.layers[0].join("gone")).unwrap(), "1");
    assert!(
        fs::symlink_metadata(pulled.layers[1].join("gone"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(scene.downloads().is_empty());
    let mut ready = HashSet::new();
    while let Ok(report) = news.try_recv() {
        assert!(report.done_bytes <= report.total_bytes && *report.reference == *name);
        if report.state == LayerState::Ready {
            assert_eq!(report.done_bytes, report.total_bytes);
            ready.insert(report.layer.to_string());
        }
    }
    assert_eq!(ready, image.layers.iter().map(|layer| Digest::of(layer).to_string()).collect());

    let again = puller.pull(&by_digest, None).await.unwrap();
    assert_eq!(again, pulled);
    let mut states = Vec::new();
    while let Ok(report) = news.try_recv() {
        states.push(report.state);
    }
    assert_eq!(states, [LayerState::Present; 2]);
    assert_eq!(scene.store.lookup(&name).unwrap(), Some(pulled));
}

#[tokio::test]
async fn registry_moves_a_tag() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let (old, new) = (two_layers(), TestImage::new(vec![Tar::new().file("new", "").finish()]));
    let name = format!("{}/app:latest", registry.host);
    registry.push("app:latest", &old).await;
    assert_eq!(scene.puller().pull(&name, None).await.unwrap().image.id, old.id());
    registry.push("app:latest", &new).await;
    assert_eq!(scene.puller().pull(&name, None).await.unwrap().image.id, new.id());
    assert_eq!(scene.store.lookup(&old.id()).unwrap().unwrap().image.tags, Vec::<String>::new());
}

#[tokio::test]
async fn registry_password() {
    let (registry, scene) = (Registry::start_private(), Scene::new());
    registry.push("app:1", &two_layers()).await;
    let name = format!("{}/app:1", registry.host);
    let auth = |password: &str| Auth {
        username: USER.to_owned(),
        password: password.to_owned(),
    };
    let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": pull access denied, repository does not exist \
             or may require authorization: authorization failed: no basic auth credentials"
        )
    );
    let error = scene.puller().pull(&name, Some(&auth("wrong"))).await.unwrap_err().to_string();
    assert!(error.ends_with("the registry does not accept the credentials"), "{error}");
    scene.assert_nothing_left();
    scene.puller().pull(&name, Some(&auth(PASSWORD))).await.unwrap();
}

#[tokio::test]
async fn registry_mirrors_are_tried_in_order() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = two_layers();
    registry.push("library/app:1", &image).await;
    let closed = closed_port();
    let registries = Registries::parse(&format!(
        "registries: {{docker.io: {{mirrors: ['http://{closed}', 'http://{}']}}}}",
        registry.host
    ))
    .unwrap();
    let puller = scene.puller_with(PullOptions {
        registries,
        ..PullOptions::default()
    });
    let pulled = puller.pull("app:1", None).await.unwrap();
    assert_eq!(
        (pulled.image.id, pulled.image.tags),
        (image.id(), vec!["docker.io/library/app:1".to_owned()])
    );
}

#[tokio::test]
async fn registry_missing_image_and_missing_registry() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let name = format!("{}/no/such:1", registry.host);
    let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("failed to pull and unpack image \"{name}\": failed to resolve reference \"{name}\": {name}: not found")
    );
    let closed = closed_port();
    let error = scene.puller().pull(&format!("{closed}/app:1"), None).await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("failed to resolve reference \"{closed}/app:1\": failed to do request: ")),
        "{error}"
    );
    assert!(
        error.ends_with(&format!("dial tcp {closed}: connect: connection refused")),
        "{error}"
    );
    let error = scene.puller().pull("Bad", None).await.unwrap_err().to_string();
    assert!(
        error.starts_with("couldn't parse image name \"Bad\": invalid reference format"),
        "{error}"
    );
}

#[tokio::test]
async fn registry_index_of_platforms() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let (image, foreign) = (two_layers(), TestImage::of_architecture(vec![Tar::new().finish()], "s390x"));
    let entry = |image: &TestImage, architecture: &str| {
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &image.manifest);
        entry["platform"] = serde_json::json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let index = |entries: Vec<serde_json::Value>| {
        let index = serde_json::json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries });
        index.to_string().into_bytes()
    };
    let host = Platform::host();
    let both = index(vec![entry(&foreign, "s390x"), entry(&image, &host.architecture)]);
    registry.push("app:host", &image).await;
    registry.push("app:foreign", &foreign).await;
    registry.push_manifest("app:both", &both).await;
    registry.push_manifest("app:index", &index(vec![entry(&foreign, "s390x")])).await;

    let pulled = scene.puller().pull(&format!("{}/app:both", registry.host), None).await.unwrap();
    assert_eq!(pulled.image.id, image.id());
    assert_eq!(pulled.image.digests, [format!("{}/app@{}", registry.host, Digest::of(&both))]);
    for tag in ["index", "foreign"] {
        let name = format!("{}/app:{tag}", registry.host);
        let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
        assert!(
            error.ends_with(&format!(
                "no match for platform in manifest {name}: not found; this node is {host}, it offers linux/s390x"
            )),
            "{error}"
        );
    }
}

#[tokio::test]
async fn registry_download_is_resumed() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = TestImage::new(vec![Tar::new().file("noise", &noise(4 << 20, 1)).finish()]);
    registry.push("app:1", &image).await;
    let proxy = CuttingProxy::before(&registry.host, 2, 1 << 20).await;
    let name = format!("{}/app:1", proxy.host);
    let pulled = scene.puller().pull(&name, None).await.unwrap();
    assert_eq!(pulled.image.id, image.id());
    assert!(proxy.ranges.load(Ordering::SeqCst) >= 1, "the rest was not asked for by range");
}

#[tokio::test]
async fn registry_download_of_an_earlier_pull_is_taken_up() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = TestImage::new(vec![Tar::new().file("noise", &noise(1 << 20, 2)).finish()]);
    registry.push("app:1", &image).await;
    let layer = Digest::of(&image.layers[0]);
    let name = format!("{}/app:1", registry.host);
    // The beginning is there and right: the rest is fetched.
    fs::write(scene.store.download_path(&layer), &image.layers[0][..300_000]).unwrap();
    let proxy = CuttingProxy::before(&registry.host, 0, 0).await;
    scene.puller().pull(&format!("{}/app:1", proxy.host), None).await.unwrap();
    assert_eq!(proxy.ranges.load(Ordering::SeqCst), 1);
    // It is there and wrong: everything is fetched again.
    for wrong in [vec![7; 300_000], vec![7; image.layers[0].len()], vec![7; image.layers[0].len() + 1]] {
        let scene = Scene::new();
        fs::write(scene.store.download_path(&layer), wrong).unwrap();
        scene.puller().pull(&name, None).await.unwrap();
        assert!(scene.downloads().is_empty());
    }
}

#[tokio::test]
async fn registry_with_tampered_content() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let image = two_layers();
    registry.push("app:1", &image).await;
    let layer = Digest::of(&image.layers[1]);
    let mut evil = image.layers[1].clone();
    let last = evil.len() - 1;
    evil[last] ^= 1;
    fs::write(registry.blob_file(&layer), &evil).unwrap();
    let name = format!("{}/app:1", registry.host);
    let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
    assert!(error.contains(layer.as_str()) && error.contains("tampered"), "{error}");
    scene.assert_nothing_left();
    // Shorter than promised.
    fs::write(registry.blob_file(&layer), &image.layers[1][..10]).unwrap();
    let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
    assert!(error.contains(layer.as_str()), "{error}");
    assert!(scene.store.list().unwrap().is_empty());
}

/// A layer whose blob is as promised but whose archive is not.
#[tokio::test]
async fn registry_with_a_wrong_diff_id() {
    let (registry, scene) = (Registry::start(), Scene::new());
    let honest = two_layers();
    let mut image = two_layers();
    image.config = TestImage::new(vec![Tar::new().file("other", "").finish(), honest.plain[1].clone()]).config;
    let mut manifest: serde_json::Value = serde_json::from_slice(&honest.manifest).unwrap();
    manifest["config"] = descriptor("application/vnd.oci.image.config.v1+json", &image.config);
    image.manifest = manifest.to_string().into_bytes();
    registry.push("app:1", &image).await;
    let error = scene
        .puller()
        .pull(&format!("{}/app:1", registry.host), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("uncompressed layer {}", Digest::of(&image.layers[0]))),
        "{error}"
    );
    assert!(scene.store.list().unwrap().is_empty());
}

/// Serves one image to whoever the script lets through.
fn serve(image: &TestImage, path: &str) -> Option<Answer> {
    let path = path.split('?').next().unwrap_or_default();
    if path == "/v2/" {
        return Some(Answer::ok(b"{}"));
    }
    if path == "/v2/app/manifests/1" {
        return Some(Answer::ok(&image.manifest));
    }
    let digest = path.strip_prefix("/v2/app/blobs/")?;
    let blob = image
        .layers
        .iter()
        .chain([&image.config])
        .find(|blob| Digest::of(blob).as_str() == digest)?;
    Some(Answer::ok(blob))
}

#[tokio::test]
async fn bearer_tokens_are_fetched_and_used() {
    let image = two_layers();
    let registry = Scripted::start(move |host, path, head| {
        if path.starts_with("/token?") {
            let fits = path.contains("service=test") && path.contains("scope=repository%3Aapp%3Apull");
            // someone:s3cret
            let known = head.contains("Basic c29tZW9uZTpzM2NyZXQ=");
            return Some(if fits && known {
                Answer::ok(br#"{"token":"dGhlIHRva2Vu"}"#)
            } else {
                Answer::status("401 Unauthorized")
            });
        }
        if head.contains("Bearer dGhlIHRva2Vu") {
            return Some(serve(&image, path).unwrap_or_else(|| Answer::status("404 Not Found")));
        }
        let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"test\"");
        Some(Answer {
            headers: vec![("www-authenticate", challenge)],
            ..Answer::status("401 Unauthorized")
        })
    })
    .await;
    let scene = Scene::new();
    let name = format!("{}/app:1", registry.host);
    let error = scene.puller().pull(&name, None).await.unwrap_err().to_string();
    assert!(error.contains("pull access denied"), "{error}");
    let auth = Auth {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
    };
    scene.puller().pull(&name, Some(&auth)).await.unwrap();
}

#[tokio::test]
async fn pulls_at_the_same_time_share_one_download() {
    let image = two_layers();
    let blobs = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&blobs);
    let registry = Scripted::start(move |_, path, _| {
        if path.contains("/blobs/") {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        serve(&image, path)
    })
    .await;
    let scene = Scene::new();
    let (puller, name) = (scene.puller(), format!("{}/app:1", registry.host));
    let again = puller.clone();
    let (one, two) = tokio::join!(puller.pull(&name, None), again.pull(&name, None));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(blobs.load(Ordering::SeqCst), 3, "configuration and two layers, once each");
}

#[tokio::test]
async fn one_layer_of_two_images_is_fetched_by_both_without_harm() {
    let registry = Registry::start();
    let shared = Tar::new().file("noise", &noise(2 << 20, 3)).finish();
    let images = ["one", "two"].map(|name| TestImage::new(vec![shared.clone(), Tar::new().file(name, "").finish()]));
    registry.push("one:1", &images[0]).await;
    registry.push("two:1", &images[1]).await;
    let scene = Scene::new();
    // Two stores stand for two processes.
    let other = Puller::new(ImageStore::open(scene.dir.path().join("images")).unwrap(), PullOptions::default());
    let puller = scene.puller();
    let names = ["one", "two"].map(|name| format!("{}/{name}:1", registry.host));
    let (one, two) = tokio::join!(puller.pull(&names[0], None), other.pull(&names[1], None));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.layers[0], two.layers[0]);
    assert!(one.layers.iter().chain(&two.layers).all(|layer| layer.is_dir()));
    assert!(scene.downloads().is_empty());
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let registry = Scripted::start(|_, _, _| None).await;
    let scene = Scene::new();
    let puller = scene.puller_with(PullOptions {
        idle_timeout: Duration::from_millis(100),
        ..PullOptions::default()
    });
    let error = puller
        .pull(&format!("{}/app:1", registry.host), None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("i/o timeout"), "{error}");
}

#[tokio::test]
async fn an_unsteady_registry_is_asked_again() {
    let image = two_layers();
    let failures = AtomicUsize::new(2);
    let registry = Scripted::start(move |_, path, _| {
        let fail = path.contains("/manifests/")
            && failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .is_ok();
        if fail {
            Some(Answer::status("503 Service Unavailable"))
        } else {
            serve(&image, path)
        }
    })
    .await;
    let scene = Scene::new();
    scene.puller().pull(&format!("{}/app:1", registry.host), None).await.unwrap();
}

#[tokio::test]
async fn root_a_full_disk_stops_a_pull_and_leaves_nothing() {
    let registry = Registry::start();
    registry
        .push(
            "app:1",
            &TestImage::new(vec![Tar::new().file("noise", &noise(4 << 20, 4)).finish()]),
        )
        .await;
    let scene = Scene::new();
    let _mount = SmallDisk::on(scene.dir.path());
    let store = ImageStore::open(scene.dir.path().join("small")).unwrap();
    let error = Puller::new(store.clone(), PullOptions::default())
        .pull(&format!("{}/app:1", registry.host), None)
        .await
        .unwrap_err();
    assert!(
        error.is_disk_full() && error.to_string().contains("no space left on device"),
        "{error}"
    );
    assert_eq!(fs::read_dir(scene.dir.path().join("small/downloads")).unwrap().count(), 0);
    assert!(store.list().unwrap().is_empty());
}

/// A file system of 1 MiB, unmounted with the test.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn on(path: &'a Path) -> Self {
        rustix::mount::mount("tmpfs", path, "tmpfs", rustix::mount::MountFlags::empty(), c"size=1m").unwrap();
        Self(path)
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

fn closed_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string()
}
