//! The contract suite, run against an engine: the environment variable FRAM_STORE_ENGINE names it (`embedded` when it
//! is not set). The suite under `contract/` knows the trait only, so that every engine takes the same test.

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
