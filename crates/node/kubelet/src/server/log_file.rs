//! Reading containers' logs in the CRI's format: `<time> <stream> <P|F> <text>`, one line each. What of a line is shown is
//! decided purely; the reader follows a file through its rotation.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};

const CHUNK: usize = 64 << 10;

/// What a reader of a log wants to see.
#[derive(Debug, Clone, Default)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) timestamps: bool,
    pub(super) tail_lines: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) limit_bytes: Option<u64>,
    /// `stdout` or `stderr` only.
    pub(super) stream: Option<String>,
}

/// One line of a log file.
struct Line<'a> {
    time: &'a str,
    stream: &'a str,
    partial: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let mut parts = line.splitn(4, |b| *b == b' ');
    let mut word = || std::str::from_utf8(parts.next()?).ok();
    let (time, stream, tag) = (word()?, word()?, word()?);
    // Tags may be joined by colons; only the first has a meaning.
    Some(Line { time, stream, partial: tag.split(':').next() == Some("P"), text: parts.next().unwrap_or_default() })
}

/// Turns lines of a log file into what is shown; keeps track of lines that come in parts.
pub(super) struct Formatter {
    options: LogOptions,
    within_line: bool,
    left: Option<u64>,
}

impl Formatter {
    pub(super) fn new(options: LogOptions) -> Self {
        let left = options.limit_bytes;
        Self { options, within_line: false, left }
    }

    /// Appends what is shown of a line, which comes without its line feed.
    pub(super) fn add(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = parse(line) else { return };
        let early = self.options.since.is_some_and(|since| line.time.parse::<Timestamp>().is_ok_and(|at| at < since));
        let other = self.options.stream.as_ref().is_some_and(|wanted| wanted != line.stream);
        if early || other {
            return;
        }
        let begin = out.len();
        if self.options.timestamps && !self.within_line {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        self.within_line = line.partial;
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(begin.saturating_add(room).min(out.len()));
            *left -= (out.len() - begin) as u64;
        }
    }

    /// Whether the reader has all that it asked for.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }
}

/// Reads a file line by line from where it was left, and goes on in the new file after a rotation.
pub(super) struct LogReader {
    path: PathBuf,
    file: File,
    inode: u64,
    /// The file in which the log goes on, once there is one. What was written to this one before that may not have been read yet.
    following: Option<(File, u64)>,
    rest: Vec<u8>,
}

impl LogReader {
    /// Opens a log at the beginning of its last lines.
    pub(super) async fn open(path: &Path, tail_lines: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        if let Some(lines) = tail_lines {
            let start = start_of_tail(&mut file, lines).await?;
            file.seek(SeekFrom::Start(start)).await?;
        }
        let inode = inode(&file).await?;
        Ok(Self { path: path.to_path_buf(), file, inode, following: None, rest: Vec::new() })
    }

    /// The next complete lines, joined by line feeds; None where there are none now.
    pub(super) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = self.file.read(&mut chunk).await?;
            if read == 0 {
                if let Some((file, inode)) = self.following.take() {
                    (self.file, self.inode) = (file, inode);
                    continue;
                }
                self.following = self.successor().await?;
                match self.following {
                    // Nobody writes to this one any more: what is in it now is all.
                    Some(_) => continue,
                    None => return Ok(None),
                }
            }
            self.rest.extend_from_slice(&chunk[..read]);
            if let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') {
                let after = self.rest.split_off(end + 1);
                let mut lines = std::mem::replace(&mut self.rest, after);
                lines.pop();
                return Ok(Some(lines));
            }
        }
    }

    /// The file after this one, where the log was rotated: who reads slowly may be more than one behind.
    async fn successor(&self) -> io::Result<Option<(File, u64)>> {
        let current = match File::open(&self.path).await {
            Ok(current) => current,
            // Between the two steps of a rotation.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let of_current = inode(&current).await?;
        if of_current == self.inode {
            return Ok(None);
        }
        let mut rotated = Vec::new();
        for path in crate::rotate::rotated(&self.path)? {
            // The oldest may go meanwhile.
            if let Ok(file) = File::open(&path).await {
                rotated.push((inode(&file).await?, file));
            }
        }
        let own = rotated.iter().position(|(inode, _)| *inode == self.inode);
        // Where this one has gone meanwhile, those that are left are all newer.
        let next = own.map_or(0, |place| place + 1);
        Ok(rotated.into_iter().nth(next).map(|(inode, file)| (file, inode)).or(Some((current, of_current))))
    }
}

async fn inode(file: &File) -> io::Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::ino(&file.metadata().await?))
}

