//! Names by which the parts of the embedded storage know each other: the controller that makes PersistentVolumes, and the
//! kubelets that hold their directories.

/// The provisioner of the default StorageClass, and the finalizer that a volume has until its node has removed its directory.
pub const PROVISIONER: &str = "fram.dev/local-path";
/// The name of the default StorageClass.
pub const CLASS: &str = "local-path";
/// An annotation of nodes: the directory below which they keep volumes.
pub const DIRECTORY: &str = "fram.dev/local-path-directory";
/// An annotation of volumes: the node that holds them. Also a label, by which nodes find theirs.
pub const NODE: &str = "fram.dev/local-path-node";

/// The longest value of a label.
const LABEL_BYTES: usize = 63;

/// The value of the label of a node's volumes: its name, or what stands for a name that is too long.
pub fn label_of(node: &str) -> String {
    if node.len() <= LABEL_BYTES {
        return node.into();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, node.as_bytes());
    digest.as_ref()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The label selector of a node's volumes.
pub fn selector_of(node: &str) -> String {
    format!("{NODE}={}", label_of(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_node_has_a_label_of_its_own() {
        let long = |end: &str| format!("{}{end}", "a-long-name-of-a-node.".repeat(6));
        let (one, two) = (label_of(&long("a")), label_of(&long("b")));
        assert_eq!(label_of("node-1"), "node-1");
        assert!(one != two && one.len() <= LABEL_BYTES && one.bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
