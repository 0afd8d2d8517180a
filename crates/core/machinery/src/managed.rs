//! Field ownership (managedFields) and server-side apply. See KEP-555 and structured-merge-diff.

mod apply;
mod atomics;
mod compare;
mod duplicate;
mod element;
mod fresh;
mod last_applied;
mod managers;
mod set;

pub use apply::{ApplyError, Conflict, apply};
pub use atomics::merge;
pub use last_applied::note;
pub use managers::{Manager, Operation, track, track_new};
pub use set::{FieldSet, PathElement};

#[cfg(test)]
mod tests;
