//! Writes the files of a volume so that a reader sees all of the old ones or all of the new ones; see upstream's
//! AtomicWriter. Names in the volume lead through the link `..data`, which is switched by a rename.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;

use super::payload::{File, Payload};
use super::{VolumeError, io_error};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes the volume contain exactly these files; nothing is touched when it does already.
pub(super) fn write(dir: &Path, payload: &Payload, fs_group: Option<u32>) -> Result<(), VolumeError> {
    let current = fs::read_link(dir.join(DATA)).ok();
    if let Some(current) = &current
        && holds(&dir.join(current), payload)
    {
        return link_names(dir, payload);
    }
    let fresh = fresh_name(current.as_deref());
    let target = dir.join(&fresh);
    let _ = fs::remove_dir_all(&target);
    fs::create_dir(&target).map_err(io_error("create", &target))?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).map_err(io_error("change the mode of", &target))?;
    for (path, file) in payload {
        write_file(&target, path, file, fs_group)?;
    }
    if let Some(group) = fs_group {
        own_dir(dir, group)?;
        own_dirs_below(&target, group)?;
    }
    let link = dir.join(NEW_DATA);
    let _ = fs::remove_file(&link);
    symlink(&fresh, &link).map_err(io_error("link", &link))?;
    fs::rename(&link, dir.join(DATA)).map_err(io_error("rename", &link))?;
    link_names(dir, payload)?;
    remove_stale(dir, &fresh, payload)
}

/// One of two names in turn: the directory in use is never the one that is written.
fn fresh_name(current: Option<&Path>) -> String {
    match current.and_then(Path::to_str).and_then(|c| c.strip_prefix("..")?.parse::<u64>().ok()) {
        Some(number) => format!("..{:019}", number + 1),
        None => format!("..{:019}", 1),
    }
}

fn files_below(dir: &Path, prefix: &str, out: &mut BTreeSet<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), &format!("{name}/"), out)?;
        } else {
            out.insert(name);
        }
    }
    Ok(())
}

fn holds(dir: &Path, payload: &Payload) -> bool {
    let mut found = BTreeSet::new();
    if files_below(dir, "", &mut found).is_err() || found.iter().ne(payload.keys()) {
        return false;
    }
    payload.iter().all(|(path, file)| fs::read(dir.join(path)).is_ok_and(|data| data == file.data))
}

fn write_file(dir: &Path, path: &str, file: &File, fs_group: Option<u32>) -> Result<(), VolumeError> {
    let at = dir.join(path);
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    let mut options = fs::OpenOptions::new();
    let mut opened = options.write(true).create(true).truncate(true).mode(0o600).open(&at).map_err(io_error("create", &at))?;
    io::Write::write_all(&mut opened, &file.data).map_err(io_error("write", &at))?;
    if fs_group.is_some() || file.user.is_some() {
        chown(&at, file.user, fs_group).map_err(io_error("change the owner of", &at))?;
    }
    let mode = if fs_group.is_some() { file.mode | 0o440 } else { file.mode };
    // After the change of owner, which may clear bits.
    fs::set_permissions(&at, fs::Permissions::from_mode(mode)).map_err(io_error("change the mode of", &at))
}

/// Gives a directory to a group that may write in it, and whose new files stay the group's; see upstream's SetVolumeOwnership.
pub(super) fn own_dir(dir: &Path, group: u32) -> Result<(), VolumeError> {
    chown(dir, None, Some(group)).map_err(io_error("change the owner of", dir))?;
    let mode = fs::metadata(dir).map_err(io_error("read", dir))?.permissions().mode();
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2770)).map_err(io_error("change the mode of", dir))
}

fn own_dirs_below(dir: &Path, group: u32) -> Result<(), VolumeError> {
    own_dir(dir, group)?;
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))?.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            own_dirs_below(&entry.path(), group)?;
        }
    }
    Ok(())
}

fn first_step(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// The names that containers see: links through `..data` for the first step of each path.
fn link_names(dir: &Path, payload: &Payload) -> Result<(), VolumeError> {
    for name in payload.keys().map(|p| first_step(p)).collect::<BTreeSet<_>>() {
        let link = dir.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|t| t == target) {
            continue;
        }
        symlink(&target, &link).map_err(io_error("link", &link))?;
    }
    Ok(())
}

fn remove_stale(dir: &Path, fresh: &str, payload: &Payload) -> Result<(), VolumeError> {
    let names: BTreeSet<&str> = payload.keys().map(|p| first_step(p)).collect();
    for entry in fs::read_dir(dir).map_err(io_error("read", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == DATA || name == fresh || names.contains(name.as_str()) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(io_error("remove", &path))?;
    }
    Ok(())
}
