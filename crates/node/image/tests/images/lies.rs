//! Servers that cut, stall, lie about sizes and digests, redirect, and ask for tokens: scripted byte by byte.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fram_image::{Credentials, ErrorKind};
use serde_json::json;

use crate::pull::told_of;
use crate::support::{Authority, BuiltImage, ImageSource, Reply, Request, Rig, Server, quick, response, text};

fn image() -> BuiltImage {
    // Hard to compress, so that the layer is large enough to be cut several times.
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(600_000)
    .collect();
    ImageSource::new(&[&[("noise", &noise)]]).build()
}

/// The honest answer, from which each test departs somewhere.
fn honest(image: &BuiltImage, request: &Request) -> Reply {
    let target = request.path.rsplit('/').next().unwrap();
    let digest = if target == "1" { text(&image.manifest["digest"]) } else { target.to_owned() };
    match image.blobs.get(&digest) {
        Some(bytes) => Reply::ok(bytes),
        None => Reply::status("404 Not Found", &[], b""),
    }
}

fn is_layer(image: &BuiltImage, request: &Request) -> bool {
    request.path.ends_with(&text(&image.layers[0]["digest"]))
}

fn serve(image: &BuiltImage, answer: impl Fn(&BuiltImage, &Request) -> Reply + Send + Sync + 'static) -> (Server, String) {
    let image = image.clone();
    let server = Server::start(move |request| answer(&image, request));
    let name = format!("{}/app:1", server.address);
    (server, name)
}

#[tokio::test]
async fn a_transfer_that_is_cut_goes_on_where_it_stopped() {
    let (image, rig, served) = (image(), Rig::new(), Arc::new(AtomicUsize::new(0)));
    let count = served.clone();
    let (_server, name) = serve(&image, move |image, request| {
        if !is_layer(image, request) {
            return honest(image, request);
        }
        let bytes = &image.blobs[&text(&image.layers[0]["digest"])];
        let offset = request.offset();
        let piece = &bytes[offset..bytes.len().min(offset + 200_000)];
        count.fetch_add(piece.len(), Ordering::SeqCst);
        let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
        let status = if offset == 0 { "200 OK" } else { "206 Partial Content" };
        Reply::Raw(response(status, &[("Content-Range", &range)], bytes.len() - offset, piece))
    });
    rig.store.pull(&name, None, None).await.unwrap();
    let size = image.blobs[&text(&image.layers[0]["digest"])].len();
    assert_eq!(served.load(Ordering::SeqCst), size, "no byte was asked for twice");
}

#[tokio::test]
async fn a_server_without_ranges_is_read_again_from_the_start() {
    let (image, rig, tries) = (image(), Rig::new(), AtomicUsize::new(0));
    let (_server, name) = serve(&image, move |image, request| {
        if is_layer(image, request) && tries.fetch_add(1, Ordering::SeqCst) == 0 {
            let bytes = &image.blobs[&text(&image.layers[0]["digest"])];
            return Reply::Raw(response("200 OK", &[], bytes.len(), &bytes[..1000]));
        }
        honest(image, request)
    });
    rig.store.pull(&name, None, None).await.unwrap();
}

