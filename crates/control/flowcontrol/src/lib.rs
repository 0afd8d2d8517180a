//! API Priority and Fairness (KEP-1040): which requests run, which wait and which are refused, so that no client takes the server
//! from the others. What requests are is told by the server; this crate reads no registry and speaks no HTTP.
//!
//! `config` classifies, `queues` is one priority level's fair queuing, `shares` divides the server's seats among the levels; all of
//! these are pure. `control` is the shell that lets requests wait.

mod config;
mod control;
pub mod defaults;
mod dump;
mod estimate;
mod inflight;
mod metrics;
mod queues;
mod shares;

pub use config::Digest;
pub use control::{Class, FlowControl, Refused, Ticket};
pub use estimate::{Estimator, Listed, Watched, Width};
pub use inflight::{InFlight, Permit};
