use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;

use super::*;

/// Paths of an image's file system, with what is at them.
fn files(archive: &Path) -> BTreeMap<String, (tar::EntryType, Vec<u8>)> {
    let mut blobs = BTreeMap::new();
    let mut outer = tar::Archive::new(fs::File::open(archive).unwrap());
    for entry in outer.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        blobs.insert(entry.path().unwrap().display().to_string(), content);
    }
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    let blob =
        |descriptor: &serde_json::Value| blobs[&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))].clone();
    let manifest = json(&blob(&json(&blobs["index.json"])["manifests"][0]));
    let mut files = BTreeMap::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let mut inner = tar::Archive::new(flate2::read::GzDecoder::new(std::io::Cursor::new(blob(layer))));
        for entry in inner.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let kind = entry.header().entry_type();
            if let Some(target) = entry.link_name().unwrap() {
                content = target.display().to_string().into_bytes();
            }
            files.insert(
                entry.path().unwrap().display().to_string().trim_end_matches('/').to_owned(),
                (kind, content),
            );
        }
    }
    files
}

/// Needs the package archive (or apt's cache of it).
#[test]
fn packages_become_images_reproducibly() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(one.path()).unwrap();
    run(two.path()).unwrap();
    for name in ["busybox-1.30.tar", "nginx-1.17.1.tar"] {
        assert!(
            fs::read(one.path().join(name)).unwrap() == fs::read(two.path().join(name)).unwrap(),
            "{name} differs between builds"
        );
    }
    let modified = fs::metadata(one.path().join("nginx-1.17.1.tar")).unwrap().modified().unwrap();
    run(one.path()).unwrap();
    assert_eq!(
        fs::metadata(one.path().join("nginx-1.17.1.tar")).unwrap().modified().unwrap(),
        modified,
        "an up-to-date image was built again"
    );

    let nginx = files(&one.path().join("nginx-1.17.1.tar"));
    for applet in ["sh", "cat", "sleep"] {
        assert_eq!(nginx[&format!("bin/{applet}")], (tar::EntryType::Symlink, b"busybox".to_vec()));
    }
    assert_eq!(nginx["var/log/nginx/error.log"], (tar::EntryType::Symlink, b"/dev/stderr".to_vec()));
    assert!(nginx["usr/sbin/nginx"].1.starts_with(b"\x7fELF"));
    assert!(nginx.keys().any(|path| path.ends_with("/libssl.so.3")), "{:?}", nginx.keys());
    let total: usize = nginx.values().map(|(_, content)| content.len()).sum();
    assert!(total < 20 << 20, "the image has grown to {total} bytes");
}
