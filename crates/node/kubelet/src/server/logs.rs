//! Containers' logs in the CRI's format: `<time> <stream> <P|F> <text>`, one line each.

use std::path::Path;

/// The end of a log as plain text: at most so many lines and bytes.
pub(crate) fn tail_messages(path: &Path, lines: usize, limit: usize) -> String {
    let Ok(text) = std::fs::read(path) else { return String::new() };
    let mut messages: Vec<&[u8]> = Vec::new();
    for line in text.split(|b| *b == b'\n').rev().filter(|l| !l.is_empty()).take(lines) {
        messages.push(line.splitn(4, |b| *b == b' ').nth(3).unwrap_or_default());
    }
    messages.reverse();
    let joined = messages.iter().flat_map(|m| m.iter().chain(b"\n")).copied().collect::<Vec<u8>>();
    String::from_utf8_lossy(&joined[joined.len().saturating_sub(limit)..]).into_owned()
}
