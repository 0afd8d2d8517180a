//! The node's log files at /logs/: directories as lists of links, files as they are. See upstream's kubelet, whose file server stands
//! at /var/log; nothing outside of that directory is shown.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use fram_streaming::answer::{Answer, html, refuse, text};
use fram_streaming::query::Query;
use http::StatusCode;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat2};

use super::log_query::{self, LogQuery};
use crate::volumes::beneath;

pub(super) const ROOT: &str = "/var/log";
/// The end of a file, where it is longer than this.
const MOST: u64 = 16 << 20;

enum Found {
    Directory(String),
    File(String),
}

/// `queried` are services that may be asked for by name; see enableSystemLogQuery.
pub(super) async fn serve(steps: &[&str], query: &Query, queried: bool) -> Answer {
    match queried.then(|| LogQuery::parse(query)) {
        Some(Err((code, why))) => Err(refuse(code, &why)),
        Some(Ok(Some(query))) => log_query::serve(query).await,
        Some(Ok(None)) | None => file(&steps.join("/")).await,
    }
}

pub(super) async fn file(path: &str) -> Answer {
    let path = PathBuf::from(path);
    let read = tokio::task::spawn_blocking(move || read(Path::new(ROOT), &path)).await;
    match read.map_err(io::Error::other).and_then(|r| r) {
        Ok(Some(Found::Directory(page))) => Ok(html(&page)),
        Ok(Some(Found::File(content))) => Ok(text(&content)),
        Ok(None) => Err(refuse(StatusCode::NOT_FOUND, "404 page not found")),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    }
}

/// What a file holds; None where there is none.
pub(super) fn content(root: &Path, path: &Path) -> io::Result<Option<String>> {
    Ok(match read(root, path)? {
        Some(Found::File(content)) => Some(content),
        Some(Found::Directory(_)) | None => None,
    })
}

/// What is there; None where nothing is, or nothing that may be shown. It is opened once, below the root whatever its links say:
/// who can write there changes nothing of what was looked at.
fn read(root: &Path, path: &Path) -> io::Result<Option<Found>> {
    let root = File::open(root)?;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // A pipe would hold the reader up.
    let mut file = match openat2(root.as_fd(), path, beneath(OFlag::O_RDONLY | OFlag::O_NONBLOCK)) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV | Errno::ELOOP | Errno::ENXIO | Errno::EINVAL) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let what = file.metadata()?;
    if what.is_dir() {
        return list(&file).map(|page| Some(Found::Directory(page)));
    }
    if !what.is_file() {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(what.len().saturating_sub(MOST)))?;
    let mut out = Vec::new();
    file.take(MOST).read_to_end(&mut out)?;
    Ok(Some(Found::File(String::from_utf8_lossy(&out).into_owned())))
}

fn list(dir: &File) -> io::Result<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
    }
    names.sort();
    let plain = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", plain(n))).collect();
    Ok(format!("<!doctype html>\n<pre>\n{lines}</pre>\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_listed_and_nothing_outside_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("a")).unwrap();
        std::fs::write(root.join("a/b<c"), "text").unwrap();
        std::fs::write(dir.path().join("secret"), "s").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), root.join("link")).unwrap();
        std::os::unix::fs::symlink("../secret", root.join("above")).unwrap();
        std::os::unix::fs::symlink("a/b<c", root.join("inside")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for file in ["a/b<c", "inside"] {
            assert!(matches!(read(&root, Path::new(file)), Ok(Some(Found::File(text))) if text == "text"), "{file}");
        }
        let link = "<a href=\"b&lt;c\">b&lt;c</a>";
        assert!(matches!(read(&root, Path::new("a")), Ok(Some(Found::Directory(page))) if page.contains(link)));
        assert!(matches!(read(&root, Path::new("")), Ok(Some(Found::Directory(page))) if page.contains("a/")));
        for outside in ["../secret", "link", "above", "absent", "pipe", "/etc/hostname"] {
            assert!(matches!(read(&root, Path::new(outside)), Ok(None)), "{outside}");
        }
    }
}
