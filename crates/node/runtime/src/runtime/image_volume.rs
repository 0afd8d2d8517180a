//! Whether an image has the part of it that a container asks for as a volume, told from its layers as overlayfs would put them together, before
//! anything is mounted. See upstream's ErrImageVolumeMountFailed.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use fram_cri::{CriError, CriResult};
use nix::errno::Errno;

/// How the CRI's clients know that it is the volume that failed.
const FAILED: &str = "ImageVolumeMountFailed";
const OPAQUE: &str = "trusted.overlay.opaque";

/// What the topmost layers say of a path.
#[derive(Debug, PartialEq)]
enum Found {
    Here,
    Nowhere,
    /// What is below counts.
    Below,
}

/// Fails where `sub_path` is not in the image. `layers` begin with the base.
pub(super) fn check(layers: &[PathBuf], sub_path: &str, destination: &str) -> CriResult<()> {
    if sub_path.is_empty() {
        return Ok(());
    }
    for layer in layers.iter().rev() {
        match look(layer, Path::new(sub_path)).map_err(|error| CriError::io("look for an image volume in", layer, error))? {
            Found::Here => return Ok(()),
            Found::Nowhere => break,
            Found::Below => {}
        }
    }
    Err(CriError::InvalidArgument(format!("{FAILED}: the image has no {sub_path:?} to be mounted on {destination:?}")))
}

fn look(layer: &Path, sub_path: &Path) -> io::Result<Found> {
    let mut at = layer.to_path_buf();
    let mut hides = false;
    for component in sub_path.components().filter(|component| matches!(component, Component::Normal(_))) {
        at.push(component);
        match at.symlink_metadata() {
            Ok(found) if is_whiteout(&found) => return Ok(Found::Nowhere),
            // Where it leads is for the mount to find out.
            Ok(found) if found.is_symlink() => return Ok(Found::Here),
            Ok(found) => hides |= !found.is_dir() || is_opaque(&at)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(if hides { Found::Nowhere } else { Found::Below }),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Found::Nowhere),
            Err(error) => return Err(error),
        }
    }
    Ok(Found::Here)
}

fn is_whiteout(found: &Metadata) -> bool {
    found.file_type().is_char_device() && found.rdev() == 0
}

fn is_opaque(path: &Path) -> io::Result<bool> {
    let mut value = [0];
    match rustix::fs::lgetxattr(path, OPAQUE, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(error) => match Errno::from_raw(error.raw_os_error()) {
            Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ERANGE => Ok(false),
            errno => Err(errno.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_a_layer_hides_is_not_there_and_what_it_leaves_is() {
        let dir = tempfile::tempdir().unwrap();
        let layers = ["base", "top"].map(|name| dir.path().join(name));
        for path in
            ["base/a/b", "base/gone/x", "base/cleared/old", "base/file/deep", "top/a/c", "base/cleared/kept/old", "top/cleared/kept/new"]
        {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("top/file"), "").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("top/link")).unwrap();
        nix::sys::stat::mknod(&dir.path().join("top/gone"), nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::empty(), 0).unwrap();
        rustix::fs::setxattr(dir.path().join("top/cleared"), OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        for path in ["", "a", "a/b", "a/c", "cleared/kept/new", "file", "link/b"] {
            assert!(check(&layers, path, "/m").is_ok(), "{path}");
        }
        for path in ["no", "a/no", "gone", "gone/x", "cleared/old", "cleared/kept/old", "file/deep"] {
            let error = check(&layers, path, "/m").unwrap_err().to_string();
            assert!(error.starts_with("ImageVolumeMountFailed: ") && error.contains("\"/m\""), "{error}");
        }
    }
}
