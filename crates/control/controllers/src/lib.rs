//! fram-controllers: see ARCHITECTURE.md.
