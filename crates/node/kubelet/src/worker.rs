//! w

pub mod actions;
pub mod phase;
