//! Records as lines of JSON in a file that is rotated, or on standard output. A line is written before the request goes on, as
//! upstream's blocking mode has it; the kernel's cache takes it, nothing waits for the disk.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fram_machinery::{Value, json};
use parking_lot::Mutex;

use crate::{AuditError, Sink};

/// Where the log is and how much of it is kept; the defaults are upstream's.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// `-` is standard output.
    pub path: PathBuf,
    /// Megabytes after which a file is put aside; 0 means never.
    pub max_size: u64,
    /// Days after which a file that was put aside is removed; 0 means never.
    pub max_age: u64,
    /// How many files that were put aside are kept; 0 means all.
    pub max_backups: usize,
}

enum Target {
    Standard,
    File { file: File, size: u64 },
}

/// The log sink.
pub struct Log {
    options: LogOptions,
    target: Mutex<Target>,
    now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
}

impl Log {
    pub fn open(options: LogOptions, now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>) -> Result<Self, AuditError> {
        let target = if options.path == Path::new("-") { Target::Standard } else { open(&options.path)? };
        Ok(Self { options, target: Mutex::new(target), now })
    }

    fn write(&self, line: &[u8]) -> Result<(), AuditError> {
        let failed = |source| AuditError::Io { path: self.options.path.clone(), operation: "write", source };
        let mut target = self.target.lock();
        if let Target::File { size, .. } = &*target
            && self.options.max_size > 0
            && *size > 0
            && *size + line.len() as u64 > self.options.max_size << 20
        {
            // What cannot be put aside goes on where it is: a log that is too long is better than none.
            match self.rotate() {
                Ok(new) => *target = new,
                Err(error) => tracing::warn!(%error, "the audit log is not rotated"),
            }
        }
        match &mut *target {
            Target::Standard => std::io::stdout().lock().write_all(line).map_err(failed),
            Target::File { file, size } => {
                file.write_all(line).map_err(failed)?;
                *size += line.len() as u64;
                Ok(())
            }
        }
    }

    /// Puts the file aside under the time and begins a new one.
    fn rotate(&self) -> Result<Target, AuditError> {
        let path = &self.options.path;
        let now = (self.now)();
        let aside = backup_name(path, now);
        match std::fs::rename(path, &aside) {
            // Somebody else has put it aside already.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            renamed => renamed.map_err(|source| AuditError::Io { path: path.clone(), operation: "rename", source })?,
        }
        let new = open(path)?;
        if let Err(error) = self.remove_surplus(now) {
            tracing::warn!(%error, "old audit logs stay");
        }
        Ok(new)
    }

    /// Removes what was put aside and is too old or too much.
    fn remove_surplus(&self, now: jiff::Timestamp) -> Result<(), AuditError> {
        let backups = backups(&self.options.path)?;
        let oldest = i64::try_from(self.options.max_age).unwrap_or(i64::MAX).saturating_mul(24 * 3600);
        for (age, (file, stamp)) in backups.iter().rev().enumerate() {
            let surplus = self.options.max_backups > 0 && age >= self.options.max_backups;
            let stale = self.options.max_age > 0 && stamp.is_some_and(|s| now.as_second() - s.as_second() > oldest);
            if (surplus || stale)
                && let Err(error) = std::fs::remove_file(file)
            {
                tracing::warn!(path = %file.display(), %error, "an old audit log stays");
            }
        }
        Ok(())
    }
}

impl Sink for Log {
    fn name(&self) -> &'static str {
        "log"
    }

    fn take(&self, event: &Arc<Value>) -> bool {
        let mut line = json::to_vec(event);
        line.push(b'\n');
        match self.write(&line) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "an audit event is lost");
                false
            }
        }
    }
}

fn open(path: &Path) -> Result<Target, AuditError> {
    let failed = |operation| move |source| AuditError::Io { path: path.into(), operation, source };
    if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path).map_err(failed("open"))?;
    let size = file.metadata().map_err(failed("ask for the size of"))?.len();
    Ok(Target::File { file, size })
}

const STAMP: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Name and extension of a log.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = path.extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
    (text(path.file_stem()), extension)
}

/// `audit-2026-01-02T03-04-05.678.log` beside `audit.log`, as upstream's logs are named.
fn backup_name(path: &Path, now: jiff::Timestamp) -> PathBuf {
    let (name, extension) = parts(path);
    path.with_file_name(format!("{name}-{}{extension}", now.strftime(STAMP)))
}

/// What was put aside, oldest first.
fn backups(path: &Path) -> Result<Vec<(PathBuf, Option<jiff::Timestamp>)>, AuditError> {
    let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |source| AuditError::Io { path: folder.into(), operation: "list", source };
    let (name, extension) = parts(path);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name().to_string_lossy().into_owned();
        let stamp = file.strip_prefix(&format!("{name}-")).and_then(|rest| rest.strip_suffix(&extension));
        let stamp = stamp.and_then(|s| jiff::civil::DateTime::strptime(STAMP, s).ok());
        if let Some(stamp) = stamp {
            found.push((entry.path(), stamp.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|z| z.timestamp())));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicI64, Ordering};

    #[test]
    fn a_full_log_is_put_aside_and_old_ones_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(AtomicI64::new(1_700_000_000));
        let time = clock.clone();
        let now = Arc::new(move || jiff::Timestamp::from_second(time.fetch_add(1, Ordering::Relaxed)).unwrap());
        let options = LogOptions { path: folder.path().join("sub/audit.log"), max_size: 1, max_age: 1, max_backups: 2 };
        let log = Log::open(options.clone(), now).unwrap();
        let event = Arc::new(Value::from("x".repeat(400 << 10)));
        let names = || {
            let entries = std::fs::read_dir(folder.path().join("sub")).unwrap();
            let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        };
        for _ in 0..3 {
            assert!(log.take(&event));
        }
        assert_eq!(names(), ["audit-2023-11-14T22-13-20.000.log", "audit.log"]);
        for _ in 0..6 {
            assert!(log.take(&event));
        }
        assert_eq!(names(), ["audit-2023-11-14T22-13-22.000.log", "audit-2023-11-14T22-13-23.000.log", "audit.log"]);
        // Somebody else puts it aside: the next one is begun all the same.
        std::fs::rename(&options.path, folder.path().join("elsewhere")).unwrap();
        assert!(log.take(&event) && log.take(&event) && log.take(&event));
        assert!(options.path.exists());
        clock.fetch_add(2 * 24 * 3600, Ordering::Relaxed);
        assert!(log.take(&event) && log.take(&event));
        assert_eq!(names().len(), 2, "what is older than a day is gone");
    }

    #[test]
    fn records_are_lines_that_a_second_start_goes_on_with() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let options = LogOptions { path: folder.path().join("audit.log"), max_size: 100, max_age: 0, max_backups: 0 };
        for text in ["one", "two"] {
            let log = Log::open(options.clone(), Arc::new(|| jiff::Timestamp::UNIX_EPOCH)).unwrap();
            assert!(log.take(&Arc::new(Value::from(text))));
        }
        assert_eq!(std::fs::read_to_string(&options.path).unwrap(), "\"one\"\n\"two\"\n");
        assert_eq!(std::fs::metadata(&options.path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
