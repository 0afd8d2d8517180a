//! The fram of the same machine, over the socket in its data directory: its images and how it fares.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fram_machinery::{Status, Value, json};
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::access::DEFAULT_DATA_DIR;
use crate::error::{CliError, Result};

/// The socket's name in the data directory.
pub const SOCKET: &str = "fram.sock";

/// The data directory that is meant: the named one, else where the kubeconfig lies if a fram has its socket there.
pub(crate) fn data_dir(named: Option<&Path>, kubeconfig: Option<&Path>) -> PathBuf {
    let beside = kubeconfig.and_then(Path::parent).filter(|folder| folder.join(SOCKET).exists());
    named.or(beside).unwrap_or(Path::new(DEFAULT_DATA_DIR)).into()
}

/// The socket's path through a descriptor of its folder, which must stay open meanwhile: the path of a socket may have 107
/// bytes only (unix(7)), that of a data directory more.
pub fn socket_path(data: &Path) -> std::io::Result<(std::fs::File, PathBuf)> {
    use std::os::fd::AsRawFd;
    let folder = std::fs::File::open(data)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()).into();
    Ok((folder, path))
}

async fn connect(data: &Path) -> std::io::Result<UnixStream> {
    let (_folder, path) = socket_path(data)?;
    UnixStream::connect(path).await
}

/// Asks for a document.
pub async fn ask(data: &Path, method: Method, path: &str) -> Result<Value> {
    send(data, method, path, Full::new(Bytes::new())).await
}

/// Hands a stream over, such as an archive of images.
pub async fn hand_over(data: &Path, path: &str, mut source: impl std::io::Read + Send + 'static) -> Result<Value> {
    const CHUNK: usize = 256 << 10;
    let (sender, receiver) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(8);
    let mut reading = JoinSet::new();
    reading.spawn_blocking(move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let next = match source.read(&mut chunk) {
                Ok(0) => return,
                Ok(read) => Ok(Frame::data(Bytes::copy_from_slice(&chunk[..read]))),
                Err(error) => Err(error),
            };
            if sender.blocking_send(next).is_err() {
                return;
            }
        }
    });
    let body = futures_util::stream::unfold(receiver, |mut r| async move { Some((r.recv().await?, r)) });
    send(data, Method::POST, path, StreamBody::new(Box::pin(body))).await
}

async fn send<B>(data: &Path, method: Method, path: &str, body: B) -> Result<Value>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let failed = |e: &dyn std::fmt::Display| CliError::failed(format!("the fram of this machine: {e}"));
    let socket = data.join(SOCKET);
    let stream = connect(data).await.map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => CliError::NoNode(data.into()),
        std::io::ErrorKind::PermissionDenied => CliError::failed(format!("only root may use {}", socket.display())),
        _ => CliError::Io { operation: "connect to", path: socket.clone(), source },
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let request = Request::builder().method(method).uri(path).header(header::HOST, "localhost").body(body).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let good = response.status().is_success();
    let body = response.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
    let value = json::from_slice(&body).map_err(|e| failed(&e))?;
    if good { Ok(value) } else { Err(CliError::failed(Status::from_object(&value).message)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_found_however_long_its_folders_path_is() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("long".repeat(30));
        std::fs::create_dir(&data).unwrap();
        let missing = ask(&data, Method::GET, "/status").await.unwrap_err();
        assert!(matches!(missing, CliError::NoNode(_)), "{missing}");
        let (_folder, path) = socket_path(&data).unwrap();
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let (connected, accepted) = tokio::join!(connect(&data), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok() && data.join(SOCKET).exists());
    }

    #[test]
    fn the_data_directory_is_the_named_one_or_where_a_fram_has_its_socket() {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("admin.kubeconfig");
        assert_eq!(data_dir(None, Some(&kubeconfig)), Path::new(DEFAULT_DATA_DIR));
        std::fs::write(folder.path().join(SOCKET), "").unwrap();
        assert_eq!(data_dir(None, Some(&kubeconfig)), folder.path());
        assert_eq!(data_dir(Some(Path::new("/d")), Some(&kubeconfig)), Path::new("/d"));
    }
}
