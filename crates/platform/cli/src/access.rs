//! The way to the server: which kubeconfig counts, requests as the user it names, and discovery. The only module that sends
//! requests.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fram_client::remote::{Context, Remote, Upgrade};
use fram_client::{Call, Client, DeleteOptions, Patch, PatchKind, Reply, Resources, Verb, WriteOptions};
use fram_machinery::{Status, Value, json};
use http::{Method, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::discovery::{Discovery, ResourceType};
use crate::error::{CliError, Result};
use crate::print;

/// Where `fram up` keeps its data unless it is told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/fram";
const KUBECONFIG: &str = "admin.kubeconfig";
const FIELD_MANAGER: &str = "fram";

/// Which cluster a command speaks to.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Connection {
    /// The kubeconfig file; else those of KUBECONFIG where it is set, else ~/.kube/config, else the data directory's
    /// admin.kubeconfig.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; else its current one.
    #[arg(long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,
    /// The namespace; else the context's, else `default`.
    #[arg(short, long, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
    /// Where the fram of this machine keeps its data.
    #[arg(long, global = true, value_name = "DIR", help_heading = "Cluster")]
    pub data_dir: Option<PathBuf>,
}

/// The files that may count, of which the first group that has any is read. What the user named counts alone: a slip of the
/// pen does not lead to another cluster.
fn kubeconfig_files(connection: &Connection, variable: Option<&OsStr>, home: Option<&Path>) -> Vec<Vec<PathBuf>> {
    if let Some(file) = &connection.kubeconfig {
        return vec![vec![file.clone()]];
    }
    let data = connection.data_dir.as_deref().unwrap_or(Path::new(DEFAULT_DATA_DIR)).join(KUBECONFIG);
    if connection.data_dir.is_some() {
        return vec![vec![data]];
    }
    if let Some(variable) = variable.filter(|v| !v.is_empty()) {
        return vec![std::env::split_paths(variable).filter(|p| !p.as_os_str().is_empty()).collect()];
    }
    home.map(|home| vec![home.join(".kube/config")]).into_iter().chain([vec![data]]).collect()
}

/// Tells the user what the server warns of, each thing once, as kubectl does.
fn warn() -> impl Fn(&str) + Send + Sync + 'static {
    let told = std::sync::Mutex::new(HashSet::new());
    move |text| {
        // Who panicked while he held the lock has left the set as it was.
        let new = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(text.to_string());
        if new {
            print::warn(text);
        }
    }
}

/// A stream of messages, as exec and port-forward use it.
pub(crate) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Access to one cluster as one user.
pub struct Access {
    remote: Arc<Remote>,
    client: Client,
    /// The namespace that commands mean where they name none.
    pub namespace: String,
    /// Whether the command line named the namespace.
    pub(crate) namespace_was_given: bool,
    pub server: String,
    /// The file that names the server.
    pub kubeconfig: PathBuf,
    discovery: OnceCell<Discovery>,
}

impl Access {
    pub fn open(connection: &Connection) -> Result<Self> {
        let variable = std::env::var_os("KUBECONFIG");
        let home = std::env::var_os("HOME").map(PathBuf::from);
        let candidates = kubeconfig_files(connection, variable.as_deref(), home.as_deref());
        let there = candidates.iter().map(|group| group.iter().filter(|p| p.exists()).cloned().collect::<Vec<_>>());
        let looked = || candidates.iter().flatten().map(|p| p.display().to_string()).collect();
        let files = there.into_iter().find(|group| !group.is_empty()).ok_or_else(|| CliError::NoKubeconfig { looked: looked() })?;
        let context = Context::load(&files, connection.context.as_deref())?;
        let remote = Arc::new(Remote::new(&context.access)?.with_warnings(warn()));
        let namespace = connection.namespace.clone().unwrap_or(context.namespace);
        Ok(Self {
            client: Client::new(remote.clone(), FIELD_MANAGER),
            remote,
            namespace_was_given: connection.namespace.is_some(),
            namespace: if namespace.is_empty() { "default".into() } else { namespace },
            server: context.access.server,
            kubeconfig: context.file,
            discovery: OnceCell::new(),
        })
    }

