//! A container's log in the CRI's format: each line `2006-01-02T15:04:05.000000000Z stdout F text`, where P in place of
//! F says that the line goes on in the next record. Whoever reads it is `kubectl logs` through the kubelet.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::clock;

/// Longer lines are cut into partial records, as containerd does (`max_container_log_line_size`).
const MAX_LINE: usize = 16 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts a stream of bytes into records. Pure but for the time that is handed in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Appends the records that `bytes` completes to `out`.
    pub(super) fn push(&mut self, stream: Stream, mut bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                record(stream, "F", &self.partial, &bytes[..end], time, out);
                self.partial.clear();
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                record(stream, "P", &self.partial, window, time, out);
                self.partial.clear();
                bytes = &bytes[room..];
            } else {
                self.partial.extend_from_slice(bytes);
                return;
            }
        }
    }

    /// What is left when the stream ends, if anything: a line without its end.
    pub(super) fn finish(&mut self, stream: Stream, time: &str, out: &mut Vec<u8>) {
        if !self.partial.is_empty() {
            record(stream, "P", &self.partial, &[], time, out);
            self.partial = Vec::new();
        }
    }
}

fn record(stream: Stream, tag: &str, first: &[u8], second: &[u8], time: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(b" ");
    out.extend_from_slice(first);
    out.extend_from_slice(second);
    out.push(b'\n');
}

/// The file behind a log. Writing never fails for the container: a full disk costs log lines, not the workload.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        Ok(LogFile { path: path.to_path_buf(), file })
    }

    /// The kubelet has renamed the file; go on in a new one.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        *self = LogFile::open(&self.path)?;
        Ok(())
    }

    pub(super) fn write(&mut self, records: &[u8]) {
        // There is nobody to tell, and the container must not stop for it.
        let _ = self.file.write_all(records);
    }
}

pub(super) fn now() -> String {
    clock::rfc3339_nano(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> String {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(Stream::Stdout, chunk, "T", &mut out);
        }
        lines.finish(Stream::Stdout, "T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_cut_wherever_the_chunks_end() {
        assert_eq!(cut(&[b"one\ntwo\n"]), "T stdout F one\nT stdout F two\n");
        assert_eq!(cut(&[b"o", b"ne", b"\n", b"\n"]), "T stdout F one\nT stdout F \n");
        assert_eq!(cut(&[b"no end"]), "T stdout P no end\n");
        assert_eq!(cut(&[]), "");
    }

    #[test]
    fn a_long_line_becomes_partial_records() {
        let long = vec![b'x'; MAX_LINE + 1];
        let whole = "x".repeat(MAX_LINE);
        assert_eq!(cut(&[&long, b"\n"]), format!("T stdout P {whole}\nT stdout F x\n"));
        let exact = &long[..MAX_LINE];
        assert_eq!(cut(&[exact, b"\n"]), format!("T stdout P {whole}\nT stdout F \n"));
    }
}
