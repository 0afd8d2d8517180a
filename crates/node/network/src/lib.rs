//! fram-network: see ARCHITECTURE.md.
