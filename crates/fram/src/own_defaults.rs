//! What holds where nobody has said anything: Secrets are encrypted on disk, and who changed what is recorded. Both are upstream's
//! own configurations, written for a single machine, and give way to a file that a flag names.

use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use fram_apiserver::pki::write_private;
use fram_audit::LogOptions;

/// The encryption of Secrets with a key of this server's own. The file is made with the first start, beside the certificates: a
/// copy of the store without it gives nothing away. What lay there in the clear is read, and encrypted in its turn.
pub(crate) fn encryption_file(keys: &Path) -> anyhow::Result<PathBuf> {
    let path = keys.join("encryption.yaml");
    if path.exists() {
        return Ok(path);
    }
    std::fs::create_dir_all(keys).with_context(|| format!("cannot create {}", keys.display()))?;
    let key: [u8; 32] = rand::random();
    let key = base64::engine::general_purpose::STANDARD.encode(key);
    let text = format!(
        "# Without this file the Secrets in the store cannot be read.\n\
         apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n\
         \x20 providers:\n\
         \x20 - secretbox: {{keys: [{{name: key1, secret: {key}}}]}}\n\
         \x20 - identity: {{}}\n"
    );
    write_private(&path, &text)?;
    // The store must not be longer-lived than its key.
    let folder = std::fs::File::open(keys).and_then(|folder| folder.sync_all());
    folder.with_context(|| format!("cannot make {} durable", keys.display()))?;
    Ok(path)
}

/// What is recorded: every change but those by which the system shows that it lives, and who read Secrets.
pub(crate) const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  resources:
  - {group: '', resources: [events]}
  - {group: events.k8s.io, resources: [events]}
  - {group: coordination.k8s.io, resources: [leases]}
- level: None
  userGroups: [system:nodes, system:serviceaccounts:kube-system]
  verbs: [get, list, watch]
- level: None
  users: [system:kube-controller-manager, system:kube-scheduler]
  verbs: [get, list, watch]
- level: Metadata
  resources: [{group: '', resources: [secrets, serviceaccounts/token]}]
- level: None
  verbs: [get, list, watch, head, options]
- level: Metadata
";

/// Where it is recorded, and at most 100 MiB of it.
pub(crate) fn audit_log(data: &Path) -> LogOptions {
    LogOptions { path: data.join("audit/audit.log"), max_size: 20, max_age: 0, max_backups: 4 }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use fram_audit::Policy;
    use fram_encryption::Encryption;
    use fram_machinery::yaml;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = encryption_file(&folder.path().join("pki")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        Encryption::load(&path, "/registry/").unwrap();
        assert_eq!(encryption_file(&folder.path().join("pki")).unwrap(), path);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn the_policy_can_be_read() {
        Policy::read(&yaml::from_str(AUDIT_POLICY).unwrap()).unwrap();
    }
}
