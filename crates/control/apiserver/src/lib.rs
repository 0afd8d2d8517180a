//! fram-apiserver: see ARCHITECTURE.md.
