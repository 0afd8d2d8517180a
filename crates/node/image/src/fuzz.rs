//! Fuzz targets: what registries and archives say. Needs root, since layers have owners and devices.

use std::path::Path;

use fram_fuzz::{Pieces, Target};
use http::HeaderValue;
use tar::{Builder, EntryType, Header};

use crate::digest::Digest;
use crate::layer::{LayerLimits, LayerSource, LayerStore};
use crate::manifest::{Document, ImageConfig, Platform};
use crate::reference::Reference;
use crate::registry::parse_challenges;

fn manifest(input: &[u8]) {
    let host = Platform { os: "linux".into(), architecture: "amd64".into(), variant: None };
    match Document::parse(input) {
        Ok(Document::Index(index)) => drop(index.select(&host).cloned()),
        Ok(Document::Manifest(manifest)) => {
            let _ = manifest.check();
            if let Ok(config) = ImageConfig::parse(input) {
                let _ = config.check(&manifest, &host);
            }
        }
        Err(_) => {}
    }
    if let Ok(config) = ImageConfig::parse(input) {
        assert_eq!(config.chain_ids().len(), config.rootfs.diff_ids.len());
    }
}

fn reference(input: &[u8]) {
    let Ok(reference) = Pieces::of(input).text().parse::<Reference>() else { return };
    let again: Result<Reference, _> = reference.to_string().parse();
    assert_eq!(again, Ok(reference));
}

fn challenge(input: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(input) {
        parse_challenges([&value]);
    }
}

/// Unpacks a layer; nothing is left beside its folder, whatever it says.
fn unpack(blob: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { panic!("no folder for a layer") };
    let limits = LayerLimits { max_bytes: 1 << 20, max_entries: 1000 };
    let Ok(store) = LayerStore::open(folder.path(), limits) else { panic!("the store does not open") };
    let digest = Digest::of(blob);
    let names = |at: &Path| std::fs::read_dir(at).map(|all| all.flatten().map(|e| e.file_name()).collect::<Vec<_>>()).unwrap_or_default();
    let source = LayerSource { blob: &digest, diff_id: &digest, chain_id: &digest };
    let result = store.unpack(blob, &source).and_then(|unpacked| store.place(unpacked, &source, &[]));
    assert_eq!(names(folder.path()), ["layers"]);
    let inside = names(&folder.path().join("layers"));
    assert_eq!(inside.len(), usize::from(result.is_ok()), "{inside:?} after {result:?}");
}

/// Entries of a kind, a name and a link each.
fn layer(input: &[u8]) {
    let mut builder = Builder::new(Vec::new());
    let mut pieces = Pieces::of(input);
    for _ in 0..20 {
        let Some((kind, name)) = pieces.bytes().split_first() else { break };
        let link = pieces.bytes();
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::new(*kind));
        header.set_mode(u32::from(*kind));
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let content = if *kind == b'0' { link } else { &[] };
        header.set_size(content.len() as u64);
        let Some(raw) = header.as_gnu_mut() else { return };
        let copy = |to: &mut [u8], from: &[u8]| to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        copy(&mut raw.name, name);
        copy(&mut raw.linkname, link);
        header.set_cksum();
        if builder.append(&header, content).is_err() {
            return;
        }
    }
    if let Ok(blob) = builder.into_inner() {
        unpack(&blob);
    }
}

/// Whatever comes as a layer: compressed, cut off, or nothing at all.
fn blob(input: &[u8]) {
    unpack(input);
}

#[test]
fn the_kept_inputs_hold() {
    let target = |name, run, seeds| Target { name, seeds, memory: 400, run };
    let manifests: &[&[u8]] = &[
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb","size":2}]}"#,
        br#"{"schemaVersion":2,"manifests":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":1,"platform":{"os":"linux","architecture":"amd64"},"annotations":{"a":"b"}}]}"#,
        br#"{"architecture":"amd64","os":"linux","config":{"User":"1:2","Env":["A=b"],"Cmd":null,"ExposedPorts":{"80/tcp":{}}},"rootfs":{"diff_ids":["sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]}}"#,
    ];
    let references: &[&[u8]] = &[
        b"busybox",
        b"localhost:5000/a/b_c--d:v1.2@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        b"[fe80::1]:80/x:y",
    ];
    let entries: &[&[u8]] = &[
        b"5d/\0\x000d/f\0text\x00002d/s\0../../x\x00001d/h\0d/f\x000d/.wh.f\0\0",
        b"2a\0/etc\x000a/b\0x\x00005../c\0\x003n\0\x004n\0\x006p\0\0",
    ];
    let blobs: &[&[u8]] = &[b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0", b"\x28\xb5\x2f\xfd\x04\0\x01\0\0\0\0\0\0", &[0; 1024]];
    let challenges: &[&[u8]] = &[b"Bearer realm=\"https://a/t\",service=\"s\",scope=\"r:p\\\"q\"", b"Basic realm=x"];
    let targets = [
        target("manifest", manifest, manifests),
        target("reference", reference, references),
        target("challenge", challenge, challenges),
        target("layer", layer, entries),
        target("blob", blob, blobs),
    ];
    fram_fuzz::check(env!("CARGO_MANIFEST_DIR"), &targets);
}
