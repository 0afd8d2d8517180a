//! The node's log files at /logs/: directories as lists of links, files as they are. See upstream's kubelet, whose file server stands
//! at /var/log; nothing outside of that directory is shown.

use std::path::{Path, PathBuf};

use fram_streaming::answer::{Answer, refuse, text};
use http::StatusCode;

const ROOT: &str = "/var/log";
/// The end of a file, where it is longer than this.
const MOST: u64 = 16 << 20;

/// The file or directory that is meant, with everything resolved; None where it is not below `root`.
fn resolve(root: &Path, steps: &[&str]) -> Option<PathBuf> {
    if steps.iter().any(|s| matches!(*s, "." | "..") || s.contains(['%', '\0'])) {
        return None;
    }
    let (root, path) = (root.canonicalize().ok()?, root.join(steps.join("/")).canonicalize().ok()?);
    path.starts_with(root).then_some(path)
}

pub(super) async fn serve(steps: &[&str]) -> Answer {
    let path = resolve(Path::new(ROOT), steps).ok_or_else(|| refuse(StatusCode::NOT_FOUND, "404 page not found"))?;
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    match read.map_err(std::io::Error::other).and_then(|r| r) {
        Ok(found) => Ok(text(&found)),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())),
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    if path.is_dir() {
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let slash = if entry.path().is_dir() { "/" } else { "" };
            names.push(format!("{}{slash}", entry.file_name().to_string_lossy()));
        }
        names.sort();
        let plain = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
        let lines: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", plain(n))).collect();
        return Ok(format!("<!doctype html>\n<pre>\n{lines}</pre>\n"));
    }
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST)))?;
    let mut out = Vec::new();
    file.take(MOST).read_to_end(&mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
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
        assert_eq!(read(&resolve(&root, &["a", "b<c"]).unwrap()).unwrap(), "text");
        assert!(read(&resolve(&root, &["a"]).unwrap()).unwrap().contains("<a href=\"b&lt;c\">b&lt;c</a>"));
        for outside in [&["..", "secret"][..], &["link"], &["%2e%2e", "secret"], &["absent"]] {
            assert_eq!(resolve(&root, outside), None, "{outside:?}");
        }
    }
}
