//! Fuzz targets: what a request says before its body is read.

use fram_fuzz::{Pieces, Target};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::accept::{Accept, Endpoint};
use crate::authenticate;
use crate::bootstrap_token::BootstrapToken;
use crate::path::{self, Query};

/// Names and values of headers, in turn.
fn headers(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    let mut headers = HeaderMap::new();
    for _ in 0..20 {
        let (name, value) = (pieces.bytes(), pieces.bytes());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let token = authenticate::bearer(&headers);
    token.iter().for_each(|token| drop(BootstrapToken::parse(token)));
    let _ = authenticate::extras(&headers);
    let _ = (Accept::negotiate(&headers, Endpoint::Objects), Accept::negotiate_stream(&headers, Endpoint::Objects));
    authenticate::strip(&mut headers);
    // Whoever the request is handed on to must not get what the client proved itself by.
    assert_eq!(authenticate::bearer(&headers), None);
}

fn url(input: &[u8]) {
    let mut pieces = Pieces::of(input);
    if let Some(found) = path::parse(pieces.text()) {
        [Method::GET, Method::POST, Method::DELETE].iter().for_each(|method| assert_ne!(path::verb(method, &found, false), "x"));
    }
    let query = Query::parse(Some(pieces.text()));
    let _ = (query.get("limit"), query.flag("watch"));
}

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 400, run };
    let lines: &[&[u8]] = &[
        b"authorization\0Bearer abcdef.0123456789abcdef\0impersonate-extra-a%2fb\0c\0accept\0\
          application/json;as=Table;v=v1;g=meta.k8s.io;q=0.5, application/yaml, */*",
        b"sec-websocket-protocol\0base64url.bearer.authorization.k8s.io.YQ, v5.channel.k8s.io\0authorization\0basic x",
    ];
    let urls: &[&[u8]] =
        &[b"/apis/apps/v1/watch/namespaces/a%20b/deployments/c/scale/d\0a=b&c=%zz&watch=1&+=%2B", b"/api/v1/namespaces/x/status"];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &[target("headers", headers, lines), target("url", url, urls)]);
}
