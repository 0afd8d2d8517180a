//! Answers of proxied pods and Services, made to work below the proxy's path: links in HTML and redirects that begin at the
//! root get the path in front. See apimachinery's proxy.Transport.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use lol_html::send::{HtmlRewriter, Settings};
use lol_html::{OutputSink, element};

use crate::respond::Body;

/// Attributes that hold one URL, by the element; see the list of attributes in the HTML standard.
const LINKS: [(&str, &[&str]); 23] = [
    ("a", &["href"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["formaction", "src", "usemap"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("track", &["src"]),
    ("video", &["poster", "src"]),
    ("html", &["manifest"]),
];

/// A link as the client has to see it; None where it is right as it is. `prefix` ends without a slash, `host` is the one that
/// was proxied to.
fn rewritten(link: &str, prefix: &str, host: &str) -> Option<String> {
    let own = |rest: &str| rest.strip_prefix(host).filter(|path| path.is_empty() || path.starts_with('/')).map(String::from);
    let absolute = ["http://", "https://", "//"].iter().find_map(|scheme| link.strip_prefix(scheme));
    let path = match absolute {
        Some(rest) => own(rest)?,
        None => link.to_string(),
    };
    let inside = path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']));
    let rooted = path.starts_with('/') || absolute.is_some();
    (rooted && !inside).then(|| format!("{prefix}{path}"))
}

/// Rewrites an answer; what is neither HTML nor a redirect stays as it is.
pub(super) fn answer(mut response: Response<Body>, prefix: &str, host: &str) -> Response<Body> {
    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
    if let Some(Ok(location)) = location.and_then(|l| rewritten(l, prefix, host)).map(HeaderValue::try_from) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    let text = |name| response.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok()).unwrap_or_default();
    // What is compressed though nobody asked for it cannot be read here.
    if !text(header::CONTENT_TYPE).starts_with("text/html") || !text(header::CONTENT_ENCODING).is_empty() {
        return response;
    }
    response.headers_mut().remove(header::CONTENT_LENGTH);
    let (prefix, host) = (prefix.to_string(), host.to_string());
    response.map(|body| rewrite_body(body, prefix, host))
}

/// Where the rewriter writes; what it has written is taken after each piece of input.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl OutputSink for Sink {
    fn handle_chunk(&mut self, chunk: &[u8]) {
        if let Ok(mut out) = self.0.lock() {
            out.extend_from_slice(chunk);
        }
    }
}

impl Sink {
    fn take(&self) -> Bytes {
        self.0.lock().map(|mut out| std::mem::take(&mut *out)).unwrap_or_default().into()
    }
}

fn rewriter(prefix: String, host: String, sink: Sink) -> HtmlRewriter<'static, Sink> {
    let links = element!("*", move |element| {
        let name = element.tag_name();
        let attributes = LINKS.iter().find(|(tag, _)| *tag == name).map_or(&[][..], |(_, attributes)| attributes);
        for attribute in attributes {
            if let Some(link) = element.get_attribute(attribute).and_then(|link| rewritten(&link, &prefix, &host)) {
                element.set_attribute(attribute, &link)?;
            }
        }
        Ok(())
    });
    HtmlRewriter::new(Settings { element_content_handlers: vec![links], ..Settings::new_send() }, sink)
}

fn rewrite_body(body: Body, prefix: String, host: String) -> Body {
    let sink = Sink::default();
    let state = Some((body, rewriter(prefix, host, sink.clone()), sink));
    let frames = futures_util::stream::unfold(state, async |state| {
        let (mut body, mut rewriter, sink) = state?;
        loop {
            let broken = |e: lol_html::errors::RewritingError| Some((Err(std::io::Error::other(e)), None));
            match body.frame().await {
                None => {
                    return match rewriter.end() {
                        Ok(()) => Some((Ok(Frame::data(sink.take())), None)),
                        Err(error) => broken(error),
                    };
                }
                Some(Err(error)) => return Some((Err(error), None)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if let Err(error) = rewriter.write(&data) {
                            return broken(error);
                        }
                        let out = sink.take();
                        if !out.is_empty() {
                            return Some((Ok(Frame::data(out)), Some((body, rewriter, sink))));
                        }
                    }
                    // Trailers would say the length of what is no longer sent.
                    Err(_) => continue,
                },
            }
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    const PREFIX: &str = "/api/v1/namespaces/a/pods/b/proxy";

    #[track_caller]
    fn check(link: &str, expect: &str) {
        assert_eq!(rewritten(link, PREFIX, "10.0.0.1:80").as_deref().unwrap_or(link), expect, "{link}");
    }

    #[test]
    fn links_from_the_root_get_the_path_in_front() {
        check("/x?y", &format!("{PREFIX}/x?y"));
        check("/", &format!("{PREFIX}/"));
        check("http://10.0.0.1:80/x", &format!("{PREFIX}/x"));
        for other in ["x/y", "", "#a", "?q", "http://example.com/x", "mailto:a@b", &format!("{PREFIX}/x"), PREFIX] {
            check(other, other);
        }
    }

    #[tokio::test]
    async fn html_is_rewritten_and_other_bodies_are_not() {
        let page = "<p title='/x'><a class=c href='/x'>l</a><IMG SRC=/y.png></p>";
        for (content_type, expect) in [
            ("text/html; charset=utf-8", format!("<p title='/x'><a class=c href=\"{PREFIX}/x\">l</a><IMG SRC=\"{PREFIX}/y.png\"></p>")),
            ("text/plain", page.to_string()),
        ] {
            let body = Full::new(Bytes::from(page)).map_err(|e| match e {}).boxed_unsync();
            let response = Response::builder().header("content-type", content_type).header("location", "/z").body(body).unwrap();
            let response = answer(response, PREFIX, "h");
            assert_eq!(response.headers()["location"], format!("{PREFIX}/z"));
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(String::from_utf8_lossy(&bytes).to_lowercase(), expect.to_lowercase());
        }
    }
}
