//! The contract suite, run against the embedded engine. The suite under `contract/` knows the trait only, so that every engine
//! takes the same test; `contract_etcd.rs` runs it against the other one.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/commits.rs"]
mod commits;
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

use fram_store::{Embedded, ManualClock, Options, UnixMillis};
use subject::Subject;

/// An empty store of the engine under test.
async fn subject() -> Subject {
    let clock = Arc::new(ManualClock::at(UnixMillis(1_000_000)));
    let options = Options { clock: clock.clone(), watch_events: 64, ..Options::in_memory() };
    let (watch_events, history_window) = (options.watch_events, options.history_window);
    let store = Arc::new(Embedded::open(options).unwrap());
    let ttl = Duration::from_secs(3600);
    Subject { store, clock, watch_events, history_window, ttl, real_time: false, _server: None }
}
