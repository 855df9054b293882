//! Files of a volume that change all at once.
//!
//! ```text
//! <volume>/..2026_11_23_10_42_02.123456789/key   the files
//!          ..data -> ..2026_11_23_10_42_02.123456789
//!          key    -> ..data/key
//! ```
//!
//! A change writes a new directory and renames one link: who opens a file
//! finds all of the old content or all of the new. Blocking.
//!
//! Source: upstream `pkg/volume/util/atomic_writer.go`.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::owner;
use super::payload::Payload;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the files in `dir` those of `payload`; false if they were already.
/// `stamp` names the new directory and must not have been used before.
///
/// # Errors
/// A path that would leave the volume, or the file system's reason. What was
/// there before is then still whole.
pub(crate) fn write(dir: &Path, payload: &Payload, group: Option<u32>, stamp: &str) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let current = match fs::read_link(dir.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut before = BTreeSet::new();
    if let Some(current) = &current {
        list(&dir.join(current), Path::new(""), &mut before)?;
        if is_same(&dir.join(current), payload, &before) {
            return Ok(false);
        }
    }
    let new = format!("..{stamp}");
    let made = fill(&dir.join(&new), payload, group).and_then(|()| {
        let _ = fs::remove_file(dir.join(DATA_NEW));
        symlink(&new, dir.join(DATA_NEW))?;
        fs::rename(dir.join(DATA_NEW), dir.join(DATA))
    });
    if let Err(error) = made {
        let _ = fs::remove_dir_all(dir.join(&new));
        return Err(error);
    }
    let shown: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &shown {
        match symlink(Path::new(DATA).join(name), dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    tidy(dir, &new, &shown)?;
    Ok(true)
}

/// Source: upstream `validatePath`.
fn check(path: &str) -> io::Result<()> {
    let refuse = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {what}")));
    if path.is_empty() {
        return refuse("must not be empty");
    }
    if path.starts_with('/') {
        return refuse(&format!("must be relative path: {path}"));
    }
    if path.starts_with("..") {
        return refuse(&format!("must not start with '..': {path}"));
    }
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || path.contains('\0') {
        return refuse(&format!("must not contain '..': {path}"));
    }
    Ok(())
}

/// Paths of all files below `dir`.
fn list(dir: &Path, below: &Path, into: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir.join(below)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(dir, &path, into)?;
        } else {
            into.insert(path);
        }
    }
    Ok(())
}

fn is_same(current: &Path, payload: &Payload, before: &BTreeSet<PathBuf>) -> bool {
    payload.len() == before.len()
        && payload
            .iter()
            .all(|(path, file)| before.contains(Path::new(path)) && fs::read(current.join(path)).is_ok_and(|data| data == file.data))
}

fn fill(new: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(new)?;
    fs::set_permissions(new, Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let at = new.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        to.write_all(&file.data)?;
        if let Some(uid) = file.uid {
            std::os::unix::fs::fchown(&to, Some(uid), None)?;
        }
        to.set_permissions(Permissions::from_mode(file.mode))?;
    }
    group.map_or(Ok(()), |gid| owner::give(new, gid, owner::Access::Read))
}

/// Removes what an older content left, and what an agent that died half-way did.
fn tidy(dir: &Path, current: &str, shown: &BTreeSet<&str>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == DATA || name == current || shown.contains(name.as_ref()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::payload::File;
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |data: &str| File {
            data: data.as_bytes().to_vec(),
            mode: 0o640,
            uid: None,
        };
        files.iter().map(|(path, data)| ((*path).to_owned(), file(data))).collect()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn content_changes_at_once_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), None, "t1").unwrap());
        assert_eq!(names(dir.path()), ["..data", "..t1", "a", "d"]);
        assert_eq!((read("a"), read("d/e")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let old = fs::File::open(dir.path().join("a")).unwrap();
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), None, "t2").unwrap());
        assert!(write(dir.path(), &payload(&[("a", "3"), ("f", "4")]), None, "t3").unwrap());
        assert_eq!(names(dir.path()), ["..data", "..t3", "a", "f"]);
        assert_eq!((read("a"), read("f")), ("3".to_owned(), "4".to_owned()));
        assert_eq!(io::read_to_string(old).unwrap(), "1", "who has a file open keeps it");
    }

    #[test]
    fn a_write_that_was_cut_off_is_made_good() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &payload(&[("a", "1")]), None, "t1").unwrap();
        fs::create_dir(dir.path().join("..t2")).unwrap();
        symlink("..t2", dir.path().join(DATA_NEW)).unwrap();
        write(dir.path(), &payload(&[("a", "2")]), None, "t3").unwrap();
        assert_eq!(names(dir.path()), ["..data", "..t3", "a"]);
    }

    #[test]
    fn no_path_leaves_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["", "/etc/x", "..", "../x", "a/../../x", "..x", "a/./b/../c"] {
            assert!(write(dir.path(), &payload(&[(path, "1")]), None, "t").is_err(), "{path}");
        }
        assert_eq!(names(dir.path()), Vec::<String>::new());
    }
}
