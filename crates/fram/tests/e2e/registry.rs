//! A registry on loopback, Debian's docker-registry.

use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) struct Registry {
    process: Child,
    port: u16,
}

impl Registry {
    pub(crate) fn start(folder: &Path) -> Self {
        let port = super::cluster::free_port();
        let data = folder.join("registry");
        std::fs::create_dir_all(&data).unwrap();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        let file = folder.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let process = Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { process, port }
    }

    /// `127.0.0.1:PORT`.
    #[allow(dead_code, reason = "the figures need no address")]
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
