//! The API server: everything between a request and the store. Kinds are described in fram-api; nothing here is written
//! for one of them but the numbers of Services.

pub mod admission;
pub mod allocate;
pub mod environment;
pub mod authorize;
pub mod path;
pub mod pki;
pub mod registry;
pub mod token;
pub mod user;

pub use environment::Environment;
pub use user::User;
