//! fram: see ARCHITECTURE.md.
fn main() {}
