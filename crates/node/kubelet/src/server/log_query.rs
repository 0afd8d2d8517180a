//! Logs of the node's services by their names: /logs/?query=NAME, from the journal where systemd keeps one, and from files below /var/log
//! otherwise. See upstream's documentation of the log query (KEP-2258).

mod pattern;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fram_streaming::answer::{Answer, Body, refuse, text};
use fram_streaming::query::Query;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::node_logs::{self, ROOT};
use crate::clock;

const JOURNALCTL: &str = "journalctl";
/// How long the journal may take in all to say what it has.
const PATIENCE: Duration = Duration::from_secs(30);
const MAX_SERVICES: usize = 4;
const MAX_NAME: usize = 256;
const MAX_LINES: i64 = 100_000;

/// Why a query is not answered: what cannot be read is a bad request, what can be and makes no sense is not acceptable.
pub(super) type Refusal = (StatusCode, String);

/// What is asked for.
#[derive(Debug, PartialEq)]
pub(super) enum LogQuery {
    /// A path below the root.
    File(String),
    Services(Vec<String>, Options),
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Options {
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    tail_lines: Option<i64>,
    /// Counted from the current one, which is zero, backwards.
    boot: Option<i64>,
    pattern: Option<String>,
}

impl LogQuery {
    /// What a query says; None where it says nothing, and a path alone is meant.
    pub(super) fn parse(query: &Query) -> Result<Option<Self>, Refusal> {
        let names = query.all("query");
        if !names.is_empty() && names.iter().all(|name| name.trim().is_empty()) {
            return Err((StatusCode::BAD_REQUEST, format!("query: Invalid value: {names:?}: query cannot be empty")));
        }
        let options = Options::parse(query).map_err(|why| (StatusCode::BAD_REQUEST, why))?;
        Self::of(&names, options).map_err(|why| (StatusCode::NOT_ACCEPTABLE, why))
    }

    fn of(names: &[String], options: Options) -> Result<Option<Self>, String> {
        options.check()?;
        let (files, services): (Vec<_>, Vec<_>) =
            names.iter().map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).partition(|name| name.contains(['/', '\\']));
        let invalid = |why: &str| Err(format!("query: Invalid value: {names:?}: {why}"));
        match (&files[..], &services[..]) {
            ([], []) if options == Options::default() => Ok(None),
            ([], []) => Err("query: Required value: cannot be empty with options".into()),
            ([_, ..], [_, ..]) => invalid("cannot specify a file and service"),
            ([_, _, ..], []) => invalid("cannot specify more than one file"),
            ([_], []) if options != Options::default() => invalid("cannot specify file with options"),
            ([file], []) => Ok(Some(Self::File(file.trim_start_matches('/').to_string()))),
            ([], all) if all.len() > MAX_SERVICES => {
                Err(format!("query: Too many: {}: must have at most {MAX_SERVICES} items", services.len()))
            }
            ([], all) => match all.iter().find_map(|name| unsafe_name(name)) {
                Some(why) => invalid(why),
                None => Ok(Some(Self::Services(services, options))),
            },
        }
    }
}

/// Names go to a program as arguments.
fn unsafe_name(name: &str) -> Option<&'static str> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.:@".contains(c);
    match name {
        name if name.len() > MAX_NAME => Some("length must be less than 256"),
        name if !name.chars().all(is_safe) || name.starts_with('-') => Some("input contains unsupported characters"),
        "." | ".." => Some("it is no name of a service"),
        _ => None,
    }
}

impl Options {
    /// Whether they make sense.
    fn check(&self) -> Result<(), String> {
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since > until
        {
            return Err(format!("untilTime: Invalid value: \"{until}\": must be after `sinceTime`"));
        }
        if let Some(boot) = self.boot.filter(|boot| *boot > 0) {
            return Err(format!("boot: Invalid value: {boot}: must be less than 1"));
        }
        if let Some((pattern, Err(why))) = self.pattern.as_deref().map(|pattern| (pattern, pattern::check(pattern))) {
            return Err(format!("pattern: Invalid value: {pattern:?}: {why}"));
        }
        match self.tail_lines.filter(|lines| !(0..=MAX_LINES).contains(lines)) {
            Some(lines) => Err(format!("tailLines: Invalid value: {lines}: must be between 0 and {MAX_LINES}, inclusive")),
            None => Ok(()),
        }
    }

    fn parse(query: &Query) -> Result<Self, String> {
        let given = |key: &str| Some(query.get(key).to_string()).filter(|text| !text.is_empty());
        let time = |key: &str| {
            let text = given(key);
            let bad = |text: &str| format!("{key}: Invalid value: {text:?}: invalid time format");
            text.map(|text| clock::parse(&text).ok_or_else(|| bad(&text))).transpose()
        };
        let number = |key: &str| {
            let bad = |text: &str, error| format!("{key}: Invalid value: {text:?}: {error}");
            given(key).map(|text| text.parse::<i64>().map_err(|error| bad(&text, error))).transpose()
        };
        Ok(Self {
            since: time("sinceTime")?,
            until: time("untilTime")?,
            tail_lines: number("tailLines")?,
            boot: number("boot")?,
            pattern: given("pattern"),
        })
    }

