//! fram-datapath: see ARCHITECTURE.md.
