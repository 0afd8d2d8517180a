//! Tests of manifest parsing, platform choice and chain IDs.

use super::*;

const A: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn index(platforms: &[(&str, &str, Option<&str>)]) -> Index {
    let manifests = platforms
        .iter()
        .enumerate()
        .map(|(i, (os, architecture, variant))| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(&[i as u8]),
            size: 1,
            platform: Some(Platform { os: (*os).into(), architecture: (*architecture).into(), variant: variant.map(str::to_owned) }),
            annotations: BTreeMap::new(),
        })
        .collect();
    Index { media_type: OCI_INDEX.into(), manifests }
}

fn host(architecture: &str, variant: Option<&str>) -> Platform {
    Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
}

#[test]
fn an_index_gives_the_manifest_of_the_hosts_platform() {
    for (platforms, host, expect) in [
        (vec![("linux", "arm64", None), ("linux", "amd64", None)], host("amd64", None), Some(1)),
        (vec![("linux", "amd64", Some("v3")), ("linux", "amd64", None)], host("amd64", None), Some(1)),
        (vec![("linux", "amd64", Some("v1"))], host("amd64", None), Some(0)),
        (vec![("linux", "arm64", None)], host("arm64", Some("v8")), Some(0)),
        (vec![("linux", "arm64", Some("v8"))], host("arm64", Some("v8")), Some(0)),
        (vec![("windows", "amd64", None)], host("amd64", None), None),
        (vec![("unknown", "unknown", None)], host("amd64", None), None),
        (vec![], host("amd64", None), None),
    ] {
        let index = index(&platforms);
        let chosen = index.select(&host).ok().map(|d| d.digest.clone());
        assert_eq!(chosen, expect.map(|i: u8| Digest::of(&[i])), "{platforms:?}");
    }
}

#[test]
fn a_missing_platform_is_reported_with_what_there_is() {
    let error = index(&[("linux", "arm64", Some("v8")), ("windows", "amd64", None)]).select(&host("amd64", None)).unwrap_err();
    assert_eq!(error.to_string(), "no image for linux/amd64; available: linux/arm64/v8, windows/amd64");
    assert_eq!(error.kind(), ErrorKind::WrongPlatform);
}

#[test]
fn a_document_is_read_by_its_own_type_and_never_as_two_things() {
    let config = format!(r#"{{"digest":"{A}","size":0}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":null}}"#);
    assert!(matches!(Document::parse(manifest.as_bytes()), Ok(Document::Manifest(_))));
    assert!(matches!(Document::parse(br#"{"schemaVersion":2,"manifests":[]}"#), Ok(Document::Index(_))));
    let both = format!(r#"{{"schemaVersion":2,"config":{config},"manifests":[]}}"#);
    assert!(Document::parse(both.as_bytes()).is_err());
    assert!(matches!(Document::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#), Err(ManifestError::UnsupportedType(_))));
    assert!(matches!(Document::parse(b"<html>"), Err(ManifestError::Json { .. })));
}

#[test]
fn null_fields_of_a_configuration_mean_nothing_set() {
    let config = ImageConfig::parse(br#"{"os":"linux","architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Labels":null}}"#).unwrap();
    assert_eq!(config.config.cmd, ["sh"]);
    assert!(config.config.env.is_empty() && config.rootfs.diff_ids.is_empty());
    assert!(ImageConfig::parse(br#"{"config":null,"rootfs":null}"#).is_ok());
}

#[test]
fn a_chain_id_depends_on_all_layers_below() {
    let diff = |n: u8| Digest::of(&[n]);
    let config = |ids: Vec<Digest>| ImageConfig { rootfs: RootFs { diff_ids: ids }, ..Default::default() };
    let chain = config(vec![diff(1), diff(2)]).chain_ids();
    assert_eq!(chain[0], diff(1));
    assert_eq!(chain[1], Digest::of(format!("{} {}", diff(1), diff(2)).as_bytes()));
    assert_ne!(chain[1], config(vec![diff(3), diff(2)]).chain_ids()[1]);
}

#[test]
fn layers_that_only_their_author_may_hand_out_are_refused_by_their_type() {
    let check = |media_type: &str| {
        let layer = format!(r#"{{"mediaType":"{media_type}","digest":"{A}","size":1,"urls":["https://example.com/l"]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{A}","size":0}},"layers":[{layer}]}}"#);
        let Ok(Document::Manifest(manifest)) = Document::parse(manifest.as_bytes()) else { panic!("{manifest}") };
        manifest.check()
    };
    for foreign in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    ] {
        let error = check(foreign).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains(foreign) && error.to_string().contains(A), "{error}");
        assert!(error.to_string().contains("push the image again"), "what to do about it: {error}");
    }
    for own in ["application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.oci.image.layer.v1.tar+zstd", ""] {
        assert_eq!(check(own), Ok(()));
    }
}
