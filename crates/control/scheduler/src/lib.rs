//! The scheduler: chooses a node for each pod that has none. Decisions are pure (queue, cache, plugins); `run` is the thin
//! shell that follows the API and binds.

mod amounts;
mod bind;
mod cache;
mod configuration;
mod devices;
mod extender;
mod framework;
mod gang;
mod hints;
mod metrics;
mod node;
mod plugins;
mod pod;
mod preemption;
mod queue;
mod resources;
mod run;
mod services;
mod storage;

pub use configuration::{Configuration, ConfigurationError};
pub use extender::ExtenderError;
pub use metrics::Metrics;
pub use resources::PodResources;
pub use run::{Scheduler, SchedulerConfig};
