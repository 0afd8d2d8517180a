//! Field ownership (managedFields) and server-side apply. See KEP-555 and structured-merge-diff.

mod apply;
mod compare;
mod element;
mod managers;
mod set;

pub use apply::{ApplyError, Conflict, apply};
pub use managers::{Manager, Operation, track};
pub use set::{FieldSet, PathElement};

#[cfg(test)]
mod tests;
