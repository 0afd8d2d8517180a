//! The API server: everything between a request and the store. Kinds are described in fram-api; nothing here is written
//! for one of them but the numbers of Services.

pub mod admission;
pub mod allocate;
mod audit;
mod authenticate;
pub mod authorize;
pub mod bootstrap;
pub mod bootstrap_token;
pub mod certificates;
mod definitions;
mod discovery;
mod endpoints;
pub mod environment;
mod flow;
pub mod http_api;
mod inprocess;
pub mod limits;
mod metrics;
pub mod nodes;
mod openapi;
mod path;
pub mod pki;
mod quota;
pub mod registry;
mod requests;
mod respond;
mod server;
mod table;
pub mod token;
pub mod user;
mod verbs;
mod webhook;

pub use environment::Environment;
pub use inprocess::InProcess;
pub use server::{Checks, Server};
pub use user::User;
