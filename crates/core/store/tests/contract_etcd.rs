//! The contract suite, run against the engine on etcd: each test with a real etcd of its own, from Debian's etcd-server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/commits.rs"]
mod commits;
#[path = "support/etcd_server.rs"]
mod etcd_server;
#[path = "contract/expiry.rs"]
mod expiry;
#[path = "contract/history.rs"]
mod history;
#[path = "contract/subject.rs"]
mod subject;
#[path = "contract/watches.rs"]
mod watches;

use std::sync::Arc;
use std::time::Duration;

use etcd_server::EtcdServer;
use fram_store::{Etcd, EtcdOptions, ManualClock, UnixMillis};
use subject::Subject;

/// An empty store of the engine under test. Keys expire by etcd's clock, so there real time has to pass.
async fn subject() -> Subject {
    let server = EtcdServer::start(&[]);
    let clock = Arc::new(ManualClock::at(UnixMillis(1_000_000)));
    let options = EtcdOptions { clock: clock.clone(), watch_events: 64, ..EtcdOptions::new(vec![server.url.clone()], "") };
    let (watch_events, history_window) = (options.watch_events, options.history_window);
    let store = Arc::new(Etcd::open(options).await.unwrap());
    let ttl = Duration::from_secs(3);
    Subject { store, clock, watch_events, history_window, ttl, real_time: true, _server: Some(Box::new(server)) }
}
