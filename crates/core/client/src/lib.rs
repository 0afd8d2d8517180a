//! fram-client: see ARCHITECTURE.md.
