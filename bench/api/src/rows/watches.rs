//! Watches: what an event costs, and how late it comes. Latency counts from before the change is sent until a watcher has the line.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fram_bench_common::{Figures, Subject, ask, drive, request, send, watch};
use fram_client::remote::{Lines, Remote};
use futures_util::future::try_join_all;
use tokio::sync::Mutex;

use super::pods::{self, PATH, change};

const WATCHERS: usize = 100;
const KUBELETS: usize = 1000;
/// Watches over one connection; servers let a client have a hundred streams.
const TOGETHER: usize = 50;

type Sent = Arc<Mutex<Vec<Option<Instant>>>>;

/// The number that a change was given.
fn number(line: &[u8], row: &str) -> Option<usize> {
    let mark = format!("\"{row}\":\"");
    let at = line.windows(mark.len()).position(|w| w == mark.as_bytes())? + mark.len();
    let digits = line[at..].iter().take_while(|b| b.is_ascii_digit());
    Some(digits.fold(0, |n, d| n * 10 + usize::from(d - b'0')))
}

/// Reads so many events, and says how late each was.
async fn take(lines: &mut Lines, row: &str, events: usize, sent: &Sent) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(events);
    while latencies.len() < events {
        let line = lines.next().await?.context("a watch ended")?;
        if let Some(number) = number(&line, row)
            && let Some(Some(sent)) = sent.lock().await.get(number)
        {
            latencies.push(sent.elapsed());
        }
    }
    Ok(latencies)
}

/// Changes of so many pods, in the order of their numbers from each client, `pause` after each.
async fn changes(
    clients: &[Arc<Remote>],
    row: &str,
    count: usize,
    sent: &Sent,
    pause: Duration,
    path: impl Fn(usize) -> String,
) -> Result<()> {
    let one = async |first: usize, client: &Remote| {
        for number in (first..count).step_by(clients.len()) {
            sent.lock().await[number] = Some(Instant::now());
            ask(client, change(&path(number), row, number)).await?;
            tokio::time::sleep(pause).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    try_join_all(clients.iter().enumerate().map(|(n, client)| one(n, client))).await?;
    Ok(())
}

/// All watchers see all changes.
async fn seen_by_all(subject: &Subject, row: &str, writers: usize, count: usize, pause: Duration) -> Result<Figures> {
    let remotes = subject.connections(WATCHERS)?;
    let mut watches = try_join_all(remotes.iter().map(|remote| watch(remote, PATH, ""))).await?;
    let sent: Sent = Arc::new(Mutex::new(vec![None; count]));
    let (cpu, begun) = (subject.cpu(), Instant::now());
    let watching = try_join_all(watches.iter_mut().map(|lines| take(lines, row, count, &sent)));
    let changing = changes(&subject.clients[..writers], row, count, &sent, pause, pods::path);
    let (latencies, ()) = futures_util::future::try_join(watching, changing).await?;
    Ok(Figures::new(count * WATCHERS, subject.cpu() - cpu, begun.elapsed(), latencies.concat()))
}

/// As fast as four writers write.
pub(super) async fn crowd(subject: &Subject) -> Result<Figures> {
    seen_by_all(subject, "crowd", 4, 1000, Duration::ZERO).await
}

/// At a rate that leaves the server time.
pub(super) async fn paced(subject: &Subject) -> Result<Figures> {
    seen_by_all(subject, "paced", 1, 250, Duration::from_millis(20)).await
}

/// A watch for the pods of each of a thousand nodes, as kubelets have it, and changes that concern one node each.
pub(super) async fn kubelets(subject: &Subject) -> Result<Figures> {
    let path = |n: usize| format!("{PATH}/bound-{}", n % KUBELETS);
    let body = |n: usize| fram_machinery::json::to_vec(&pods::pod(&format!("bound-{n}"), pods::GROUPS, &format!("node-{n}")));
    drive(subject, &subject.clients, KUBELETS, |n| send("POST", PATH, "application/json", body(n).into())).await?;
    let before = subject.memory();
    let remotes = subject.connections(KUBELETS / TOGETHER)?;
    let selector = |n: usize| format!("&fieldSelector=spec.nodeName%3Dnode-{n}");
    let all = (0..KUBELETS).map(|n| (n, &remotes[n / TOGETHER]));
    let mut watches = Vec::new();
    for (n, remote) in all {
        watches.push(watch(remote, "/api/v1/pods", &selector(n)).await?);
    }
    println!("{:<36} {:<6} {:.1} MB", "memory of 1,000 kubelets' watches", subject.name(), subject.memory() - before);
    let count = 5 * KUBELETS;
    let sent: Sent = Arc::new(Mutex::new(vec![None; count]));
    let (cpu, begun) = (subject.cpu(), Instant::now());
    let watching = try_join_all(watches.iter_mut().map(|lines| take(lines, "kubelets", count / KUBELETS, &sent)));
    let changing = changes(&subject.clients[..4], "kubelets", count, &sent, Duration::ZERO, path);
    let (latencies, ()) = futures_util::future::try_join(watching, changing).await?;
    let figures = Figures::new(count, subject.cpu() - cpu, begun.elapsed(), latencies.concat());
    drop(watches);
    drive(subject, &subject.clients, KUBELETS, |n| request("DELETE", &format!("{}?gracePeriodSeconds=0", path(n)), "")).await?;
    Ok(figures)
}