    /// Sends a request and gives the answer where it is a good one.
    pub(crate) async fn send(&self, method: Method, path: &str, accept: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let response = self.exchange(method, path, accept, body).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await.into()) }
    }

    async fn exchange(&self, method: Method, path: &str, accept: &str, body: Vec<u8>) -> Result<Response<Incoming>> {
        let request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept).header(header::USER_AGENT, AGENT);
        let request = request.header(header::CONTENT_TYPE, "application/json").body(Full::new(body.into()));
        let request = request.map_err(|e| CliError::failed(format!("bad request for {path}: {e}")))?;
        self.remote.request(request).await.map_err(|e| self.unreachable(e))
    }

    /// An answer of any code, as text: health checks say what is wrong in one that is no success.
    pub(crate) async fn plain(&self, path: &str) -> Result<(u16, String)> {
        let response = self.exchange(Method::GET, path, "*/*", Vec::new()).await?;
        let code = response.status().as_u16();
        Ok((code, String::from_utf8_lossy(&collect(response).await?).into_owned()))
    }

    fn unreachable(&self, error: fram_client::remote::RemoteError) -> CliError {
        if error.is_refused() { CliError::Refused { server: self.server.clone() } } else { error.into() }
    }

    /// A document in JSON.
    pub(crate) async fn document(&self, path: &str, accept: &str) -> Result<Value> {
        let body = collect(self.send(Method::GET, path, accept, Vec::new()).await?).await?;
        json::from_slice(&body).map_err(|e| CliError::failed(format!("the server's answer is not JSON: {e}")))
    }

    /// Opens a WebSocket; `protocol` is its subprotocol.
    pub(crate) async fn websocket(&self, path: &str, protocol: &str) -> Result<Socket> {
        let request = Request::get(path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, generate_key())
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
            .header(header::USER_AGENT, AGENT)
            .body(Full::new(Bytes::new()));
        let request = request.map_err(|e| CliError::failed(format!("bad request for {path}: {e}")))?;
        match self.remote.upgrade(request).await.map_err(|e| self.unreachable(e))? {
            Upgrade::Stream(headers, stream) => {
                let spoken = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|p| p.to_str().ok()).unwrap_or_default();
                if spoken != protocol {
                    return Err(CliError::failed(format!("the server does not speak {protocol}")));
                }
                Ok(WebSocketStream::from_raw_socket(*stream, Role::Client, None).await)
            }
            Upgrade::Refused(response) => Err(refusal(response).await.into()),
        }
    }

    pub async fn discovery(&self) -> Result<&Discovery> {
        self.discovery.get_or_try_init(|| self.discover()).await
    }

    /// Discovery as it is now: resources may have come since.
    pub(crate) async fn discover(&self) -> Result<Discovery> {
        const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let documents = [self.document("/api", AGGREGATED).await?, self.document("/apis", AGGREGATED).await?];
        Ok(Discovery::parse(&documents))
    }

    /// The resource that a word means.
    pub async fn resource_type(&self, word: &str) -> Result<&ResourceType> {
        let found = self.discovery().await?.find(word);
        found.ok_or_else(|| CliError::usage(format!("the server doesn't have a resource type {word:?}")))
    }

    /// The resources that a word means; a category such as `all` means several.
    pub(crate) async fn resource_types(&self, word: &str) -> Result<Vec<&ResourceType>> {
        let discovery = self.discovery().await?;
        match (discovery.find(word), discovery.category(word)) {
            (Some(found), _) => Ok(vec![found]),
            (None, several) if !several.is_empty() => Ok(several),
            _ => Err(CliError::usage(format!("the server doesn't have a resource type {word:?}"))),
        }
    }

    /// Where objects of a type live for this command; empty at cluster scope.
    pub(crate) fn namespace_of(&self, ty: &ResourceType) -> &str {
        if ty.namespaced { &self.namespace } else { "" }
    }

    pub fn objects(&self, ty: &ResourceType) -> Resources {
        self.objects_in(ty, self.namespace_of(ty))
    }

    /// The objects of a type in a namespace; all of them where it is empty.
    pub(crate) fn objects_in(&self, ty: &ResourceType, namespace: &str) -> Resources {
        self.client.within(&ty.resource(), namespace)
    }

    pub async fn patch(
        &self,
        at: &Place<'_>,
        subresource: &str,
        kind: PatchKind,
        body: Value,
        options: WriteOptions,
    ) -> Result<Arc<Value>> {
        let options = match options.field_manager.is_empty() {
            true => WriteOptions { field_manager: FIELD_MANAGER.into(), ..options },
            false => options,
        };
        self.call(at, subresource, Verb::Patch { patch: Patch { kind, body }, options }).await
    }

    pub(crate) async fn get(&self, at: &Place<'_>, subresource: &str) -> Result<Arc<Value>> {
        self.call(at, subresource, Verb::Get).await
    }

    pub(crate) async fn delete(&self, at: &Place<'_>, options: DeleteOptions) -> Result<Arc<Value>> {
        self.call(at, "", Verb::Delete(options)).await
    }

    async fn call(&self, at: &Place<'_>, subresource: &str, verb: Verb) -> Result<Arc<Value>> {
        let (namespace, name) = (at.namespace.to_string(), at.name.to_string());
        match self.client.call(Call { resource: at.ty.resource(), namespace, name, subresource: subresource.into(), verb }).await? {
            Reply::Object(object) => Ok(object),
            Reply::Page(_) => Err(CliError::failed("the server answered with a list where an object was asked for")),
        }
    }
}

