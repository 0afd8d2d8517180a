//! The API server as clients on the network meet it: a real listener with TLS on loopback, over an in-memory store.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod answers;
mod audit;
mod bad_input;
mod discovery;
mod fairness;
mod health;
mod limits;
mod site;
