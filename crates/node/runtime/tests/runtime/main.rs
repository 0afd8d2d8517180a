//! The runtime with real shims, containers, cgroups and namespaces. Needs root and busybox-static (Debian); leaves nothing.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too; clippy only sees the attribute on the test itself")]

mod bad_days;
mod containers;
mod exec;
mod handlers;
mod isolation;
mod lifecycle;
mod measure;
mod restart;
mod support;
