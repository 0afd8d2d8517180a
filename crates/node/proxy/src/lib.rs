//! fram-proxy: see ARCHITECTURE.md.
