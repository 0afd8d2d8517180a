//! The image store from outside: real registries (Debian's docker-registry), archives made by skopeo, and servers that lie.
//! Needs root, docker-registry and skopeo; all traffic is on loopback.

mod import;
mod lies;
mod pull;
mod support;
