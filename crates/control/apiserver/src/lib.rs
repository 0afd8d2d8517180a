//! The API server: everything between a request and the store. Kinds are described in fram-api; nothing here is written
//! for one of them but the numbers of Services.

mod accept;
pub mod admission;
mod aggregator;
pub mod allocate;
mod audit;
mod authenticate;
pub mod authorize;
pub mod bootstrap;
pub mod bootstrap_token;
pub mod certificates;
mod components;
mod definitions;
mod discovery;
mod endpoints;
pub mod environment;
mod flow;
#[cfg(test)]
mod fuzz;
mod gates;
pub mod http_api;
mod identity;
mod inprocess;
mod keeping;
mod kubelets;
pub mod limits;
pub mod masters;
mod metrics;
pub mod nodes;
mod openapi;
mod path;
pub mod pki;
mod queues;
mod quota;
pub mod registry;
mod requests;
mod respond;
mod server;
mod table;
mod tls;
pub mod token;
pub mod user;
mod verbs;
mod webhook;

pub use aggregator::AggregatedKind;
pub use environment::Environment;
pub use inprocess::InProcess;
pub use server::{Checks, Server};
pub use tls::TlsError;
pub use user::User;
