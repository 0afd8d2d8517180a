//! What the tests share: images made from scratch as OCI layouts, a docker-registry on a free port, and an HTTP server whose
//! every byte is the test's.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fram_image::{Digest, ImageStore, ImageStoreConfig, RegistryConfig};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::PrivateKeyDer;
use serde_json::{Value, json};

/// A store in a folder of its own, with short pauses.
pub(crate) struct Rig {
    pub folder: tempfile::TempDir,
    pub store: ImageStore,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(quick())
    }

    pub(crate) fn with(registry: RegistryConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), registry);
        Self { folder, store }
    }

    pub(crate) fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(self.folder.path().join("images").join(folder)).unwrap().count()
    }

    /// The store closed and opened again, as after a restart.
    pub(crate) fn reopen(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = open(folder.path(), quick());
        Self { folder, store }
    }
}

pub(crate) fn open(folder: &Path, registry: RegistryConfig) -> ImageStore {
    let config = ImageStoreConfig { registry, ..ImageStoreConfig::new(folder.join("images")) };
    ImageStore::open(config).unwrap()
}

pub(crate) fn quick() -> RegistryConfig {
    RegistryConfig {
        read_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_secs(2),
        retry_pause: Duration::from_millis(5),
        ..RegistryConfig::default()
    }
}

/// An image to be: its layers as (path, content) lists.
pub(crate) struct ImageSource {
    pub layers: Vec<Vec<(String, Vec<u8>)>>,
    pub architecture: &'static str,
    pub(crate) zstd: bool,
}

impl ImageSource {
    pub(crate) fn new(layers: &[&[(&str, &[u8])]]) -> Self {
        let owned = |layer: &&[(&str, &[u8])]| layer.iter().map(|(n, c)| ((*n).to_owned(), c.to_vec())).collect();
        Self { layers: layers.iter().map(owned).collect(), architecture: "amd64", zstd: false }
    }

    pub(crate) fn build(&self) -> BuiltImage {
        let mut built = BuiltImage::default();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let tar = tar_of(layer);
            diff_ids.push(Digest::of(&tar).to_string());
            let (bytes, form) = if self.zstd { (zstd::encode_all(&tar[..], 1).unwrap(), "zstd") } else { (gzip(&tar), "gzip") };
            let layer = built.add(bytes, &format!("application/vnd.oci.image.layer.v1.tar+{form}"));
            built.layers.push(layer);
        }
        let config = json!({
            "architecture": self.architecture, "os": "linux",
            "config": {"User": "1234:5", "Env": ["A=b"], "Cmd": ["/bin/hello"], "StopSignal": "SIGQUIT", "Volumes": {"/data": {}}},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        built.config = built.add(serde_json::to_vec(&config).unwrap(), "application/vnd.oci.image.config.v1+json");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": built.config, "layers": built.layers,
        });
        built.manifest = built.add(serde_json::to_vec(&manifest).unwrap(), "application/vnd.oci.image.manifest.v1+json");
        built
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn tar_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        tar.append_data(&mut header, name, &content[..]).unwrap();
    }
    tar.into_inner().unwrap()
}

/// An image's blobs and the descriptors of its parts.
#[derive(Default, Clone)]
pub(crate) struct BuiltImage {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifest: Value,
    pub config: Value,
    pub layers: Vec<Value>,
}

impl BuiltImage {
    pub(crate) fn add(&mut self, bytes: Vec<u8>, media_type: &str) -> Value {
        let digest = Digest::of(&bytes).to_string();
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.blobs.insert(digest, bytes);
        descriptor
    }

    pub(crate) fn id(&self) -> Digest {
        text(&self.config["digest"]).parse().unwrap()
    }

    /// Joins images of several architectures under one index.
    pub(crate) fn index(images: &[(&str, &BuiltImage)]) -> BuiltImage {
        let mut all = BuiltImage::default();
        let mut manifests = Vec::new();
        for (architecture, image) in images {
            all.blobs.extend(image.blobs.clone());
            let mut descriptor = image.manifest.clone();
            descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
            manifests.push(descriptor);
        }
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
        all.manifest = all.add(serde_json::to_vec(&index).unwrap(), "application/vnd.oci.image.index.v1+json");
        all
    }

