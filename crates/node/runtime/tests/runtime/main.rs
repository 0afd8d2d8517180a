//! The runtime with real shims, containers, cgroups and namespaces. Needs root and busybox-static (Debian); leaves nothing.

mod containers;
mod exec;
mod isolation;
mod lifecycle;
mod restart;
mod support;