/// Where the last lines of a file begin, found from its end.
async fn start_of_tail(file: &mut File, lines: u64) -> io::Result<u64> {
    let length = file.metadata().await?.len();
    if lines == 0 {
        return Ok(length);
    }
    let (mut end, mut seen) = (length, 0);
    while end > 0 {
        let begin = end.saturating_sub(CHUNK as u64);
        file.seek(SeekFrom::Start(begin)).await?;
        let mut chunk = vec![0; usize::try_from(end - begin).unwrap_or(CHUNK)];
        file.read_exact(&mut chunk).await?;
        for (i, byte) in chunk.iter().enumerate().rev() {
            let at = begin + i as u64;
            // The line feed at the very end closes the last line and begins none.
            if *byte == b'\n' && at + 1 < length {
                seen += 1;
                if seen == lines {
                    return Ok(at + 1);
                }
            }
        }
        end = begin;
    }
    Ok(0)
}

/// The end of a log as plain text: at most so many lines and bytes.
pub(crate) fn tail_messages(path: &Path, lines: usize, limit: usize) -> String {
    let Ok(text) = std::fs::read(path) else { return String::new() };
    let mut formatter = Formatter::new(LogOptions::default());
    let mut out = Vec::new();
    let all: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
    for line in &all[all.len().saturating_sub(lines)..] {
        formatter.add(line, &mut out);
    }
    String::from_utf8_lossy(&out[out.len().saturating_sub(limit)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.5Z stdout F one\n2026-01-01T00:00:01Z stderr P tw\n2026-01-01T00:00:01Z stderr F o\n2026-01-01T00:00:02Z stdout F \n";

    #[track_caller]
    fn check(options: LogOptions, expect: &str) {
        let mut formatter = Formatter::new(options);
        let mut out = Vec::new();
        LOG.lines().for_each(|l| formatter.add(l.as_bytes(), &mut out));
        assert_eq!(String::from_utf8(out).unwrap(), expect);
    }

    #[test]
    fn lines_are_shown_as_they_were_written() {
        check(LogOptions::default(), "one\ntwo\n\n");
        check(
            LogOptions { timestamps: true, ..Default::default() },
            "2026-01-01T00:00:00.5Z one\n2026-01-01T00:00:01Z two\n2026-01-01T00:00:02Z \n",
        );
        check(LogOptions { since: "2026-01-01T00:00:01Z".parse().ok(), ..Default::default() }, "two\n\n");
        check(LogOptions { limit_bytes: Some(6), ..Default::default() }, "one\ntw");
        check(LogOptions { stream: Some("stderr".into()), ..Default::default() }, "two\n");
    }

    #[tokio::test]
    async fn a_tail_begins_at_its_first_line_and_a_rotated_log_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let long = "x".repeat(CHUNK);
        std::fs::write(&path, format!("a\n{long}\nb\nc\n")).unwrap();
        let lines = async |n| {
            let found = LogReader::open(&path, n).await.unwrap().next().await.unwrap();
            found.map(|l| String::from_utf8(l).unwrap().len())
        };
        assert_eq!((lines(Some(0)).await, lines(Some(1)).await, lines(Some(3)).await), (None, Some(1), Some(CHUNK + 4)));
        let mut reader = LogReader::open(&path, Some(1)).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(b"c".to_vec()));
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        assert_eq!(reader.next().await.unwrap(), None);
        std::fs::write(&path, "d\ne").unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(b"d".to_vec()));
        assert_eq!(reader.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn nothing_is_lost_that_is_written_while_a_log_is_rotated_and_files_in_between_are_read_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let append = |path: &Path, text: &str| {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
            std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        };
        append(&path, "a\n");
        let mut reader = LogReader::open(&path, None).await.unwrap();
        assert_eq!(reader.next().await.unwrap(), Some(b"a".to_vec()));
        let first = dir.path().join("0.log.1");
        std::fs::rename(&path, &first).unwrap();
        append(&path, "c\n");
        // The reader had come to the end of the first file, and it was not the end.
        reader.following = reader.successor().await.unwrap();
        append(&first, "b\n");
        let mut next = async || reader.next().await.unwrap().map(|lines| String::from_utf8(lines).unwrap());
        assert_eq!((next().await.as_deref(), next().await.as_deref(), next().await), (Some("b"), Some("c"), None));
        std::fs::rename(&path, dir.path().join("0.log.2")).unwrap();
        append(&path, "d\n");
        std::fs::rename(&path, dir.path().join("0.log.3")).unwrap();
        append(&path, "e\n");
        assert_eq!((next().await.as_deref(), next().await.as_deref(), next().await), (Some("d"), Some("e"), None));
    }
    #[tokio::test]
    async fn a_reader_whose_file_was_removed_goes_on_with_the_oldest_that_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "a\n").unwrap();
        let mut reader = LogReader::open(&path, None).await.unwrap();
        for (name, next) in [("0.log.1", "b\n"), ("0.log.2", "c\n")] {
            std::fs::rename(&path, dir.path().join(name)).unwrap();
            std::fs::write(&path, next).unwrap();
        }
        std::fs::remove_file(dir.path().join("0.log.1")).unwrap();
        for expect in ["a", "b", "c"] {
            assert_eq!(reader.next().await.unwrap(), Some(expect.into()), "{expect}");
        }
        assert_eq!(reader.next().await.unwrap(), None);
    }
}
