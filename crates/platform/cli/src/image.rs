//! `fram image`: the images of this machine's node.

use std::path::{Path, PathBuf};

use fram_client::remote::encoded;
use fram_machinery::{Value, human};
use http::Method;

use crate::error::{CliError, Result};
use crate::local;
use crate::print::{Report, out};
use crate::table;

#[derive(clap::Subcommand, Debug, Clone)]
pub(crate) enum Image {
    /// Takes images in from an archive, as `docker save`, `podman save` and `skopeo copy … oci-archive:` write them.
    #[command(after_help = "Examples:\n  fram image import app.tar\n  docker save app:1 | fram image import -")]
    Import {
        /// The archive, compressed or not; `-` for standard input.
        #[arg(value_name = "FILE|-", required = true)]
        files: Vec<PathBuf>,
    },
    /// Lists the images.
    #[command(visible_alias = "ls", after_help = "Example:\n  fram image list")]
    List {
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Removes images, with all their names.
    #[command(visible_alias = "remove", after_help = "Example:\n  fram image rm app:1")]
    Rm {
        /// A name or an ID.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Keeps images, also where nobody uses them and the disk is full.
    #[command(after_help = "Example:\n  fram image pin app:1")]
    Pin {
        /// A name or an ID.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
    /// Lets images go like others.
    #[command(after_help = "Example:\n  fram image unpin app:1")]
    Unpin {
        /// A name or an ID.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
    },
}

/// What an image is called: its first tag, else its digest, else its ID.
fn name(image: &Value) -> &str {
    let first = |list: &str| image.list_at(&[list]).first().and_then(Value::as_str);
    first("repoTags").or_else(|| first("repoDigests")).unwrap_or(image.str_at(&["id"]))
}

pub(crate) async fn run(data: &Path, image: &Image) -> Result<()> {
    match image {
        Image::Import { files } => {
            let (mut report, mut errors) = (Report::default(), Vec::new());
            for file in files {
                match import(data, file).await {
                    Ok(told) => report.say(told),
                    Err(error) => errors.push(error),
                }
            }
            report.end(errors)
        }
        Image::List { quiet } => list(data, *quiet).await,
        Image::Rm { images } => each(data, images, Method::DELETE, "images", "removed").await,
        Image::Pin { images } => each(data, images, Method::PUT, "pinned-images", "pinned").await,
        Image::Unpin { images } => each(data, images, Method::DELETE, "pinned-images", "unpinned").await,
    }
}

/// Asks for the same of each image.
async fn each(data: &Path, images: &[String], method: Method, what: &str, done: &str) -> Result<()> {
    let (mut report, mut errors) = (Report::default(), Vec::new());
    for image in images {
        match local::ask(data, method.clone(), &format!("/{what}/{}", encoded(image))).await {
            Ok(_) => report.say(format!("image {image:?} {done}\n")),
            Err(error) => errors.push(error),
        }
    }
    report.end(errors)
}

async fn import(data: &Path, file: &Path) -> Result<String> {
    let imported = if file.as_os_str() == "-" {
        local::hand_over(data, "/images", std::io::stdin()).await?
    } else {
        let source = std::fs::File::open(file).map_err(|source| CliError::Io { operation: "open", path: file.into(), source })?;
        local::hand_over(data, "/images", source).await?
    };
    Ok(imported.list_at(&["items"]).iter().map(|i| format!("image {:?} imported\n", name(i))).collect())
}

async fn list(data: &Path, quiet: bool) -> Result<()> {
    let images = local::ask(data, Method::GET, "/images").await?;
    let mut lines: Vec<Vec<String>> = images.list_at(&["items"]).iter().flat_map(rows).collect();
    lines.sort();
    if quiet {
        return out(lines.into_iter().map(|l| format!("{}:{}\n", l[0], l[1])).collect::<String>());
    }
    lines.insert(0, ["REPOSITORY", "TAG", "IMAGE ID", "SIZE", "PINNED"].map(String::from).to_vec());
    out(table::align(&lines, &mut Vec::new()))
}

/// A line for each tag; an image without one has a line, too.
fn rows(image: &Value) -> Vec<Vec<String>> {
    let size = human::bytes(image.int_at(&["size"]).and_then(|s| u64::try_from(s).ok()).unwrap_or(0));
    let id: String = image.str_at(&["id"]).trim_start_matches("sha256:").chars().take(12).collect();
    let pinned = image.bool_at(&["pinned"]) == Some(true);
    let line = |repository: &str, tag: &str| vec![repository.to_string(), tag.to_string(), id.clone(), size.clone(), pinned.to_string()];
    let tags: Vec<Vec<String>> =
        image.list_at(&["repoTags"]).iter().filter_map(|t| t.as_str()?.rsplit_once(':')).map(|(r, t)| line(r, t)).collect();
    if !tags.is_empty() {
        return tags;
    }
    let digest = image.list_at(&["repoDigests"]).first().and_then(|d| d.as_str()?.split_once('@'));
    vec![line(digest.map_or("<none>", |(repository, _)| repository), "<none>")]
}

#[cfg(test)]
mod tests {
    use fram_machinery::object;

    use super::*;

    #[test]
    fn each_tag_has_a_line() {
        let image = object!({ "id": "sha256:0123456789abcdef", "size": 2097152, "pinned": true, "repoTags": ["docker.io/library/a:1", "127.0.0.1:5000/a:2"], "repoDigests": [] });
        assert_eq!(
            rows(&image),
            [["docker.io/library/a", "1", "0123456789ab", "2.0Mi", "true"], ["127.0.0.1:5000/a", "2", "0123456789ab", "2.0Mi", "true"]]
        );
        let nameless = object!({ "id": "sha256:01", "size": 1, "repoTags": [], "repoDigests": ["r@sha256:01"] });
        assert_eq!(rows(&nameless), [["r", "<none>", "01", "1", "false"]]);
        assert_eq!((name(&image), name(&nameless)), ("docker.io/library/a:1", "r@sha256:01"));
    }
}
