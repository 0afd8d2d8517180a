//! fram-image: images on a node. Registries, the content store, unpacked layers in overlayfs form, import of archives and
//! garbage collection. It mounts nothing and runs nothing: the runtime stacks the layers it is given.

mod content;
mod digest;
mod download;
mod error;
#[cfg(test)]
mod fuzz;
mod holders;
mod import;
mod index;
mod install;
mod layer;
mod manifest;
mod reference;
mod registry;
mod service;
mod store;

pub use digest::{Algorithm, Digest, DigestError};
pub use error::{ErrorKind, ImageError, IoError};
pub use import::ArchiveError;
pub use layer::{LayerError, LayerLimits};
pub use manifest::{ImageConfig, ManifestError, Platform, RunConfig};
pub use reference::{Reference, ReferenceError};
pub use registry::{Credentials, HostsError, RegistryClient, RegistryConfig, RegistryError};
pub use store::{ImageInfo, ImageStore, ImageStoreConfig, Removed, SharedError};
