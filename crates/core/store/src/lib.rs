//! fram-store: see ARCHITECTURE.md.
