//! Files of variables in a pod's volumes, as they are when a container is made. A container has written them, so what their paths lead
//! to never leaves the volume, and is not waited for.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use fram_machinery::Value;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat2};

use super::{VolumeError, beneath, find, io_error, path};
use crate::pod::environment::Files;

/// More than such a file needs; a container must not fill the kubelet's memory.
const MOST: u64 = 1 << 20;

/// The files that a container's variables are taken from; those that do not exist are not in it.
pub(crate) fn variable_files(pod: &Value, container: &Value, pod_dir: &Path) -> Result<Files, VolumeError> {
    let mut files = Files::new();
    for reference in container.list_at(&["env"]).iter().filter_map(|variable| variable.at(&["valueFrom", "fileKeyRef"])) {
        let (name, file) = (reference.str_at(&["volumeName"]), reference.str_at(&["path"]));
        let volume = find(pod, name).ok_or_else(|| VolumeError::Unknown(name.to_owned()))?;
        if let Some(text) = read(&path(pod_dir, volume), file)? {
            files.insert((name.to_owned(), file.to_owned()), text);
        }
    }
    Ok(files)
}

fn read(volume: &Path, file: &str) -> Result<Option<String>, VolumeError> {
    let root = File::open(volume).map_err(io_error("open", volume))?;
    let at = volume.join(file.trim_start_matches('/'));
    // A pipe would be waited for.
    let opened = openat2(root.as_fd(), file.trim_start_matches('/'), beneath(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY));
    let opened = match opened {
        Ok(opened) => File::from(opened),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(Errno::EXDEV) => return Err(VolumeError::Escapes(file.to_owned())),
        Err(errno) => return Err(io_error("open", &at)(errno.into())),
    };
    let of = opened.metadata().map_err(io_error("stat", &at))?;
    if !of.is_file() || of.len() > MOST {
        return Err(VolumeError::Variables(file.to_owned()));
    }
    let mut text = Vec::new();
    opened.take(MOST).read_to_end(&mut text).map_err(io_error("read", &at))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use fram_machinery::object;

    use super::*;

    #[test]
    fn files_of_variables_are_read_in_their_volume_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let pod = object!({ "spec": { "volumes": [{ "name": "v", "emptyDir": {} }] } });
        let volume = path(dir.path(), &pod.list_at(&["spec", "volumes"])[0]);
        fs::create_dir_all(volume.join("d")).unwrap();
        fs::write(volume.join("d/f"), "A='1'").unwrap();
        symlink("d/f", volume.join("inside")).unwrap();
        symlink("/etc/hostname", volume.join("outside")).unwrap();
        nix::unistd::mkfifo(&volume.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let of = |volume: &str, file: &str| {
            let reference = object!({ "volumeName": volume, "path": file, "key": "A" });
            variable_files(&pod, &object!({ "env": [{ "name": "V", "valueFrom": { "fileKeyRef": reference } }] }), dir.path())
        };
        for file in ["d/f", "/d/f", "inside"] {
            assert_eq!(of("v", file).unwrap().into_values().collect::<Vec<_>>(), ["A='1'"], "{file}");
        }
        assert!(of("v", "missing").unwrap().is_empty() && of("v", "d/f/g").unwrap().is_empty());
        assert!(matches!(of("v", "outside"), Err(VolumeError::Escapes(_))));
        assert!(matches!((of("v", "pipe"), of("v", "d")), (Err(VolumeError::Variables(_)), Err(VolumeError::Variables(_)))));
        assert!(matches!(of("w", "f"), Err(VolumeError::Unknown(_))));
    }
}
