//! Lists of many pods.

use anyhow::Result;
use fram_bench_common::{Figures, Subject, drive, request};

use super::pods::{GROUPS, PATH};

/// All of them, by one client.
pub(super) async fn all(subject: &Subject, encoding: &str) -> Result<Figures> {
    drive(subject, &subject.clients[..1], 2, |_| request("GET", PATH, encoding)).await?;
    drive(subject, &subject.clients[..1], 20, |_| request("GET", PATH, encoding)).await
}

/// One group, by all clients.
pub(super) async fn labelled(subject: &Subject) -> Result<Figures> {
    let path = |n: usize| format!("{PATH}?labelSelector=group%3D{}", n % GROUPS);
    drive(subject, &subject.clients, 1000, |n| request("GET", &path(n), "identity")).await
}
