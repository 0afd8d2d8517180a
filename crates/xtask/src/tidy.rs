//! What no compiler checks: the direction of dependencies between floors, file headers, sizes, links in documents, and
//! that every crate has its section in ARCHITECTURE.md.

mod floors;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Runs all checks; over-long files and functions are listed, everything else fails.
pub(crate) fn check() -> Result<()> {
    let metadata = cargo_metadata::MetadataCommand::new().no_deps().exec().context("cannot read cargo metadata")?;
    let root = metadata.workspace_root.clone().into_std_path_buf();
    let mut problems = floors::check(&metadata);
    problems.extend(sources::check(&root, &["crates", "examples"])?);
    problems.extend(check_documents(&root, &metadata)?);
    if problems.is_empty() {
        return Ok(());
    }
    problems.iter().for_each(|p| println!("tidy: {p}"));
    bail!("{} problems", problems.len())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The documents: those at the root and in `docs`, and what they lead to.
fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in [root.to_path_buf(), root.join("docs"), root.join("bench/engines")] {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            found.extend(path.extension().is_some_and(|e| e == "md").then_some(path));
        }
    }
    found.sort();
    Ok(found)
}

/// Links of the documents lead somewhere, and every crate has its section.
fn check_documents(root: &Path, metadata: &cargo_metadata::Metadata) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    for document in documents(root)? {
        let text = read(&document)?;
        for link in links(&text).filter(|l| !l.contains("://") && !l.starts_with('#')) {
            let file = document.parent().unwrap_or(root).join(link.split('#').next().unwrap_or_default());
            if !file.exists() {
                let name = document.strip_prefix(root).unwrap_or(&document).display();
                problems.push(format!("{name}: the link {link} leads nowhere"));
            }
        }
    }
    let architecture = read(&root.join("ARCHITECTURE.md"))?;
    for package in &metadata.packages {
        let heading = format!("### `{}`", package.name);
        if !architecture.contains(&heading) {
            problems.push(format!("ARCHITECTURE.md has no section {heading}"));
        }
    }
    Ok(problems)
}

/// The targets of Markdown links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[cfg(test)]
mod tests {
    #[test]
    fn links_are_found() {
        let all: Vec<&str> = super::links("see [a](b.md) and [c](https://d#e).").collect();
        assert_eq!(all, ["b.md", "https://d#e"]);
    }
}
