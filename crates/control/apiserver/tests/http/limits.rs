//! Limits on what clients may ask for, and how the server ends.

use std::time::Duration;

use fram_apiserver::limits::Limits;
use fram_machinery::object;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::site::{Site, object_of, request, until};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn start(limits: Limits) -> Site {
    Site::start(|server| server.with_limits(limits)).await
}

/// Reads until the server closes the connection.
async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut out = Vec::new();
    // A connection that is cut off rather than ended is closed too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut out)).await.unwrap();
    out
}

#[tokio::test]
async fn a_body_of_more_than_three_mebibytes_is_refused() {
    let site = start(Limits::default()).await;
    let admin = site.client("admin", &["system:masters"]);
    let map = object!({ "metadata": { "name": "m" }, "data": { "a": ("x".repeat(3 << 20)) } });
    let refused = admin.request(request("POST", MAPS, Some(&map))).await.unwrap();
    assert_eq!(refused.status(), 413);
    assert_eq!(object_of(refused).await.str_at(&["reason"]), "RequestEntityTooLarge");
}

#[tokio::test]
async fn heads_may_be_long_but_not_without_end() {
    let site = start(Limits::default()).await;
    let ask = async |size: usize| {
        let mut stream = site.raw("admin", &["system:masters"]).await;
        let head = format!("GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n", "y".repeat(size));
        // The server may close before it has read all of it.
        let _ = stream.write_all(head.as_bytes()).await;
        String::from_utf8_lossy(&closed(&mut stream).await).lines().next().unwrap_or_default().to_string()
    };
    assert_eq!(ask(200 << 10).await, "HTTP/1.1 200 OK");
    let refused = ask(2 << 20).await;
    assert!(refused.is_empty() || refused.contains("431"), "{refused}");
    let admin = site.client("admin", &["system:masters"]);
    let with = |size: usize| {
        let mut asked = request("GET", "/version", None);
        asked.headers_mut().insert("x-long", "y".repeat(size).parse().unwrap());
        asked
    };
    assert_eq!(admin.request(with(200 << 10)).await.unwrap().status(), 200);
    // The stream or its connection is given up, or told why.
    assert!(!admin.request(with(2 << 20)).await.is_ok_and(|r| r.status() == 200));
}

#[tokio::test]
async fn an_address_may_be_long_but_not_without_end() {
    let site = start(Limits::default()).await;
    let ask = async |size: usize| {
        let mut stream = site.raw("admin", &["system:masters"]).await;
        let head = format!("GET /version?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "y".repeat(size));
        let _ = stream.write_all(head.as_bytes()).await;
        String::from_utf8_lossy(&closed(&mut stream).await).lines().next().unwrap_or_default().to_string()
    };
    assert_eq!(ask(30 << 10).await, "HTTP/1.1 200 OK");
    assert!(ask(100 << 10).await.contains("414"));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_all_the_same() {
    let site = start(Limits { request: Duration::from_millis(200), ..Limits::default() }).await;
    let mut slow = site.raw("admin", &["system:masters"]).await;
    let head =
        format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    let answer = String::from_utf8_lossy(&closed(&mut slow).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("\"reason\":\"Timeout\""), "{answer}");
    let admin = site.client("admin", &["system:masters"]);
    let refused = admin.request(request("GET", "/api/v1/pods?timeout=soon", None)).await.unwrap();
    assert_eq!(refused.status(), 400);
}

#[tokio::test]
async fn a_client_that_never_finishes_its_head_is_given_up() {
    let site = start(Limits { head: Duration::from_millis(300), ..Limits::default() }).await;
    let (mut silent, mut slow) = (site.raw("admin", &[]).await, site.raw("admin", &[]).await);
    slow.write_all(b"GET /version HTTP/1.1\r\nhost:").await.unwrap();
    slow.flush().await.unwrap();
    closed(&mut slow).await;
    closed(&mut silent).await;
}

#[tokio::test]
async fn a_watch_whose_client_reads_nothing_is_closed() {
    let site = start(Limits { stall: Duration::from_millis(500), ..Limits::default() }).await;
    let admin = site.client("admin", &["system:masters"]);
    let mut idle = site.raw("admin", &["system:masters"]).await;
    idle.write_all(format!("GET {MAPS}?watch=true HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    idle.flush().await.unwrap();
    // Enough for the sockets' buffers to be full. The kernel may take some ten megabytes.
    let text = "x".repeat(1 << 20);
    let open = || site.server.long_running_requests();
    until(async || open() == 1).await;
    for n in 0..40 {
        let map = object!({ "metadata": { "name": (format!("m{n}")) }, "data": { "a": (text.as_str()) } });
        assert_eq!(admin.request(request("POST", MAPS, Some(&map))).await.unwrap().status(), 201);
        if open() == 0 {
            break;
        }
    }
    until(async || open() == 0).await;
    drop(idle);
}

#[tokio::test]
async fn so_many_streams_are_open_over_one_connection_and_the_next_waits() {
    let site = start(Limits { streams: 2, ..Limits::default() }).await;
    let admin = site.client("admin", &["system:masters"]);
    let watch = || request("GET", "/api/v1/nodes?watch=true", None);
    let first = admin.request(watch()).await.unwrap();
    let _second = admin.request(watch()).await.unwrap();
    let third = admin.request(request("GET", "/version", None));
    tokio::pin!(third);
    assert!(tokio::time::timeout(Duration::from_millis(300), third.as_mut()).await.is_err());
    drop(first);
    assert_eq!(third.await.unwrap().status(), 200);
}

#[tokio::test]
async fn at_the_end_readiness_goes_first_then_watches_and_requests_are_finished() {
    let mut site = start(Limits { request: Duration::from_secs(20), ..Limits::default() }).await;
    let admin = site.client("admin", &["system:masters"]);
    let status = async |path: &str| admin.request(request("GET", path, None)).await.unwrap().status().as_u16();
    assert_eq!(status("/readyz").await, 200);
    site.server.leave();
    assert_eq!([status("/readyz").await, status("/livez").await, status("/version").await], [500, 200, 200]);
    let watch = admin.request(request("GET", "/api/v1/nodes?watch=true&resourceVersion=1", None)).await.unwrap();
    let mut slow = site.raw("admin", &["system:masters"]).await;
    let body = r#"{"metadata":{"name":"m"}}"#;
    let head = format!("POST {MAPS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    until(async || site.server.requests_in_flight() == 1).await;
    site.stop.cancel();
    watch.into_body().collect().await.unwrap();
    until(async || tokio::net::TcpStream::connect(site.address).await.is_err()).await;
    // The request that had begun is finished, whenever its client gets on with it.
    slow.write_all(body.as_bytes()).await.unwrap();
    slow.flush().await.unwrap();
    let answer = String::from_utf8_lossy(&closed(&mut slow).await).into_owned();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let ended = async { while site.tasks.join_next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(10), ended).await.unwrap();
}