/// Where an object is.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub ty: &'a ResourceType,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ty.label(), self.name)
    }
}

const AGENT: &str = concat!("fram/", env!("CARGO_PKG_VERSION"));

pub(crate) async fn collect(response: Response<Incoming>) -> Result<Bytes> {
    let body = response.into_body().collect().await;
    Ok(body.map_err(|e| CliError::failed(format!("the server's answer broke off: {e}")))?.to_bytes())
}

/// What a server says that refuses.
async fn refusal(response: Response<Incoming>) -> Status {
    let code = response.status();
    let body = response.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    match json::from_slice(&body) {
        Ok(status) if status.str_at(&["kind"]) == "Status" => Status::from_object(&status),
        _ => {
            let text = String::from_utf8_lossy(&body).trim().to_string();
            let message = if text.is_empty() { code.to_string() } else { text };
            let mut status = Status::from_object(&fram_machinery::object!({ "code": (i64::from(code.as_u16())) }));
            status.message = message;
            status
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_is_looked_for_in_kubectls_places_and_then_in_the_data() {
        let files =
            |connection: &Connection, variable: Option<&str>| kubeconfig_files(connection, variable.map(OsStr::new), Some(Path::new("/h")));
        let none = Connection::default();
        let (home, data) = (vec![PathBuf::from("/h/.kube/config")], vec![PathBuf::from("/var/lib/fram/admin.kubeconfig")]);
        assert_eq!(files(&none, None), [home.clone(), data.clone()]);
        assert_eq!(files(&none, Some("")), [home, data]);
        // A variable that names no file that is there must not lead to another cluster.
        assert_eq!(files(&none, Some("/a::/b")), [vec![PathBuf::from("/a"), "/b".into()]]);
        let named = Connection { kubeconfig: Some("/k".into()), ..Default::default() };
        assert_eq!(files(&named, Some("/a")), [vec![PathBuf::from("/k")]]);
        let elsewhere = Connection { data_dir: Some("/d".into()), ..Default::default() };
        assert_eq!(files(&elsewhere, Some("/a")), [vec![PathBuf::from("/d/admin.kubeconfig")]]);
    }
}
