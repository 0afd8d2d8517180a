//! fram-runtime: see ARCHITECTURE.md.
