//! API access for components: one client type over two transports, in process and remote, and what is built on it.
//! Nothing here knows the server's insides.

mod client;
pub mod controller;
pub mod events;
pub mod informer;
pub mod leader;
pub mod load_balancer;
pub mod local_path;
mod options;
pub mod rate;
pub mod remote;
pub mod resources;
mod shared;
mod transport;
pub mod unverified;

pub use client::{Client, Resources};
pub use controller::{Action, Controller, Enqueuer};
pub use events::EventRecorder;
pub use informer::{Delta, Informer, InformerOptions, Observation, Subscription};
pub use leader::LeaderElection;
pub use options::{DeleteOptions, ListOptions, Patch, PatchKind, Preconditions, Propagation, WriteOptions};
pub use rate::Rate;
pub use resources::Resource;
pub use shared::{ADDRESS_INDEX, FREE_INDEX, JOB_INDEX, NODE_INDEX, OWNER_INDEX, POOL_INDEX, SharedInformers};
pub use transport::{Call, EventKind, Page, Reply, Transport, Verb, WatchEvent, WatchStream};
