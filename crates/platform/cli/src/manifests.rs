//! `-f`: manifests from files, folders and standard input, as single objects.

use std::io::Read;
use std::path::{Path, PathBuf};

use fram_machinery::{Value, yaml};

use crate::error::{CliError, Result};

#[derive(clap::Args, Debug, Clone, Default)]
pub(crate) struct Files {
    /// Manifests: a file, a folder, or `-` for standard input. May be given several times, or with commas between them.
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", value_delimiter = ',')]
    pub files: Vec<PathBuf>,
    /// Read the folders below a folder, too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

impl Files {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// All objects, in the order of the files.
    pub(crate) fn read(&self) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for file in &self.files {
            if file.as_os_str() == "-" {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.map_err(|source| CliError::Io { operation: "read", path: "standard input".into(), source })?;
                objects.extend(parse(&text, "standard input")?);
                continue;
            }
            for path in self.below(file, true)? {
                let text =
                    std::fs::read_to_string(&path).map_err(|source| CliError::Io { operation: "read", path: path.clone(), source })?;
                objects.extend(parse(&text, &path.display().to_string())?);
            }
        }
        if objects.is_empty() {
            return Err(CliError::failed("no objects passed: the files hold no manifests"));
        }
        Ok(objects)
    }

    /// A file itself, or the manifests of a folder by name.
    fn below(&self, path: &Path, named: bool) -> Result<Vec<PathBuf>> {
        let failed = |source| CliError::Io { operation: "read", path: path.into(), source };
        let is_folder = std::fs::metadata(path).map_err(failed)?.is_dir();
        if !is_folder {
            let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e));
            return Ok(if named || known { vec![path.into()] } else { Vec::new() });
        }
        if !named && !self.recursive {
            return Ok(Vec::new());
        }
        let entries = std::fs::read_dir(path).map_err(failed)?.map(|e| e.map(|e| e.path()));
        let mut entries = entries.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        entries.sort();
        let mut found = Vec::new();
        for entry in entries {
            found.extend(self.below(&entry, false)?);
        }
        Ok(found)
    }
}

/// The objects of a text; lists give their items.
pub fn parse(text: &str, source: &str) -> Result<Vec<Value>> {
    let documents = yaml::documents(text).map_err(|e| CliError::failed(format!("error parsing {source}: {e}")))?;
    let mut objects = Vec::new();
    for document in documents {
        if document.str_at(&["kind"]).is_empty() || document.str_at(&["apiVersion"]).is_empty() {
            return Err(CliError::failed(format!("error validating {source}: apiVersion or kind not set")));
        }
        match document.str_at(&["kind"]).ends_with("List") && document.get("items").is_some() {
            true => objects.extend(document.list_at(&["items"]).iter().cloned()),
            false => objects.push(document),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(objects: &[Value]) -> Vec<&str> {
        objects.iter().map(|o| o.str_at(&["kind"])).collect()
    }

    #[test]
    fn a_text_holds_several_objects_and_lists_give_their_items() {
        let text = "apiVersion: v1\nkind: A\n---\n# nothing\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n- {apiVersion: v1, kind: C}\n";
        assert_eq!(kinds(&parse(text, "x").unwrap()), ["A", "B", "C"]);
        assert!(parse("kind: A\n", "x").is_err() && parse("[", "x").is_err());
    }

    #[test]
    fn folders_are_read_by_name_and_below_where_asked() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, kind: &str| std::fs::write(folder.path().join(name), format!("apiVersion: v1\nkind: {kind}\n")).unwrap();
        std::fs::create_dir(folder.path().join("sub")).unwrap();
        write("b.yaml", "B");
        write("a.json", "A");
        write("notes.txt", "No");
        write("sub/c.yml", "C");
        let read = |recursive| Files { files: vec![folder.path().into()], recursive }.read().unwrap();
        assert_eq!(kinds(&read(false)), ["A", "B"]);
        assert_eq!(kinds(&read(true)), ["A", "B", "C"]);
        assert!(Files { files: vec!["/nowhere".into()], recursive: false }.read().is_err());
    }
}
