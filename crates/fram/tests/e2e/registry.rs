//! A registry on loopback, Debian's docker-registry.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The user of a registry that asks for one, and the password.
#[allow(dead_code, reason = "only the whole shop has such a registry")]
pub(crate) const USER: (&str, &str) = ("user", "secret");

pub(crate) struct Registry {
    process: Child,
    port: u16,
    credentials: PathBuf,
}

impl Registry {
    /// One that serves everybody.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, "", "{}")
    }

    /// One that serves nobody but [`USER`].
    #[allow(dead_code, reason = "only the whole shop has such a registry")]
    pub(crate) fn start_protected(folder: &Path) -> Self {
        let users = folder.join("users");
        std::fs::write(&users, "user:$2b$05$Fg603BRoQoEhNVIKYeNjNuPFuTUXbh28vwEmZgOExZdbbEAZePgw.\n").unwrap();
        let auth = format!("auth: {{htpasswd: {{realm: shop, path: {}}}}}\n", users.display());
        Self::start_with(folder, &auth, r#"{"auths":{"ADDRESS":{"auth":"dXNlcjpzZWNyZXQ="}}}"#)
    }

    fn start_with(folder: &Path, auth: &str, credentials: &str) -> Self {
        let port = super::cluster::free_port();
        let data = folder.join("registry");
        std::fs::create_dir_all(&data).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n{auth}",
            data.display()
        );
        let file = folder.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let known = folder.join("credentials.json");
        std::fs::write(&known, credentials.replace("ADDRESS", &format!("127.0.0.1:{port}"))).unwrap();
        let process = Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, port, credentials: known }
    }

    /// `127.0.0.1:PORT`.
    #[allow(dead_code, reason = "the figures need no address")]
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A file with which buildah and skopeo may push.
    #[allow(dead_code, reason = "the figures need no credentials")]
    pub(crate) fn credentials(&self) -> &Path {
        &self.credentials
    }

    /// Pushes an OCI layout; the answer is the image's reference. skopeo tries again while the registry starts.
    pub(crate) fn push(&self, name: &str, layout: &Path) -> String {
        let reference = format!("127.0.0.1:{}/{name}:1", self.port);
        let output = Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--retry-times", "5", "--dest-tls-verify=false"])
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("the registry did not end: {error}");
        }
    }
}
