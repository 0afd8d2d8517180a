//! fram-kubelet: see ARCHITECTURE.md.
