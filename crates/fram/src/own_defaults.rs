//! What holds where nobody has said anything: Secrets are encrypted on disk, and who changed what is recorded. Both are upstream's
//! own configurations, and give way to a file that a flag names.

use std::path::{Path, PathBuf};

use anyhow::Context;
use base64::Engine;
use fram_apiserver::pki::write_private;
use fram_audit::LogOptions;

/// Whether Secrets in a store of several servers can be encrypted: all have the key among the cluster's keys where it was made together
/// with them, by the first server.
pub(crate) fn may_encrypt(keys: &Path) -> anyhow::Result<bool> {
    let there = |name: &str| {
        let path = keys.join(name);
        path.try_exists().with_context(|| format!("cannot look for {}", path.display()))
    };
    Ok(there("encryption.yaml")? || !there("ca.crt")?)
}

/// The encryption of Secrets with a key of this cluster's own. The file is made with the first start, beside the certificates: a
/// copy of the store without it gives nothing away. What lay there in the clear is read, and encrypted in its turn.
pub(crate) fn encryption_file(keys: &Path) -> anyhow::Result<PathBuf> {
    let path = keys.join("encryption.yaml");
    if path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
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
    // A key that is there is never replaced, whoever comes at the same time: what it has sealed nothing else opens.
    let new = keys.join(format!("encryption.{}", std::process::id()));
    write_private(&new, &text)?;
    let published = std::fs::hard_link(&new, &path);
    std::fs::remove_file(&new).with_context(|| format!("cannot remove {}", new.display()))?;
    match published {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {}", path.display()));
        }
        _ => {}
    }
    // The store must not be longer-lived than its key.
    for folder in [Some(keys), keys.parent()].into_iter().flatten() {
        let synced = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        synced.with_context(|| format!("cannot make {} durable", folder.display()))?;
    }
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
    fn a_cluster_of_several_servers_that_began_in_the_clear_goes_on_so() {
        let folder = tempfile::tempdir().unwrap();
        assert!(may_encrypt(folder.path()).unwrap(), "its keys are still to be made");
        std::fs::write(folder.path().join("ca.crt"), "").unwrap();
        assert!(!may_encrypt(folder.path()).unwrap());
        encryption_file(folder.path()).unwrap();
        assert!(may_encrypt(folder.path()).unwrap());
    }

    #[test]
    fn the_policy_can_be_read() {
        Policy::read(&yaml::from_str(AUDIT_POLICY).unwrap()).unwrap();
    }
}