    /// Writes an OCI layout whose only entry carries the given name.
    pub(crate) fn write_layout(&self, folder: &Path, name: &str) {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(folder.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        }
        let mut descriptor = self.manifest.clone();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        std::fs::write(folder.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program} (a Debian package): {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Debian's docker-registry with its data in a temporary folder; it ends with this value.
pub(crate) struct Registry {
    process: Child,
    pub address: SocketAddr,
    folder: tempfile::TempDir,
}

impl Registry {
    pub(crate) fn start() -> Self {
        Self::start_with("", "", &[])
    }

    /// With password protection for user `user`, password `secret`.
    pub(crate) fn start_protected() -> Self {
        let users = "user:$2b$05$Fg603BRoQoEhNVIKYeNjNuPFuTUXbh28vwEmZgOExZdbbEAZePgw.\n".to_owned();
        Self::start_with("", "auth: {htpasswd: {realm: test, path: FOLDER/htpasswd}}\n", &[("htpasswd", users)])
    }

    /// With TLS; gives the file of the CA to trust as well.
    pub(crate) fn start_tls() -> (Self, PathBuf) {
        let authority = Authority::new();
        let (certificate, key) = authority.sign();
        let files = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", authority.certificate.pem())];
        let registry = Self::start_with(", tls: {certificate: FOLDER/tls.crt, key: FOLDER/tls.key}", "", &files);
        let ca_file = registry.folder.path().join("ca.crt");
        (registry, ca_file)
    }

    /// `http` is added to that section of the configuration, `sections` behind it; FOLDER in them is where the files are.
    fn start_with(http: &str, sections: &str, files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        // The port is free again when the listener is dropped; nothing else in these tests asks for a given port.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let storage = "version: 0.1\nstorage: {filesystem: {rootdirectory: FOLDER/data}}\n";
        let config = format!("{storage}http: {{addr: '{address}'{http}}}\nlog: {{level: info}}\n{sections}");
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config.replace("FOLDER", folder.path().to_str().unwrap())).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve".as_ref(), file.as_os_str()])
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("docker-registry (a Debian package)");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "docker-registry ended");
        }
        // Someone has to read the log on, or the registry would block in it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { process, address, folder }
    }

    pub(crate) fn push(&self, image: &BuiltImage, name: &str) -> String {
        self.push_as(image, name, &[])
    }

    pub(crate) fn push_as(&self, image: &BuiltImage, name: &str, options: &[&str]) -> String {
        let layout = self.folder.path().join("layout");
        let _ = std::fs::remove_dir_all(&layout);
        image.write_layout(&layout, "x");
        let reference = format!("{}/{name}", self.address);
        let mut arguments = vec!["copy", "--insecure-policy", "--all", "--dest-tls-verify=false"];
        arguments.extend(options);
        let (from, to) = (format!("oci:{}:x", layout.display()), format!("docker://{reference}"));
        arguments.extend([from.as_str(), to.as_str()]);
        run("skopeo", &arguments);
        reference
    }

    /// The registry's own copy of a blob.
    pub(crate) fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Signs what servers and their visitors show.
pub(crate) struct Authority {
    pub certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    /// For whoever is at 127.0.0.1, servers and clients.
    pub(crate) fn sign(&self) -> (rcgen::Certificate, rcgen::KeyPair) {
        let key = rcgen::KeyPair::generate().unwrap();
        (rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A server's TLS, whose visitors may show what this authority has signed.
    fn server(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.der().clone()).unwrap();
        let visitors =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build().unwrap();
        let (certificate, key) = self.sign();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(builder.with_client_cert_verifier(visitors).with_single_cert(vec![certificate.der().clone()], key).unwrap())
    }
}

/// A request as the scripted server sees it.
pub(crate) struct Request {
    /// Whether the visitor has shown a certificate.
    pub is_known: bool,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The offset of a Range header, 0 without one.
    pub(crate) fn offset(&self) -> usize {
        self.header("range").strip_prefix("bytes=").and_then(|r| r.split('-').next()?.parse().ok()).unwrap_or(0)
    }
}

/// What the scripted server does with a connection after reading a request.
pub(crate) enum Reply {
    /// These bytes as they are, then close.
    Raw(Vec<u8>),
    /// These bytes, then silence until the client goes away.
    Stall(Vec<u8>),
}

impl Reply {
    pub(crate) fn ok(body: &[u8]) -> Self {
        Self::status("200 OK", &[], body)
    }

    pub(crate) fn status(status: &str, headers: &[(&str, &str)], body: &[u8]) -> Self {
        Self::Raw(response(status, headers, body.len(), body))
    }
}

/// An HTTP response that promises `length` bytes, whatever `body` has.
pub(crate) fn response(status: &str, headers: &[(&str, &str)], length: usize, body: &[u8]) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// An HTTP server on loopback whose answers are a function of the test's.
pub(crate) struct Server {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(move |connection| serve(connection, |_| false, &answer))
    }

    /// With TLS.
    pub(crate) fn start_tls(authority: &Authority, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let config = authority.server();
        Self::start_with(move |connection| {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let is_known = |connection: &TlsStream| connection.conn.peer_certificates().is_some();
            serve(rustls::StreamOwned::new(tls, connection), is_known, &answer);
        })
    }

    fn start_with(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let flag = stop.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                let serve = serve.clone();
                std::thread::spawn(move || serve(connection.unwrap()));
            }
        });
        Self { address, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accept loop so that it sees the flag.
        let _ = TcpStream::connect(self.address);
    }
}

type TlsStream = rustls::StreamOwned<rustls::ServerConnection, TcpStream>;

fn serve<C: Read + Write>(connection: C, is_known: impl Fn(&C) -> bool, answer: &dyn Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let is_known = is_known(reader.get_ref());
    let reply = answer(&Request { is_known, path, headers });
    let mut connection = reader.into_inner();
    match reply {
        Reply::Raw(bytes) => drop(connection.write_all(&bytes)),
        Reply::Stall(bytes) => {
            let _ = connection.write_all(&bytes);
            let _ = connection.read(&mut [0; 1]);
        }
    }
}
