use std::os::unix::fs::PermissionsExt;

use super::super::testing::{Tar, TestImage};
use super::*;

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> ImageStore {
        ImageStore::open(self.dir.path().join("images")).unwrap()
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("images").join(path)
    }

    fn import(&self, store: &ImageStore, image: &TestImage, name: &str) -> StoredImage {
        let archive = self.dir.path().join("archive.tar");
        fs::write(&archive, image.oci_archive(name)).unwrap();
        store.import(&archive).unwrap();
        store.lookup(name).unwrap().unwrap()
    }

    fn layers(&self) -> usize {
        fs::read_dir(self.path("layers")).unwrap().count()
    }
}

fn image(layers: &[&str]) -> TestImage {
    TestImage::new(layers.iter().map(|content| Tar::new().file("file", content).finish()).collect())
}

#[test]
fn all_spellings_find_the_same_image() {
    let scene = Scene::new();
    let store = scene.open();
    let stored = scene.import(&store, &image(&["x"]), "nginx:1.17.1");
    for name in [
        "nginx:1.17.1",
        "docker.io/nginx:1.17.1",
        "docker.io/library/nginx:1.17.1",
        stored.image.id.as_str(),
        stored.image.digests[0].as_str(),
    ] {
        assert_eq!(store.lookup(name).unwrap().as_ref(), Some(&stored), "{name}");
    }
    assert_eq!(stored.image.tags, ["docker.io/library/nginx:1.17.1"]);
    assert_eq!(stored.image.size_bytes, 1);
    assert_eq!(stored.config.cmd, ["sh"]);
    assert_eq!(store.lookup("nginx:1.17").unwrap(), None);
    assert!(matches!(store.lookup("Nginx"), Err(ImageError::InvalidReference { .. })));
}

#[test]
fn another_process_sees_new_images_and_survives_the_first() {
    let scene = Scene::new();
    let (one, two) = (scene.open(), scene.open());
    assert_eq!(two.lookup("a:1").unwrap(), None);
    let stored = scene.import(&one, &image(&["x"]), "a:1");
    assert_eq!(two.lookup("a:1").unwrap(), Some(stored.clone()));
    drop(one);
    let three = scene.open();
    assert_eq!(three.lookup("a:1").unwrap(), Some(stored));
}

#[test]
fn shared_layers_stay_until_the_last_image_goes() {
    let scene = Scene::new();
    let store = scene.open();
    scene.import(&store, &image(&["base", "one"]), "one:1");
    scene.import(&store, &image(&["base", "two"]), "two:1");
    assert_eq!(scene.layers(), 3);
    let removed = store.remove("one:1", &HashSet::new()).unwrap();
    assert_eq!(removed.freed_bytes, 3);
    assert_eq!(removed.names.len(), 2, "tag and digest: {removed:?}");
    assert_eq!(scene.layers(), 2);
    assert!(store.lookup("two:1").unwrap().unwrap().layers.iter().all(|layer| layer.is_dir()));
    store.remove("two:1", &HashSet::new()).unwrap();
    assert_eq!(scene.layers(), 0);
    assert_eq!(fs::read_dir(scene.path("blobs/sha256")).unwrap().count(), 0);
    assert!(matches!(store.remove("two:1", &HashSet::new()), Err(ImageError::NotFound(_))));
}

