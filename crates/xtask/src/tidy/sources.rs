//! Source files: each opens with a header, and those that are too long are listed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Longer files need a reason in their header; longer functions likewise.
const FILE_LINES: usize = 1000;
const FUNCTION_LINES: usize = 100;
/// What we aim at.
const FILE_AIM: usize = 400;

/// Checks all sources below some folders of the repository.
pub(super) fn check(root: &Path, folders: &[&str]) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut long = Vec::new();
    let files = folders.iter().map(|folder| rust_files(&root.join(folder))).collect::<Result<Vec<_>>>()?;
    for path in files.into_iter().flatten() {
        let text = super::read(&path)?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if !text.starts_with("//!") {
            problems.push(format!("{name} does not open with //!"));
        }
        if path.file_name().is_some_and(|f| f == "mod.rs") {
            problems.push(format!("{name}: use name.rs beside name/"));
        }
        let lines = production_lines(&text);
        if lines > FILE_AIM {
            long.push(format!("{name}: {lines} lines"));
        }
        let excused = text.contains("//! Length:");
        if lines > FILE_LINES && !excused {
            problems.push(format!("{name} has {lines} lines; say why in its header (`//! Length: …`) or split it"));
        }
        for (function, lines) in functions(&text).filter(|(_, lines)| *lines > FUNCTION_LINES && !excused) {
            problems.push(format!("{name}: fn {function} has {lines} lines; say why in the header (`//! Length: …`) or split it"));
        }
    }
    if !long.is_empty() {
        long.sort();
        println!("over the aim of {FILE_AIM} lines:\n  {}", long.join("\n  "));
    }
    Ok(problems)
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

/// Lines before the tests. What is compiled for tests alone elsewhere does not end the file.
fn production_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let is_module = |line: &str| line.trim_start_matches("pub(crate) ").starts_with("mod tests {");
    let tests = lines.windows(2).position(|two| two[0] == "#[cfg(test)]" && is_module(two[1]));
    tests.unwrap_or(lines.len())
}

/// Functions with their lengths: from `fn` to the closing brace of the same indentation, as rustfmt lays them out.
fn functions(text: &str) -> impl Iterator<Item = (&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    (0..lines.len()).filter_map(move |i| {
        let line = lines[i];
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let head = body.split('{').next().unwrap_or_default();
        let name = head.split("fn ").nth(1)?.split(['(', '<']).next()?;
        let declares = head
            .split("fn ")
            .next()?
            .split_whitespace()
            .all(|w| w.starts_with("pub") || matches!(w, "async" | "const" | "unsafe" | "extern"));
        if !declares || body.ends_with('}') || body.starts_with("//") {
            return None;
        }
        let close = format!("{}}}", " ".repeat(indent));
        let length = lines[i..].iter().position(|l| *l == close)?;
        Some((name, length + 1))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_up_to_the_tests() {
        let text = "a();\n#[cfg(test)]\nfn b() {}\n\n#[cfg(test)]\nmod tests;\nfn c() {}\n#[cfg(test)]\npub(crate) mod tests {\n}\n";
        assert_eq!((production_lines(text), production_lines("a();\nb();\n")), (7, 2));
    }

    #[test]
    fn functions_are_measured() {
        let text = "impl X {\n    pub fn a(&self) {\n        b();\n    }\n}\n\nfn c<T>() {\n}\n";
        assert_eq!(functions(text).collect::<Vec<_>>(), [("a", 3), ("c", 2)]);
    }
}
