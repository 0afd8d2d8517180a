//! fram-dns: see ARCHITECTURE.md.
