//! fram-machinery: see ARCHITECTURE.md.