#[test]
fn removing_one_of_two_tags_keeps_the_image() {
    let scene = Scene::new();
    let store = scene.open();
    scene.import(&store, &image(&["x"]), "a:1");
    let stored = scene.import(&store, &image(&["x"]), "a:2");
    assert_eq!(stored.image.tags.len(), 2);
    let removed = store.remove("a:1", &HashSet::new()).unwrap();
    assert_eq!((removed.names.len(), removed.image_id), (1, None));
    assert_eq!(
        store.remove(&stored.image.id, &HashSet::new()).unwrap().image_id,
        Some(stored.image.id)
    );
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn layers_in_use_outlive_their_image_and_a_restart() {
    let scene = Scene::new();
    let store = scene.open();
    let stored = scene.import(&store, &image(&["x"]), "a:1");
    let in_use: HashSet<PathBuf> = stored.layers.iter().cloned().collect();
    assert_eq!(store.remove("a:1", &in_use).unwrap().freed_bytes, 0);
    drop(store);
    let store = scene.open();
    assert!(stored.layers[0].is_dir());
    assert_eq!(store.collect(&in_use).unwrap(), 0);
    assert_eq!(store.collect(&HashSet::new()).unwrap(), 1);
    assert!(!stored.layers[0].exists());
    assert_eq!(store.collect(&HashSet::new()).unwrap(), 0);
}

#[test]
fn a_moved_tag_leaves_the_old_image_to_its_containers() {
    let scene = Scene::new();
    let store = scene.open();
    let old = scene.import(&store, &image(&["old"]), "a:1");
    let new = scene.import(&store, &image(&["new"]), "a:1");
    assert_ne!(old.image.id, new.image.id);
    let kept = store.lookup(&old.image.id).unwrap().unwrap();
    assert!(kept.image.tags.is_empty() && kept.layers[0].is_dir());
}

#[test]
fn leased_layers_are_not_collected() {
    let scene = Scene::new();
    let (puller, other) = (scene.open(), scene.open());
    let layer = Digest::of(b"layer");
    let lease = puller.lease(std::slice::from_ref(&layer)).unwrap();
    let temp = puller.temp("layer");
    fs::create_dir_all(temp.as_path().join("fs")).unwrap();
    fs::write(temp.as_path().join("size"), "7").unwrap();
    puller.add_layer(&layer, &temp).unwrap();
    assert_eq!(other.collect(&HashSet::new()).unwrap(), 0);
    drop(scene.open());
    assert!(puller.has_layer(&layer));
    drop(lease);
    assert_eq!(other.collect(&HashSet::new()).unwrap(), 7);
    assert!(!puller.has_layer(&layer));
}

/// What a crash can leave: work of a dead process, a layer nobody refers to.
#[test]
fn litter_is_removed_at_open_and_images_are_not() {
    let scene = Scene::new();
    let store = scene.open();
    let stored = scene.import(&store, &image(&["x"]), "a:1");
    drop(store);
    fs::create_dir_all(scene.path("work/1-0/layer-0/fs")).unwrap();
    fs::write(scene.path("work/1-0/lock"), "").unwrap();
    fs::create_dir_all(scene.path("layers").join("0".repeat(64)).join("fs")).unwrap();
    fs::create_dir_all(scene.path("layers/not-a-digest")).unwrap();
    fs::write(scene.path("blobs/sha256").join("1".repeat(64)), "").unwrap();
    let store = scene.open();
    assert!(!scene.path("work/1-0").exists());
    assert_eq!(scene.layers(), 1);
    assert_eq!(fs::read_dir(scene.path("blobs/sha256")).unwrap().count(), 2);
    assert_eq!(store.lookup("a:1").unwrap(), Some(stored));
}

#[test]
fn only_the_owner_may_look_into_the_store() {
    let scene = Scene::new();
    let _store = scene.open();
    for path in ["", "layers", "work"] {
        assert_eq!(
            fs::metadata(scene.path(path)).unwrap().permissions().mode() & 0o777,
            0o700,
            "{path:?}"
        );
    }
}

#[test]
fn newer_and_damaged_indexes_are_refused_by_name() {
    let scene = Scene::new();
    drop(scene.open());
    fs::write(scene.path("index.json"), r#"{"format":2,"names":[]}"#).unwrap();
    let error = ImageStore::open(scene.path("")).unwrap_err();
    assert!(matches!(error, ImageError::Newer { found: 2, .. }), "{error}");
    fs::write(scene.path("index.json"), r#"{"format":1,"na"#).unwrap();
    let error = ImageStore::open(scene.path("")).unwrap_err();
    assert!(error.to_string().contains("index.json is damaged"), "{error}");
}

#[test]
fn a_damaged_configuration_is_noticed() {
    let scene = Scene::new();
    let store = scene.open();
    let stored = scene.import(&store, &image(&["x"]), "a:1");
    let blob = scene.path("blobs/sha256").join(&stored.image.id["sha256:".len()..]);
    fs::write(blob, "{}").unwrap();
    drop(store);
    assert!(matches!(scene.open().lookup("a:1"), Err(ImageError::Damaged { .. })));
}

const CHILD_DIR: &str = "LIFEPOD_TEST_IMAGE_DIR";

/// The other half of [`killing_at_any_instant_leaves_whole_images`]: changes a
/// store until it is killed.
#[test]
#[ignore = "run by killing_at_any_instant_leaves_whole_images"]
fn child_changes_a_store_until_killed() {
    let scene = Scene {
        dir: tempfile::Builder::new().tempdir_in(std::env::var(CHILD_DIR).unwrap()).unwrap(),
    };
    let store = ImageStore::open(Path::new(&std::env::var(CHILD_DIR).unwrap()).join("images")).unwrap();
    for n in 0_u32.. {
        let content = n.to_string();
        scene.import(&store, &image(&["base", &content]), "changing:1");
        scene.import(&store, &image(&["base", &content, "more"]), &format!("of:{}", n % 3));
        for unnamed in store.list().unwrap().iter().filter(|stored| stored.image.tags.is_empty()) {
            store.remove(&unnamed.image.id, &HashSet::new()).unwrap();
        }
    }
}

#[test]
fn killing_at_any_instant_leaves_whole_images() {
    let scene = Scene::new();
    drop(scene.open());
    let mut images = 0;
    for round in 0..12_u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "image::store::tests::child_changes_a_store_until_killed", "--ignored"])
            .env(CHILD_DIR, scene.dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // It has begun; then a different instant each time.
        let before = fs::metadata(scene.path("index.json")).ok().map(|metadata| metadata.ino());
        let began = Instant::now();
        while fs::metadata(scene.path("index.json")).ok().map(|metadata| metadata.ino()) == before {
            assert!(
                began.elapsed() < Duration::from_secs(30) && child.try_wait().unwrap().is_none(),
                "the child does nothing"
            );
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(round * 1700));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = scene.open();
        assert_eq!(fs::read_dir(scene.path("work")).unwrap().count(), 1, "only our own work directory");
        let mut needed = HashSet::new();
        for stored in store.list().unwrap() {
            images += 1;
            assert_eq!(fs::read_to_string(stored.layers[0].join("file")).unwrap(), "base");
            for layer in stored.layers {
                assert!(layer.join("file").is_file());
                needed.insert(layer);
            }
        }
        assert_eq!(scene.layers(), needed.len(), "layers of no image were left");
    }
    assert!(images > 0);
}
