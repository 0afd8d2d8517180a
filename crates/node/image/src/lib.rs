//! fram-image: see ARCHITECTURE.md.
