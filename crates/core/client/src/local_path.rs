//! Names by which the parts of the embedded storage know each other: the controller that makes PersistentVolumes, and the
//! kubelets that hold their directories.

/// The provisioner of the default StorageClass, and the finalizer that a volume has until its node has removed its directory.
pub const PROVISIONER: &str = "fram.dev/local-path";
/// The name of the default StorageClass.
pub const CLASS: &str = "local-path";
/// An annotation of nodes: the directory below which they keep volumes.
pub const DIRECTORY: &str = "fram.dev/local-path-directory";
/// An annotation of volumes: the node that holds them.
pub const NODE: &str = "fram.dev/local-path-node";