    /// Times as seconds since 1970, which mean the same in every zone.
    fn arguments(&self, services: &[String]) -> Vec<String> {
        let mut out: Vec<String> = ["--utc", "--no-pager", "--output=short-precise"].map(String::from).into();
        out.extend(self.since.map(|time| format!("--since=@{}", time.as_second())));
        out.extend(self.until.map(|time| format!("--until=@{}", time.as_second())));
        out.extend(self.tail_lines.map(|lines| format!("--lines={lines}")));
        out.extend(self.boot.map(|boot| format!("--boot={boot}")));
        out.extend(self.pattern.iter().map(|pattern| format!("--grep={pattern}")));
        out.extend(self.pattern.iter().map(|_| "--case-sensitive=false".to_string()));
        out.extend(services.iter().map(|name| format!("--unit={name}")));
        out
    }
}

pub(super) async fn serve(query: LogQuery) -> Answer {
    let (services, options) = match query {
        LogQuery::File(path) => return node_logs::file(&path).await,
        LogQuery::Services(services, options) => (services, options),
    };
    let failed = |error: io::Error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("the logs could not be read: {error}"));
    of_services(Path::new(JOURNALCTL), Path::new(ROOT), services, &options).await.map_err(failed)
}

/// What the journal has, and then what is in files.
async fn of_services(journalctl: &Path, root: &Path, services: Vec<String>, options: &Options) -> io::Result<Response<Body>> {
    let until = Instant::now() + PATIENCE;
    let units = journal_units(journalctl, until).await;
    let (in_journal, in_files): (Vec<String>, Vec<String>) = services.into_iter().partition(|name| units.contains(name));
    let rest = if in_files.is_empty() {
        String::new()
    } else if *options != Options::default() {
        format!("\noptions present and query resolved to log files for {in_files:?}\ntry without specifying options\n")
    } else {
        let root = root.to_path_buf();
        let read = move || in_files.iter().map(|name| of_files(&root, name)).collect::<io::Result<String>>();
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??
    };
    if in_journal.is_empty() { Ok(text(&rest)) } else { journal(journalctl, &options.arguments(&in_journal), rest, until) }
}

/// Services that have written to the journal; none where there is no journal.
async fn journal_units(journalctl: &Path, until: Instant) -> Units {
    let mut command = Command::new(journalctl);
    command.args(["--field", "_SYSTEMD_UNIT"]).stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout_at(until, command.output()).await {
        Ok(Ok(output)) => Units(String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()),
        Ok(Err(error)) => {
            tracing::debug!(%error, "there is no journal to ask");
            Units(Vec::new())
        }
        Err(_) => {
            tracing::warn!("the journal does not say which units it has");
            Units(Vec::new())
        }
    }
}

struct Units(Vec<String>);

impl Units {
    fn contains(&self, service: &str) -> bool {
        self.0.iter().any(|unit| unit == service || unit.strip_suffix(".service") == Some(service))
    }
}

/// The journal's words as they come, its complaints among them, and behind them the `rest`.
fn journal(journalctl: &Path, arguments: &[String], rest: String, until: Instant) -> io::Result<Response<Body>> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new(journalctl);
    command.args(arguments).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer).kill_on_drop(true);
    let mut child = command.spawn()?;
    // Or the end of its words would never be seen.
    drop(command);
    let pipe = pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let mut program = JoinSet::new();
    program.spawn(async move {
        // It is killed with what stands for it here, also while nobody reads what it says.
        if let Ok(Err(error)) = tokio::time::timeout_at(until, child.wait()).await {
            tracing::warn!(%error, "how journalctl ended is not known");
        }
    });
    let words = Words { pipe: Some(pipe), _program: program, until, rest };
    let frames = stream::unfold(words, |mut words| async move { Some((words.next().await?, words)) });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// A program while it speaks; it ends with its listener.
struct Words {
    pipe: Option<pipe::Receiver>,
    _program: JoinSet<()>,
    until: Instant,
    rest: String,
}

impl Words {
    async fn next(&mut self) -> Option<io::Result<Frame<Bytes>>> {
        if let Some(pipe) = &mut self.pipe {
            let mut chunk = BytesMut::with_capacity(16 << 10);
            match tokio::time::timeout_at(self.until, pipe.read_buf(&mut chunk)).await {
                Ok(Ok(0)) | Err(_) => self.pipe = None,
                Ok(Ok(_)) => return Some(Ok(Frame::data(chunk.freeze()))),
                Ok(Err(error)) => return Some(Err(error)),
            }
        }
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| Ok(Frame::data(rest.into())))
    }
}

