//! A registry on loopback that serves what is in memory, so that what is measured is the runtime's own pulling and unpacking.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::image::{Images, MANIFEST};

pub(crate) struct Registry {
    address: SocketAddr,
    images: Arc<Images>,
    sent: Arc<AtomicUsize>,
}

impl Registry {
    /// Its threads end with the program.
    pub(crate) fn serve(address: SocketAddr, images: Images) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        let registry = Self { address: listener.local_addr()?, images: Arc::new(images), sent: Arc::default() };
        let (images, sent) = (registry.images.clone(), registry.sent.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (images, sent) = (images.clone(), sent.clone());
                // A client that goes away is none of its business.
                std::thread::spawn(move || answer(&stream, &images, &sent));
            }
        });
        Ok(registry)
    }

    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Bytes of blobs that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes that a pull of the large image has to ask for.
    pub(crate) fn large(&self) -> usize {
        self.images.large
    }
}

fn answer(stream: &TcpStream, images: &Images, sent: &AtomicUsize) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut request = String::new();
        reader.read_line(&mut request).ok().filter(|length| *length > 0)?;
        let mut line = String::from("-");
        while !line.trim().is_empty() {
            line.clear();
            reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        }
        let (method, path) = request.split_once(' ')?;
        let found = find(images, path.split([' ', '?']).next()?);
        let Some((kind, digest, body)) = found else {
            write!(writer, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
            continue;
        };
        let (length, head) = (body.len(), "HTTP/1.1 200 OK\r\n");
        write!(writer, "{head}Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {length}\r\n\r\n").ok()?;
        if method == "GET" {
            writer.write_all(body).ok()?;
            sent.fetch_add(length, Ordering::Relaxed);
        }
    }
}

/// Media type, digest and bytes.
fn find<'a>(images: &'a Images, path: &str) -> Option<(&'static str, String, &'a [u8])> {
    let path = path.strip_prefix("/v2/")?;
    if path.is_empty() {
        return Some(("application/json", String::new(), b"{}"));
    }
    let (name, rest) = path.split_once('/')?;
    let (sort, reference) = rest.split_once('/')?;
    let digest = if reference.starts_with("sha256:") { reference } else { images.manifests.get(&format!("{name}:{reference}"))? };
    let kind = if sort == "manifests" { MANIFEST } else { "application/octet-stream" };
    Some((kind, digest.to_owned(), images.blobs.get(digest)?))
}
