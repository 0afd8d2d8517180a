//! The CRI over gRPC: the values of this crate as upstream's messages, a server that speaks for any implementation of the traits,
//! and a client that is one.

mod client;
mod forms;
mod messages;
mod metrics;
mod server;
mod status;
mod tables;

pub use client::{ClientError, PATIENCE, RemoteImages, RemoteRuntime, Streams};
pub use server::{CriServer, StreamUrls};

/// Where upstream's services are in the space of methods.
const RUNTIME: &str = "/runtime.v1.RuntimeService/";
const IMAGES: &str = "/runtime.v1.ImageService/";
