//! fram-api: see ARCHITECTURE.md.
