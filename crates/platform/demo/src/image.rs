//! An image of one program and what it needs, as an archive in the OCI layout. The same program gives the same image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fram_machinery::{Value, json, object};
use sha2::{Digest, Sha256};

use crate::elf::{self, ElfError};

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot tell what {name} needs: {source}")]
    Elf { name: String, source: ElfError },
    #[error("the program needs {name}, which is in none of {}", folders.join(", "))]
    NoLibrary { name: String, folders: Vec<String> },
    #[error("cannot write the archive: {0}")]
    Write(#[from] std::io::Error),
}

/// An archive, and the ID of the image in it.
pub(crate) struct Packed {
    pub(crate) archive: Vec<u8>,
    pub(crate) id: String,
    /// Everything in the image, by path.
    pub(crate) files: Vec<String>,
}

/// Where the dynamic loader looks by itself, Debian's folders first; see ld.so(8). In the image there is no cache of it.
fn folders(arch: &str) -> Vec<String> {
    let triplet = format!("{arch}-linux-gnu");
    [format!("/lib/{triplet}"), format!("/usr/lib/{triplet}"), "/lib64".into(), "/usr/lib64".into(), "/lib".into(), "/usr/lib".into()]
        .into()
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    std::fs::read(path).map_err(|source| ImageError::Read { path: path.into(), source })
}

/// The files that a program needs, by the path at which it looks for them.
fn needed(name: &str, program: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, ImageError> {
    let folders = folders(std::env::consts::ARCH);
    let read_needs = |name: &str, file: &[u8]| elf::needs(file).map_err(|source| ImageError::Elf { name: name.into(), source });
    let needs = read_needs(name, program)?;
    let mut files = BTreeMap::new();
    let mut wanted = needs.libraries;
    if let Some(interpreter) = needs.interpreter {
        files.insert(interpreter.clone(), read(Path::new(&interpreter))?);
    }
    let mut seen = BTreeSet::new();
    while let Some(library) = wanted.pop() {
        if !seen.insert(library.clone()) || files.keys().any(|path| path.rsplit('/').next() == Some(&library)) {
            continue;
        }
        let found = folders.iter().map(|f| format!("{f}/{library}")).find(|p| Path::new(p).exists());
        let path = found.ok_or_else(|| ImageError::NoLibrary { name: library.clone(), folders: folders.clone() })?;
        let file = read(Path::new(&path))?;
        wanted.extend(read_needs(&library, &file)?.libraries);
        files.insert(path, file);
    }
    Ok(files)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(size: usize, mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_entry_type(kind);
    header
}

/// A tar of files; folders are made as they are needed. No times, no owners: equal files give equal bytes.
fn tar_of(files: &BTreeMap<String, Vec<u8>>, mode: u32) -> Result<Vec<u8>, ImageError> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for (path, file) in files {
        let path = path.trim_start_matches('/');
        let parents: Vec<&str> = path.match_indices('/').map(|(i, _)| &path[..i]).collect();
        for folder in parents {
            if folders.insert(folder.to_string()) {
                tar.append_data(&mut header(0, 0o755, tar::EntryType::Directory), folder, std::io::empty())?;
            }
        }
        tar.append_data(&mut header(file.len(), mode, tar::EntryType::Regular), path, file.as_slice())?;
    }
    Ok(tar.into_inner()?)
}

/// Files of the archive, by path; blobs by their digests.
#[derive(Default)]
struct Layout(BTreeMap<String, Vec<u8>>);

impl Layout {
    /// Puts a blob in; gives its descriptor.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let hex: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        self.0.insert(format!("blobs/sha256/{hex}"), bytes);
        object!({ "mediaType": (format!("application/vnd.oci.image.{media_type}")), "digest": (format!("sha256:{hex}")), "size": size })
    }
}

/// Packs a program as `/NAME`, which is the image's entry point, under a reference.
pub(crate) fn pack(reference: &str, name: &str, program: &[u8]) -> Result<Packed, ImageError> {
    let mut files = needed(name, program)?;
    files.insert(format!("/{name}"), program.to_vec());
    let mut layout = Layout::default();
    let layer = layout.blob("layer.v1.tar", tar_of(&files, 0o755)?);
    let config = object!({ "architecture": (architecture()), "os": "linux",
        // Not root: the number needs no entry in a passwd file.
        "config": { "Entrypoint": [(format!("/{name}"))], "Env": ["PATH=/"], "User": "65534:65534", "WorkingDir": "/" },
        "rootfs": { "type": "layers", "diff_ids": [(layer.str_at(&["digest"]))] } });
    let config = layout.blob("config.v1+json", json::to_vec(&config));
    let id = config.str_at(&["digest"]).to_string();
    let manifest =
        object!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": [layer] });
    let mut manifest = layout.blob("manifest.v1+json", json::to_vec(&manifest));
    manifest.set(&["annotations", "io.containerd.image.name"], reference);
    let index = object!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest] });
    layout.0.insert("index.json".into(), json::to_vec(&index));
    layout.0.insert("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    Ok(Packed { archive: tar_of(&layout.0, 0o644)?, id, files: files.into_keys().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_holds_the_program_and_all_that_it_needs_and_is_the_same_each_time() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        let packed = pack("localhost/x:1", "x", &program).unwrap();
        assert!(packed.files.contains(&"/x".to_string()));
        assert!(packed.files.iter().any(|f| f.contains("ld-linux")), "{:?}", packed.files);
        assert!(packed.files.iter().any(|f| f.ends_with("/libc.so.6")), "{:?}", packed.files);
        let again = pack("localhost/x:1", "x", &program).unwrap();
        assert!(again.id == packed.id && again.archive == packed.archive);
    }

    #[test]
    fn a_script_is_no_program() {
        assert!(matches!(pack("x", "x", b"#!/bin/sh\n"), Err(ImageError::Elf { .. })));
    }
}
