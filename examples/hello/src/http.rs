//! As much of HTTP/1.1 as the example needs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);
/// Longer requests are cut.
const LONGEST: u64 = 16 * 1024;

/// The path of the request that arrives; its headers are read and forgotten.
pub(crate) fn requested(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.take(LONGEST)).lines();
    let first = lines.next().unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()))?;
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    Ok(path_of(&first).to_string())
}

/// The path in the first line of a request, without its query.
fn path_of(line: &str) -> &str {
    let target = line.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

/// Host with port, and path, of `http://HOST[:PORT][/PATH]`.
fn parts(url: &str) -> Option<(String, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |i| rest.split_at(i));
    let host = if host.contains(':') { host.to_string() } else { format!("{host}:80") };
    (!host.starts_with(':')).then_some((host, path))
}

/// The body behind a URL.
pub(crate) fn get(url: &str) -> Result<String, String> {
    let (host, path) = parts(url).ok_or_else(|| format!("{url} is no URL such as http://hello/"))?;
    let failed = |e: io::Error| format!("{url}: {e}");
    let address = host.to_socket_addrs().map_err(failed)?.next().ok_or_else(|| format!("{host} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    body(&text).map_err(|why| format!("{url}: {why}"))
}

/// The body of an answer of success.
fn body(answer: &str) -> Result<String, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer broke off")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) { Ok(body.into()) } else { Err(status.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_urls_and_answers_are_read() {
        assert_eq!(path_of("GET /a/b?c=d HTTP/1.1"), "/a/b");
        assert_eq!(parts("http://hello"), Some(("hello:80".into(), "/")));
        assert_eq!(parts("http://hello:8080/x"), Some(("hello:8080".into(), "/x")));
        assert_eq!(parts("https://hello"), None);
        assert_eq!(body("HTTP/1.1 200 OK\r\nA: b\r\n\r\nhi\n").as_deref(), Ok("hi\n"));
        assert!(body("HTTP/1.1 404 Not Found\r\n\r\n").is_err() && body("HTTP").is_err());
    }
}
