//! `fram logs`: what containers wrote.

use std::sync::Arc;
use std::time::Duration;

use fram_client::remote::{Lines, Query, path};
use fram_machinery::{Value, meta};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::Method;

use crate::access::Access;
use crate::choose::duration;
use crate::error::{CliError, Result};
use crate::pods;
use crate::print::{note, nothing_found, out};

#[derive(clap::Args, Debug, Clone)]
pub struct Logs {
    /// A pod, or TYPE/NAME of something that has pods.
    #[arg(value_name = "POD|TYPE/NAME")]
    target: Option<String>,
    /// The container; -c says the same.
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    container_too: Option<String>,
    /// Of all pods with these labels.
    #[arg(short = 'l', long, value_name = "LABELS", default_value = "", hide_default_value = true, conflicts_with = "target")]
    selector: String,
    /// The container; else the pod's first.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Of all containers of the pod.
    #[arg(long)]
    all_containers: bool,
    /// Of all pods of what is named, not of one.
    #[arg(long)]
    all_pods: bool,
    /// Go on and print what is written.
    #[arg(short, long)]
    follow: bool,
    /// Of the container before the last restart.
    #[arg(short, long)]
    previous: bool,
    /// The last lines only; -1 for all. With a selector the last 10, where nothing is said.
    #[arg(long, value_name = "LINES", allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Not older than this: 5s, 2m, 3h.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "since_time")]
    since: Option<Duration>,
    /// Not older than this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    since_time: Option<String>,
    /// At most so many bytes.
    #[arg(long, value_name = "BYTES")]
    limit_bytes: Option<u64>,
    /// Begin each line with its time.
    #[arg(long)]
    timestamps: bool,
    /// Begin each line with its pod and container.
    #[arg(long)]
    prefix: bool,
    /// How many logs may be followed at once.
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    max_log_requests: usize,
    /// A log that cannot be read is no error.
    #[arg(long)]
    ignore_errors: bool,
}

/// The log of one container.
struct Source {
    path: String,
    prefix: String,
}

pub(crate) async fn run(access: &Access, logs: &Logs) -> Result<()> {
    let container = logs.container.as_deref().or(logs.container_too.as_deref());
    if logs.all_containers && container.is_some() {
        return Err(CliError::usage("--all-containers=true should not be specified with container name"));
    }
    let pods = pods_meant(access, logs).await?;
    let mut sources = Vec::new();
    for pod in &pods {
        sources.extend(sources_of(access, logs, pod, container).await?);
    }
    if logs.follow && sources.len() > logs.max_log_requests {
        return Err(CliError::failed(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, use --max-log-requests to increase the limit",
            sources.len(),
            logs.max_log_requests
        )));
    }
    if !logs.follow {
        for source in &sources {
            print(access, source, logs).await?;
        }
        return Ok(());
    }
    let mut printing: FuturesUnordered<_> = sources.iter().map(|s| print(access, s, logs)).collect();
    while let Some(ended) = printing.next().await {
        ended?;
    }
    Ok(())
}

async fn pods_meant(access: &Access, logs: &Logs) -> Result<Vec<Arc<Value>>> {
    if !logs.selector.is_empty() {
        let pods = pods::by_selector(access, &logs.selector, &access.namespace).await?;
        if pods.is_empty() {
            note(&nothing_found(Some(&access.namespace)));
        }
        return Ok(pods);
    }
    let target = logs.target.as_deref().ok_or_else(|| CliError::usage("POD or TYPE/NAME is a required argument for the logs command"))?;
    let owner = pods::owner(access, target).await?;
    let mut found = pods::pods_of(access, &owner).await?;
    let first = found.first().ok_or_else(|| CliError::failed(format!("{target} has no pods now: see `fram get pods`")))?;
    if found.len() > 1 && !logs.all_pods {
        note(&format!("Found {} pods, using pod/{}", found.len(), meta::name(first)));
        found.truncate(1);
    }
    Ok(found)
}

async fn sources_of(access: &Access, logs: &Logs, pod: &Value, container: Option<&str>) -> Result<Vec<Source>> {
    let names = match container {
        _ if logs.all_containers => pods::containers(pod, true),
        Some(name) => vec![name.to_string()],
        None => {
            let (name, tell) = pods::default_container(pod)?;
            if tell {
                note(&pods::defaulted(pod, &name));
            }
            vec![name]
        }
    };
    let pods = access.resource_type("pods").await?.resource();
    // kubectl prefixes the lines of several pods whether it is told to or not.
    let prefixed = logs.prefix || logs.all_pods;
    let source = |container: String| Source {
        path: format!("{}{}", path(&pods, meta::namespace(pod), meta::name(pod), "log"), options(logs, &container)),
        prefix: if prefixed { format!("[pod/{}/{container}] ", meta::name(pod)) } else { String::new() },
    };
    Ok(names.into_iter().map(source).collect())
}

/// The query of one log.
fn options(logs: &Logs, container: &str) -> Query {
    const WITH_SELECTOR: i64 = 10;
    let tail = logs.tail.or((!logs.selector.is_empty()).then_some(WITH_SELECTOR)).filter(|t| *t >= 0);
    let text = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
    let flag = |on: bool| if on { "true" } else { "" };
    let since = logs.since.map(|s| i64::try_from(s.as_secs().max(1)).unwrap_or(i64::MAX));
    Query::of(&[
        ("container", container),
        ("follow", flag(logs.follow)),
        ("previous", flag(logs.previous)),
        ("timestamps", flag(logs.timestamps)),
        ("tailLines", &text(tail)),
        ("sinceSeconds", &text(since)),
        ("sinceTime", logs.since_time.as_deref().unwrap_or_default()),
        ("limitBytes", &text(logs.limit_bytes.and_then(|b| i64::try_from(b).ok()))),
    ])
}

async fn print(access: &Access, source: &Source, logs: &Logs) -> Result<()> {
    let answer = match access.send(Method::GET, &source.path, "*/*", Vec::new()).await {
        Ok(answer) => answer,
        Err(error) if logs.ignore_errors => {
            note(&error.to_string());
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut lines = Lines::new(answer);
    while let Some(line) = lines.next().await? {
        out([source.prefix.as_bytes(), &line].concat())?;
    }
    // A last line without its end has a prefix like any other.
    match lines.rest() {
        [] => Ok(()),
        rest => out([source.prefix.as_bytes(), rest].concat()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        logs: Logs,
    }

    #[test]
    fn flags_become_the_servers_query() {
        let query = |flags: &str| {
            let logs = Command::try_parse_from(std::iter::once("logs").chain(flags.split_whitespace())).unwrap().logs;
            options(&logs, "c").to_string()
        };
        assert_eq!(query("web"), "?container=c");
        assert_eq!(query("web -f --tail=5 --timestamps"), "?container=c&follow=true&timestamps=true&tailLines=5");
        assert_eq!(query("web --tail=-1 -p --since 2m --limit-bytes 9"), "?container=c&previous=true&sinceSeconds=120&limitBytes=9");
        assert_eq!(query("-l app=web"), "?container=c&tailLines=10");
        assert_eq!(query("-l app=web -f"), "?container=c&follow=true&tailLines=10");
        assert_eq!(query("-l app=web --tail=-1"), "?container=c");
    }
}
