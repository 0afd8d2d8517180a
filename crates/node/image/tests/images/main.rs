//! The image store from outside: real registries (Debian's docker-registry), archives made by skopeo, and servers that lie.
//! Needs root, docker-registry and skopeo; all traffic is on loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod import;
mod lies;
mod pull;
mod support;
