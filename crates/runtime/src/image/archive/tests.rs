use proptest::prelude::*;

use super::super::testing::Tar;
use super::*;

fn entries(bytes: &[u8]) -> Result<Vec<Entry>, UnpackError> {
    let mut archive = Archive::new(bytes, 1000);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        entries.push(entry);
    }
    Ok(entries)
}

#[test]
fn blank_numbers_are_zero() {
    let mut header = Tar::header(tar::EntryType::Regular, 0o644, 0);
    header.as_old_mut().uid = *b"        ";
    header.as_old_mut().gid = [0; 8];
    header.as_old_mut().mtime = *b"            ";
    let entry = entries(&Tar::new().raw(header, "a", "", b"").finish()).unwrap().remove(0);
    assert_eq!((entry.uid, entry.gid, entry.mtime_s), (0, 0, 0));
}

#[test]
fn damaged_numbers_are_refused() {
    let mut header = Tar::header(tar::EntryType::Regular, 0o644, 0);
    header.as_old_mut().uid = *b"12x4567\0";
    let error = entries(&Tar::new().raw(header, "a", "", b"").finish()).unwrap_err();
    assert_eq!(error.to_string(), "malformed archive: field uid is not a number");
}

#[test]
fn extension_records_override_the_header() {
    let long = "d/".repeat(100) + "name";
    let bytes = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("uid", b"123456"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.user.a", b"x\0y"),
        ])
        .file("short", "content")
        .file("next", "")
        .finish();
    let entries = entries(&bytes).unwrap();
    assert_eq!(entries[0].name(), long);
    assert_eq!(entries[0].uid, 123_456);
    assert_eq!((entries[0].mtime_s, entries[0].mtime_ns), (-2, 750_000_000));
    assert_eq!(entries[0].xattrs, [(b"user.a".to_vec(), b"x\0y".to_vec())]);
    assert_eq!((entries[1].name().as_str(), entries[1].xattrs.len()), ("next", 0));
}

#[test]
fn large_extension_records_are_refused_before_they_are_read() {
    let header = Tar::header(tar::EntryType::GNULongName, 0, 1 << 40);
    let mut bytes = Tar::new().raw(header, "././@LongLink", "", b"").finish();
    bytes.truncate(512);
    assert!(matches!(entries(&bytes), Err(UnpackError::Limit { max: RECORD_BYTES_MAX, .. })));
}

#[test]
fn entries_are_counted() {
    let mut tar = Tar::new();
    for n in 0..20 {
        tar = tar.file(&n.to_string(), "");
    }
    let bytes = tar.finish();
    let mut archive = Archive::new(bytes.as_slice(), 10);
    let error = (0..20).find_map(|_| archive.next().err()).expect("the limit");
    assert_eq!(error.to_string(), "the archive has more than 10 entries");
}

#[test]
fn cut_archives_are_noticed() {
    let bytes = Tar::new().file("a", &"x".repeat(2000)).finish();
    for length in [100, 600, 1600, 2500] {
        assert!(matches!(entries(&bytes[..length]), Err(UnpackError::Read(_))), "{length}");
    }
    assert_eq!(entries(&bytes[..512 + 2048]).unwrap().len(), 1, "the end mark may be missing");
}

#[test]
fn sparse_files_are_refused() {
    let bytes = Tar::new()
        .raw(Tar::header(tar::EntryType::GNUSparse, 0o644, 0), "s", "", b"")
        .finish();
    assert_eq!(
        entries(&bytes).unwrap_err().to_string(),
        "entry \"s\" is a sparse file, which is not supported"
    );
}

#[test]
fn large_and_negative_numbers_in_base_256() {
    let mut field = [0_u8; 12];
    field[0] = 0x80;
    field[4..].copy_from_slice(&(20_u64 << 30).to_be_bytes());
    assert_eq!(number(&field, "size").unwrap(), 20 << 30);
    assert_eq!(number(&[0xff; 12], "mtime").unwrap(), -1);
    assert!(unsigned(&[0xff; 12], "size").is_err());
}

proptest! {
    /// Whatever the bytes, reading ends, without a panic.
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = entries(&bytes);
    }

    /// The same for well-formed archives with one byte changed and the checksum mended.
    #[test]
    fn damaged_headers_are_judged(at in 0_usize..512, value in any::<u8>()) {
        let mut bytes = Tar::new().pax(&[("path", b"abc")]).symlink("a", "b").file("c", "content").finish();
        for header in [0, 1024, 1536] {
            let mut damaged = bytes.clone();
            damaged[header + at] = value;
            let mut block = tar::Header::new_old();
            block.as_mut_bytes().copy_from_slice(&damaged[header..header + 512]);
            block.set_cksum();
            damaged[header..header + 512].copy_from_slice(block.as_bytes());
            let _ = entries(&damaged);
        }
        bytes.clear();
    }
}
