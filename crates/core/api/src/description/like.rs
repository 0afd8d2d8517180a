//! Versions of an API that have the kinds of another version: `like PACKAGE KINDS… [shared=TYPES]`. The kinds and the types that
//! they need are taken over under the file's own package and group version; what the file declares itself stands in their place.

use std::collections::BTreeSet;

use super::{Block, DescriptionError, File, Result};

/// Which kinds are those of which package.
pub(super) struct Like {
    pub(super) package: &'static str,
    kinds: Vec<&'static str>,
    /// Types that stay those of that package.
    pub(super) shared: Vec<&'static str>,
}

impl Like {
    pub(super) fn parse(words: &[&'static str]) -> Option<Self> {
        let (package, rest) = words.split_first()?;
        let (shared, kinds): (Vec<&str>, Vec<&str>) = rest.iter().partition(|w| w.starts_with("shared="));
        let shared = shared.iter().flat_map(|w| w["shared=".len()..].split(',')).collect();
        (!kinds.is_empty()).then_some(Self { package, kinds, shared })
    }
}

/// Gives each file what it says that it has from others. A file comes after those whose kinds it takes.
pub(super) fn fill(files: &mut [File]) -> Result<()> {
    for i in 0..files.len() {
        let (before, rest) = files.split_at_mut(i);
        let file = &mut rest[0];
        let Some(like) = &file.like else { continue };
        let fail = |message: String| DescriptionError::Line { file: file.name.into(), line: 1, message };
        let other = before.iter().find(|f| f.package == like.package);
        let other = other.ok_or_else(|| fail(format!("{} is not read before", like.package)))?;
        let types = needed(other, file, like);
        for name in &like.kinds {
            let kind = other.kinds.iter().find(|k| k.header[1] == *name);
            let mut kind = kind.ok_or_else(|| fail(format!("{} has no kind {name}", like.package)))?.clone();
            kind.lines.retain(|(_, line)| *line != "storage");
            file.kinds.push(kind);
        }
        file.types.extend(types);
    }
    Ok(())
}

/// The types of `other` that the kinds and the types of `file` lead to.
fn needed(other: &File, file: &File, like: &Like) -> Vec<Block> {
    let mut seen: BTreeSet<&str> = like.shared.iter().copied().collect();
    let mut open: Vec<&str> = like.kinds.clone();
    open.extend(file.types.iter().flat_map(references));
    let own: Vec<&str> = file.types.iter().map(|block| block.header[1]).collect();
    let mut out = Vec::new();
    while let Some(name) = open.pop() {
        if own.contains(&name) || !seen.insert(name) {
            continue;
        }
        let Some(block) = other.types.iter().find(|t| t.header[1] == name) else { continue };
        open.extend(references(block));
        out.push(block.clone());
    }
    out
}

/// The names of types in the fields of a type.
fn references(block: &Block) -> impl Iterator<Item = &'static str> {
    let types = block.lines.iter().filter_map(|(_, line)| line.split(' ').nth(2));
    types.map(|text| text.trim_start_matches('*').trim_start_matches("[]").trim_start_matches("map[string]").trim_start_matches('*'))
}
