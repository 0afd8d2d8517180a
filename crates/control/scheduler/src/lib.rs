//! The scheduler: chooses a node for each pod that has none. Decisions are pure (queue, cache, plugins); `run` is the thin
//! shell that follows the API and binds.

mod cache;
mod framework;
mod node;
mod plugins;
mod pod;
mod queue;
mod run;

pub use run::{Scheduler, SchedulerConfig};
