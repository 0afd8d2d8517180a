//! The images that the load needs, made here: a small one that pods run, and a large one to be unpacked.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the containers run: it waits, and knows `true`.
pub(crate) const SMALL: &str = "busybox:1";
/// What sandboxes of runtimes run that need a process for them.
const PAUSE: &str = "pause:1";
/// Unpacked it is 100 MB in five layers.
pub(crate) const LARGE: &str = "large:1";

const LAYERS: usize = 5;
const FILES: usize = 400;
/// Sizes go up evenly to this one, as those of packages' files do roughly; together they are 20 MB a layer.
const LARGEST: usize = 100_000;

/// What a registry holds.
#[derive(Default)]
pub(crate) struct Images {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    /// Digests by `repository:tag`.
    pub(crate) manifests: BTreeMap<String, String>,
    /// Compressed size of the large image's layers.
    pub(crate) large: usize,
}

/// The large image takes a while to make.
pub(crate) fn all(with_large: bool) -> Result<Images> {
    let program = std::fs::read("/bin/busybox").context("read /bin/busybox (package busybox-static)")?;
    ensure!(!program.windows(INTERPRETER.len()).any(|w| w == INTERPRETER), "/bin/busybox is not static (package busybox-static)");
    let mut images = Images::default();
    let small = base(&program)?;
    for name in [PAUSE, SMALL] {
        images.add(name, vec![small.clone()])?;
    }
    if !with_large {
        return Ok(images);
    }
    let mut random = 1;
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(|number| layer(number, &mut random)).collect::<Result<_>>()?;
    images.add(LARGE, layers)?;
    Ok(images)
}

const INTERPRETER: &[u8] = b"/ld-linux";

impl Images {
    /// Adds an image of layers, which are archives.
    fn add(&mut self, name: &str, layers: Vec<Vec<u8>>) -> Result<()> {
        let diffs: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let mut described = Vec::new();
        for layer in layers {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(&layer)?;
            described.push(self.blob(gzip.finish()?, "application/vnd.oci.image.layer.v1.tar+gzip"));
        }
        if name == LARGE {
            self.large = described.iter().filter_map(|d| d["size"].as_u64()).sum::<u64>() as usize;
        }
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = self.blob(serde_json::to_vec(&config)?, "application/vnd.oci.image.config.v1+json");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described });
        let manifest = self.blob(serde_json::to_vec(&manifest)?, MANIFEST);
        self.manifests.insert(name.into(), manifest["digest"].as_str().unwrap_or_default().into());
        Ok(())
    }

    fn blob(&mut self, bytes: Vec<u8>, media_type: &str) -> Value {
        let digest = digest(&bytes);
        let described = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
        self.blobs.insert(digest, bytes);
        described
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn base(program: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, "bin/busybox", program)?;
    file(&mut tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")?;
    for name in ["sh", "sleep", "true"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox")?;
    }
    Ok(tar.into_inner()?)
}

/// Files that compress to about a third, as programs do.
fn layer(number: usize, random: &mut u64) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for index in 0..FILES {
        let size = LARGEST * (index + 1) / FILES;
        let mut content = Vec::with_capacity(size + 8);
        while content.len() < size {
            // A quarter of the words are new; of the others there are few.
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = if *random >> 62 == 0 { *random } else { *random >> 58 << 58 };
            content.extend_from_slice(&word.to_be_bytes());
        }
        content.truncate(size);
        file(&mut tar, &format!("usr/lib/package{number}/{}/file{index}", index / 20), &content)?;
    }
    Ok(tar.into_inner()?)
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    Ok(tar.append_data(&mut header, name, content)?)
}
