//! fram-cri: see ARCHITECTURE.md.