#[tokio::test]
async fn a_server_that_stalls_twice_is_a_network_error_and_the_next_pull_goes_on() {
    let patience = fram_image::RegistryConfig { connect_timeout: std::time::Duration::from_millis(100), ..crate::support::quick() };
    for stalls_with_manifest in [false, true] {
        let (image, rig, asked) = (image(), Rig::with(patience.clone()), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let (_server, name) = serve(&image, move |image, request| {
            if is_layer(image, request) == stalls_with_manifest || count.fetch_add(1, Ordering::SeqCst) >= 2 {
                return honest(image, request);
            }
            Reply::Stall(if stalls_with_manifest { Vec::new() } else { response("200 OK", &[], 600_000, b"abc") })
        });
        let error = rig.store.pull(&name, None, None).await.unwrap_err();
        assert_eq!((error.kind(), asked.load(Ordering::SeqCst)), (ErrorKind::Network, 2), "{error}");
        assert!(error.to_string().contains("sent nothing for"), "{error}");
        rig.store.pull(&name, None, None).await.unwrap();
    }
}

#[tokio::test]
async fn wrong_content_and_endless_content_are_corrupt() {
    for excess in [false, true] {
        let (image, rig) = (image(), Rig::new());
        let (_server, name) = serve(&image, move |image, request| {
            if !is_layer(image, request) {
                return honest(image, request);
            }
            let mut bytes = image.blobs[&text(&image.layers[0]["digest"])].clone();
            bytes[1000] ^= 1;
            bytes.extend(std::iter::repeat_n(0, if excess { 1 << 20 } else { 0 }));
            Reply::ok(&bytes)
        });
        let error = rig.store.pull(&name, None, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!((rig.count("layers"), rig.store.list().len()), (0, 0));
    }
}

#[tokio::test]
async fn a_manifest_with_another_digest_than_asked_for_is_refused() {
    let (image, rig) = (image(), Rig::new());
    let other = ImageSource::new(&[&[("other", b"o")]]).build();
    let (server, _) = serve(&other, |image, _| Reply::ok(&image.blobs[&text(&image.manifest["digest"])]));
    let name = format!("{}/app@{}", server.address, text(&image.manifest["digest"]));
    let error = rig.store.pull(&name, None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

/// The image with its layer's descriptor changed, and the manifest made anew.
fn redescribed(field: &str, value: serde_json::Value) -> BuiltImage {
    let mut image = image();
    let digest = text(&image.manifest["digest"]);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.blobs[&digest]).unwrap();
    manifest["layers"][0][field] = value;
    let media_type = text(&image.manifest["mediaType"]);
    image.manifest = image.add(serde_json::to_vec(&manifest).unwrap(), &media_type);
    image
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_layer_is_told_by_what_is_wrong_and_leaves_nothing() {
    let size = image().layers[0]["size"].as_u64().unwrap();
    let digest = text(&ImageSource::new(&[&[("other", b"o")]]).build().layers[0]["digest"]);
    for (field, lie, kind, why) in [
        ("size", json!(size - 1), ErrorKind::Corrupt, "more than the".to_owned()),
        // A server that has less than that may have more later.
        ("size", json!(size + 1), ErrorKind::Network, format!("after {size} of {} bytes", size + 1)),
        ("digest", json!(digest), ErrorKind::NotFound, digest.clone()),
    ] {
        let rig = Rig::new();
        let (_server, name) = serve(&redescribed(field, lie.clone()), honest);
        let error = rig.store.pull(&name, None, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{field} {lie}: {error}");
        assert!(error.to_string().contains(&why), "{field} {lie}: {error}");
        assert_eq!((rig.count("layers"), rig.store.list().len()), (0, 0), "{field} {lie}");
    }
}

#[tokio::test]
async fn what_a_layer_is_called_does_not_count_but_what_it_is() {
    for media_type in ["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.oci.image.layer.v1.tar"] {
        let rig = Rig::new();
        let (_server, name) = serve(&redescribed("mediaType", json!(media_type)), honest);
        rig.store.pull(&name, None, None).await.unwrap();
    }
}

#[tokio::test]
async fn a_manifest_that_says_to_be_an_index_is_refused_and_what_the_transport_calls_it_does_not_count() {
    let (image, rig) = (image(), Rig::new());
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.blobs[&text(&image.manifest["digest"])]).unwrap();
    manifest["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    let lie = serde_json::to_vec(&manifest).unwrap();
    let (_server, name) = serve(&image, move |image, request| match request.path.ends_with("/manifests/1") {
        true => Reply::ok(&lie),
        false => honest(image, request),
    });
    let error = rig.store.pull(&name, None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("called an index"), "{error}");
    let (_server, name) = serve(&image, |image, request| match honest(image, request) {
        Reply::Raw(_) if request.path.contains("/manifests/") => {
            let digest = text(&image.manifest["digest"]);
            Reply::Raw(response("200 OK", &[("Content-Type", "text/html")], image.blobs[&digest].len(), &image.blobs[&digest]))
        }
        reply => reply,
    });
    rig.store.pull(&name, None, None).await.unwrap();
}

#[tokio::test]
async fn redirects_in_a_circle_end_with_an_error_that_says_so() {
    let (image, rig, asked) = (image(), Rig::new(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let (_server, name) = serve(&image, move |image, request| {
        if !request.path.contains("/blobs/") {
            return honest(image, request);
        }
        count.fetch_add(1, Ordering::SeqCst);
        let (here, there) = (&request.path, if request.path.contains('?') { "" } else { "?again" });
        let location = format!("{}{there}", here.trim_end_matches("?again"));
        Reply::status("307 Temporary Redirect", &[("Location", &location)], b"")
    });
    let error = rig.store.pull(&name, None, None).await.unwrap_err();
    assert!(error.to_string().contains("redirects"), "{error}");
    assert!(asked.load(Ordering::SeqCst) < 100, "the circle is not gone around for ever");
    assert_eq!((rig.count("layers"), rig.store.list().len()), (0, 0));
}

#[tokio::test]
async fn manifests_without_sense_give_clear_errors() {
    let none = json!({ "digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0 });
    let mut layer = none.clone();
    layer["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    let foreign = json!({ "schemaVersion": 2, "config": none, "layers": [layer] }).to_string();
    for (body, kind) in [
        (foreign.into_bytes(), ErrorKind::Unsupported),
        (b"<html>proxy login</html>".to_vec(), ErrorKind::Corrupt),
        (br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(), ErrorKind::Unsupported),
        (vec![b' '; 5 << 20], ErrorKind::Corrupt),
        (br#"{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1}}"#.to_vec(), ErrorKind::Corrupt),
    ] {
        let rig = Rig::new();
        let server = Server::start(move |_| Reply::ok(&body));
        let error = rig.store.pull(&format!("{}/app:1", server.address), None, None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn server_errors_are_retried_and_then_reported_with_their_status() {
    let (image, rig, tries) = (image(), Rig::new(), Arc::new(AtomicUsize::new(0)));
    let count = tries.clone();
    let (_server, name) = serve(&image, move |image, request| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::status("503 Service Unavailable", &[], b""),
        _ => honest(image, request),
    });
    rig.store.pull(&name, None, None).await.unwrap();
    assert!(tries.load(Ordering::SeqCst) > 2);

    let body = serde_json::to_vec(&json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]})).unwrap();
    let server = Server::start(move |_| Reply::status("429 Too Many Requests", &[], &body));
    let error = rig.store.pull(&format!("{}/app:1", server.address), None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network);
    assert!(error.to_string().ends_with("slow down"), "{error}");
}

#[tokio::test]
async fn a_bearer_token_is_fetched_with_the_pull_secret_and_never_follows_a_redirect() {
    let (image, rig) = (image(), Rig::new());
    let storage_image = image.clone();
    let storage = Server::start(move |request| match request.header("authorization") {
        "" => honest(&storage_image, request),
        _ => Reply::status("400 Bad Request", &[], b"credentials leaked"),
    });
    let tokens = Server::start(|request| {
        let right = request.header("authorization") == "Basic dXNlcjpzZWNyZXQ=" && request.path.contains("scope=repository%3Aapp%3Apull");
        if right { Reply::ok(br#"{"token":"sesame","expires_in":300}"#) } else { Reply::status("401 Unauthorized", &[], b"") }
    });
    let (realm, storage_address) = (tokens.address, storage.address);
    let (_server, name) = serve(&image, move |image, request| {
        if request.header("authorization") != "Bearer sesame" {
            let challenge = format!(r#"Bearer realm="http://{realm}/token",service="test""#);
            return Reply::status("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"");
        }
        if request.path.contains("/blobs/") {
            let location = format!("http://{storage_address}{}", request.path);
            return Reply::status("307 Temporary Redirect", &[("Location", &location)], b"");
        }
        honest(image, request)
    });
    assert_eq!(rig.store.pull(&name, None, None).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    let credentials = Credentials { username: "user".into(), password: "secret".into(), ..Default::default() };
    rig.store.pull(&name, Some(credentials), None).await.unwrap();
}

#[tokio::test]
async fn who_is_redirected_to_does_not_say_who_gets_the_pull_secret() {
    let (image, rig, asked) = (image(), Rig::new(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let thief = Server::start(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Reply::ok(br#"{"token":"sesame"}"#)
    });
    let realm = thief.address;
    let storage = Server::start(move |_| {
        let challenge = format!(r#"Bearer realm="http://{realm}/token",service="test""#);
        Reply::status("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"")
    });
    let storage_address = storage.address;
    let (_server, name) = serve(&image, move |_, request| {
        let location = format!("http://{storage_address}{}", request.path);
        Reply::status("307 Temporary Redirect", &[("Location", &location)], b"")
    });
    let credentials = Credentials { username: "user".into(), password: "secret".into(), ..Default::default() };
    assert_eq!(rig.store.pull(&name, Some(credentials), None).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_mirror_that_fails_is_asked_once_for_each_manifest() {
    let (image, asked) = (image(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    let mirror = Server::start(move |request| {
        count.fetch_add(usize::from(request.path.contains("/manifests/")), Ordering::SeqCst);
        Reply::status("503 Service Unavailable", &[], b"")
    });
    let (server, name) = serve(&image, honest);
    let (_said, rig) = told_of(&server.address.to_string(), &format!("[host.'http://{}']", mirror.address));
    rig.store.pull(&name, None, None).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_an_address_is_shown_stays_away_from_its_redirects_and_token_server_and_from_mirrors() {
    let (image, authority) = (image(), Authority::new());
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    // Each says what it was shown.
    let note = |who: &'static str| {
        let seen = seen.clone();
        move |request: &Request| {
            let shown = (request.is_known, request.header("x-secret") == "s", request.header("authorization").to_owned());
            seen.lock().unwrap().insert((who, shown));
        }
    };
    let (on_mirror, on_tokens, on_storage, at_home) = (note("mirror"), note("tokens"), note("storage"), note("home"));
    let mirror = Server::start_tls(&authority, move |request| {
        on_mirror(request);
        assert!(!request.path.contains("/manifests/1"), "it only pulls");
        Reply::status("404 Not Found", &[], b"")
    });
    let tokens = Server::start_tls(&authority, move |request| {
        on_tokens(request);
        Reply::ok(br#"{"token":"sesame"}"#)
    });
    let content = image.clone();
    let storage = Server::start_tls(&authority, move |request| {
        on_storage(request);
        honest(&content, request)
    });
    let (realm, location, content) = (tokens.address, storage.address, image.clone());
    let home = Server::start_tls(&authority, move |request| {
        at_home(request);
        if request.header("authorization").is_empty() {
            let challenge = format!(r#"Bearer realm="https://{realm}/token",service="test""#);
            return Reply::status("401 Unauthorized", &[("WWW-Authenticate", &challenge)], b"");
        }
        match request.path.contains("/blobs/") {
            true => Reply::status("307 Temporary Redirect", &[("Location", &format!("https://{location}{}", request.path))], b""),
            false => honest(&content, request),
        }
    });
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.sign();
    let file = |name: &str, text: String| {
        let path = files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = file("ca.crt", authority.certificate.pem());
    let both = file("both.pem", certificate.pem() + &key.serialize_pem());
    let text = format!(
        "ca = {ca:?}\nclient = {both:?}\nheader = {{ X-Secret = 's' }}\n[host.'https://{}']\nca = {ca:?}\ncapabilities = ['pull']",
        mirror.address
    );
    let (_said, rig) = told_of(&home.address.to_string(), &text);
    let credentials = Credentials { username: "user".into(), password: "secret".into(), ..Default::default() };
    rig.store.pull(&format!("{}/app:1", home.address), Some(credentials), None).await.unwrap();
    let expect = [
        ("home", (true, true, "")),
        ("home", (true, true, "Bearer sesame")),
        ("mirror", (false, false, "")),
        ("storage", (false, false, "")),
        ("tokens", (false, false, "Basic dXNlcjpzZWNyZXQ=")),
    ];
    let expect = expect.map(|(who, (is_known, has_header, authorization))| (who, (is_known, has_header, authorization.to_owned())));
    assert_eq!(*seen.lock().unwrap(), BTreeSet::from(expect));
}

#[tokio::test]
async fn concurrent_pulls_of_one_image_share_the_work() {
    let (image, rig, layers) = (image(), Rig::new(), Arc::new(AtomicUsize::new(0)));
    let count = layers.clone();
    let (_server, name) = serve(&image, move |image, request| {
        count.fetch_add(usize::from(is_layer(image, request)), Ordering::SeqCst);
        honest(image, request)
    });
    let pulls = futures_util::future::join_all((0..8).map(|_| rig.store.pull(&name, None, None)));
    for pulled in pulls.await {
        assert_eq!(pulled.unwrap(), image.id());
    }
    assert_eq!(layers.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_taken_up_again_by_the_next() {
    let (image, rig) = (image(), Rig::new());
    let (reached, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let (_server, name) = serve(&image, move |image, request| {
        let bytes = &image.blobs[&text(&image.layers[0]["digest"])];
        if is_layer(image, request) && request.offset() == 0 {
            reached.send(()).unwrap();
            return Reply::Stall(response("200 OK", &[], bytes.len(), &bytes[..100_000]));
        }
        if is_layer(image, request) {
            let offset = request.offset();
            let range = format!("bytes {offset}-{}/{}", bytes.len() - 1, bytes.len());
            return Reply::status("206 Partial Content", &[("Content-Range", &range)], &bytes[offset..]);
        }
        honest(image, request)
    });
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let listener = Arc::new(move |p: fram_cri::PullProgress| progress.send(p.downloaded_bytes).unwrap_or(()));
    tokio::select! {
        result = rig.store.pull(&name, None, Some(listener)) => panic!("{result:?}"),
        () = async {
            waiting.recv().await;
            while told.recv().await.unwrap() < 100_000 {}
        } => {}
    }
    rig.store.pull(&name, None, None).await.unwrap();
}

#[tokio::test]
async fn an_image_knows_the_size_of_a_layer_that_the_pull_of_another_has_just_unpacked() {
    let noise = [7; 100_000];
    let base: &[(&str, &[u8])] = &[("base", &noise)];
    let [slow, quick] = ["slow", "quick"].map(|own| ImageSource::new(&[base, &[(own, b"x")]]).build());
    let rig = Rig::new();
    let own = text(&slow.layers[1]["digest"]);
    let server = Server::start(move |request| match request.path.ends_with(&own) {
        true => Reply::Stall(response("200 OK", &[], 1000, b"")),
        false => honest(if request.path.contains("/slow/") { &slow } else { &quick }, request),
    });
    let (unpacked, mut told) = tokio::sync::mpsc::unbounded_channel();
    let listener = Arc::new(move |p: fram_cri::PullProgress| unpacked.send(p.unpacked_layers).unwrap_or(()));
    let names = ["slow", "quick"].map(|name| format!("{}/{name}:1", server.address));
    tokio::select! {
        result = rig.store.pull(&names[0], None, Some(listener)) => panic!("{result:?}"),
        () = async { while told.recv().await.unwrap() == 0 {} ; rig.store.pull(&names[1], None, None).await.unwrap(); } => {}
    }
    let size = rig.store.status(&names[1]).unwrap().unwrap().size;
    assert!(size > 100_000, "{size}");
}

#[expect(clippy::disallowed_methods, reason = "the server looks at the store's files from outside, where nothing else tells")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

#[tokio::test]
async fn a_layer_that_comes_late_holds_up_no_other_but_is_in_its_place_first() {
    let image = ImageSource::new(&[&[("a/lower", b"1")], &[("a/upper", b"2")]]).build();
    let rig = Rig::with(fram_image::RegistryConfig { read_timeout: Duration::from_secs(20), ..quick() });
    let layers = rig.folder.path().join("images/layers");
    let entries = move || std::fs::read_dir(&layers).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let seen = entries.clone();
    let (_server, name) = serve(&image, move |image, request| {
        // The lower one comes when the upper one is unpacked.
        for _ in (0..500).take_while(|_| is_layer(image, request)) {
            if seen().iter().any(|folder| folder.join("a/upper").exists()) {
                assert!(!seen().iter().any(|folder| !folder.file_name().unwrap().to_string_lossy().starts_with('.')));
                return honest(image, request);
            }
            pause();
        }
        if is_layer(image, request) { Reply::status("404 Not Found", &[], b"") } else { honest(image, request) }
    });
    rig.store.pull(&name, None, None).await.unwrap();
    assert_eq!(entries().iter().filter(|folder| folder.join("a").is_dir()).count(), 2);
    assert_eq!(rig.count("layers"), 2);
}

#[tokio::test]
async fn where_one_layer_fails_nothing_of_those_unpacked_before_stays() {
    let image = ImageSource::new(&[&[("a/lower", b"1")], &[("a/upper", b"2")]]).build();
    let rig = Rig::with(fram_image::RegistryConfig { read_timeout: Duration::from_secs(20), ..quick() });
    let layers = rig.folder.path().join("images/layers");
    let (_server, name) = serve(&image, move |image, request| {
        if !is_layer(image, request) {
            return honest(image, request);
        }
        let is_unpacked = || std::fs::read_dir(&layers).unwrap().any(|entry| entry.unwrap().path().join("a/upper").exists());
        (0..500).take_while(|_| !is_unpacked()).for_each(|_| pause());
        Reply::status("404 Not Found", &[], b"")
    });
    assert_eq!(rig.store.pull(&name, None, None).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rig.count("layers"), 0);
}

#[tokio::test]
async fn a_registry_that_stalls_does_not_hold_up_another_with_the_same_layer() {
    let (image, rig) = (image(), Rig::new());
    let (reached, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let (_stalls, bad) = serve(&image, move |image, request| {
        if !is_layer(image, request) {
            return honest(image, request);
        }
        reached.send(()).unwrap_or(());
        Reply::Stall(response("200 OK", &[], 600_000, b""))
    });
    let (_serves, good) = serve(&image, honest);
    let slow = rig.store.pull(&bad, None, None);
    let quick = async {
        waiting.recv().await.unwrap();
        rig.store.pull(&good, None, None).await.unwrap();
    };
    let (slow, ()) = tokio::join!(slow, quick);
    slow.expect("what the other has brought counts for the first too");
}

/// A tmpfs of a given size, unmounted when this value goes.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(kilobytes: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        crate::support::run("mount", &["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "none", folder.path().to_str().unwrap()]);
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        crate::support::run("umount", &["-l", self.0.path().to_str().unwrap()]);
    }
}

#[tokio::test]
async fn a_full_disk_is_told_apart_and_gets_its_space_back() {
    // Too small for the compressed layer; large enough for it, but not for its files as well.
    for kilobytes in [300, 900] {
        let (image, disk) = (image(), SmallDisk::new(kilobytes));
        let store = crate::support::open(disk.0.path(), crate::support::quick());
        let (_server, name) = serve(&image, honest);
        let error = store.pull(&name, None, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DiskFull, "{error}");
        for folder in ["blobs/sha256", "ingest", "layers"] {
            let left = std::fs::read_dir(disk.0.path().join("images").join(folder)).unwrap().count();
            assert_eq!(left, 0, "{folder} with {kilobytes} kB");
        }
    }
}