/// A service's log where services without a journal keep it.
fn of_files(root: &Path, service: &str) -> io::Result<String> {
    for name in [service.to_string(), format!("{service}.log"), format!("{service}/{service}.log")] {
        if let Some(content) = node_logs::content(root, Path::new(&name))? {
            return Ok(content);
        }
    }
    Ok(format!("\nlog not found for {service}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_query_names_services_or_one_file() {
        let parse = |text: &str| LogQuery::parse(&Query::parse(text));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("query=/kube/a.log"), Ok(Some(LogQuery::File("kube/a.log".into()))));
        assert_eq!(
            parse("query=a&query=b.service"),
            Ok(Some(LogQuery::Services(vec!["a".into(), "b.service".into()], Options::default())))
        );
        for (text, code, why) in [
            ("query", 400, "query cannot be empty"),
            ("query=+", 400, "query cannot be empty"),
            ("query=a&query=/b", 406, "cannot specify a file and service"),
            ("query=/a&query=/b", 406, "more than one file"),
            ("query=/a&boot=0", 406, "cannot specify file with options"),
            ("query=a;b", 406, "unsupported characters"),
            ("query=--file", 406, "unsupported characters"),
            ("query=..", 406, "no name"),
            ("query=a&query=b&query=c&query=d&query=e", 406, "Too many: 5"),
            ("boot=0", 406, "Required value"),
            ("query=a&boot=1", 406, "must be less than 1"),
            ("query=a&pattern=(b", 406, "pattern: Invalid value: \"(b\": error parsing regexp: missing closing )"),
            ("query=a&boot=x", 400, "boot: Invalid value"),
            ("query=a&tailLines=100001", 406, "between 0 and 100000"),
            ("query=a&tailLines=few", 400, "tailLines: Invalid value"),
            ("query=a&sinceTime=yesterday", 400, "invalid time format"),
            ("query=a&sinceTime=2026-01-02T00:00:00Z&untilTime=2026-01-01T00:00:00Z", 406, "must be after `sinceTime`"),
        ] {
            let (told, reason) = parse(text).unwrap_err();
            assert!(told.as_u16() == code && reason.contains(why), "{text}: {told} {reason}");
        }
    }

    #[test]
    fn options_are_those_of_the_journals_program() {
        let query = "query=a&sinceTime=1970-01-01T00:01:00Z&untilTime=1970-01-01T01:00:00%2B00:30&boot=-1&tailLines=5&pattern=x+y";
        let Ok(Some(LogQuery::Services(services, options))) = LogQuery::parse(&Query::parse(query)) else { panic!("{query}") };
        let arguments = options.arguments(&services).join(" ");
        let told = "--since=@60 --until=@1800 --lines=5 --boot=-1 --grep=x y --case-sensitive=false --unit=a";
        assert_eq!(arguments, format!("--utc --no-pager --output=short-precise {told}"));
    }

    async fn body(answer: io::Result<Response<Body>>) -> String {
        String::from_utf8(answer.unwrap().into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_journals_program_is_killed_in_time_also_where_nobody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (program, alive) = (dir.path().join("journal"), dir.path().join("alive"));
        std::fs::write(&program, "#!/bin/sh\nexec 9<\"$1\"; while :; do echo word; done\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        nix::unistd::mkfifo(&alive, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let arguments = [alive.display().to_string()];
        let until = Instant::now() + Duration::from_millis(300);
        let unread = journal(&program, &arguments, "rest".into(), until).unwrap();
        // It holds this open while it lives, and then the other end fails.
        let held = pipe::OpenOptions::new();
        let sender = loop {
            match held.open_sender(&alive) {
                Ok(sender) => break sender,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let ended = async {
            while sender.try_write(b"x").err().is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
        assert!(body(Ok(unread)).await.ends_with("rest"));
    }

    #[tokio::test]
    async fn who_writes_to_the_journal_is_read_there_and_others_in_files() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("c")).unwrap();
        for (file, content) in [("a", "of a"), ("b.log", "of b"), ("c/c.log", "of c")] {
            std::fs::write(root.join(file), content).unwrap();
        }
        let program = dir.path().join("journal");
        std::fs::write(&program, "#!/bin/sh\n[ \"$1\" = --field ] && echo j.service && exit\necho \"$@\"; echo no >&2; exit 1\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let of = |names: &[&str], options: Options| {
            let (program, root) = (program.clone(), root.clone());
            let names = names.iter().map(|n| n.to_string()).collect();
            async move { body(of_services(&program, &root, names, &options).await).await }
        };
        let lines = || Options { tail_lines: Some(3), ..Options::default() };
        assert_eq!(of(&["j"], lines()).await, "--utc --no-pager --output=short-precise --lines=3 --unit=j\nno\n");
        assert_eq!(of(&["a", "b", "c", "d"], Options::default()).await, "of aof bof c\nlog not found for d\n");
        assert!(of(&["a"], lines()).await.contains("try without specifying options"));
        let journal = "--utc --no-pager --output=short-precise --unit=j\nno\n";
        assert_eq!(of(&["a", "j", "d"], Options::default()).await, format!("{journal}of a\nlog not found for d\n"));
        let told = of(&["a", "j"], lines()).await;
        assert!(told.starts_with("--utc ") && told.ends_with("log files for [\"a\"]\ntry without specifying options\n"), "{told}");
        let without = of_services(Path::new("/nonexistent"), &root, vec!["j".into()], &Options::default()).await;
        assert_eq!(body(without).await, "\nlog not found for j\n");
    }
}
