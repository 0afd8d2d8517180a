//! File system access that cannot leave a folder: every path of an archive is resolved by the kernel with that folder as its
//! root (openat2, RESOLVE_IN_ROOT), so neither `..`, absolute links nor links placed earlier lead out.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// A path of an archive, made relative: no leading `/`, no `.`; `None` if it has `..` or a NUL.
pub(super) fn clean(path: &Path) -> Option<PathBuf> {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) if !name.as_encoded_bytes().contains(&0) => cleaned.push(name),
            Component::Normal(_) | Component::ParentDir | Component::Prefix(_) => return None,
            Component::RootDir | Component::CurDir => {}
        }
    }
    Some(cleaned)
}

/// Opens the folder `path` below `root` without leaving it; symlinks resolve inside `root`.
pub(super) fn open_folder(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(
        root,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV,
    )
}

/// The entry itself, a symlink not followed; `None` if there is none.
pub(super) fn stat(folder: impl AsFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Removes an entry and all below it, following no symlink.
pub(super) fn remove_all(folder: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    let folder = folder.as_fd();
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    let inner = rustix::fs::openat(folder, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let names: Vec<_> = Dir::read_from(&inner)?.map(|e| e.map(|e| e.file_name().to_owned())).collect::<Result<_, _>>()?;
    for entry in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        use std::os::unix::ffi::OsStrExt;
        remove_all(&inner, OsStr::from_bytes(entry.to_bytes()))?;
    }
    rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_paths_are_made_relative_or_refused() {
        for (input, expect) in [
            ("a/b", Some("a/b")),
            ("./a/./b/", Some("a/b")),
            ("/etc/passwd", Some("etc/passwd")),
            ("", Some("")),
            ("./", Some("")),
            ("../a", None),
            ("a/../../b", None),
            ("a\0b", None),
        ] {
            assert_eq!(clean(Path::new(input)).as_deref(), expect.map(Path::new), "{input:?}");
        }
    }
}
