//! fram-scheduler: see ARCHITECTURE.md.
