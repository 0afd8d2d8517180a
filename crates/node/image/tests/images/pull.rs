//! Pulls from a real registry: by tag and digest, for this platform, with and without credentials, shared, and what stays
//! after removal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fram_cri::{ImageService, ImageSpec, RootFilesystems};
use fram_image::{Credentials, ErrorKind, RegistryConfig};

use crate::support::{BuiltImage, ImageSource, Registry, Rig, quick, text};

fn hello() -> BuiltImage {
    ImageSource::new(&[&[("bin/hello", b"base"), ("etc/os", b"1")], &[("etc/os", b"2"), ("etc/.wh.gone", b"")]]).build()
}

#[tokio::test]
async fn an_image_is_pulled_by_tag_and_by_digest_and_its_layers_are_there() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let image = hello();
    let name = registry.push(&image, "team/hello:1");
    let seen = Arc::new(AtomicU64::new(0));
    let watched = seen.clone();
    let progress = Arc::new(move |p: fram_cri::PullProgress| watched.store(p.downloaded_bytes, Ordering::SeqCst));
    let id = rig.store.pull(&name, None, Some(progress)).await.unwrap();
    assert_eq!(id, image.id());
    assert!(seen.load(Ordering::SeqCst) > 0);

    let info = rig.store.status(&name).unwrap().unwrap();
    assert_eq!(info.repo_tags, [name.as_str()]);
    let by_digest = format!("{}/team/hello@{}", registry.address, text(&image.manifest["digest"]));
    assert_eq!(info.repo_digests, [by_digest.as_str()]);
    assert_eq!(rig.store.pull(&by_digest, None, None).await.unwrap(), id);

    let root = rig.store.root_filesystem(&ImageSpec::new(&name), "c1").await.unwrap();
    assert_eq!(root.layers.len(), 2);
    assert_eq!(std::fs::read(root.layers[0].join("bin/hello")).unwrap(), b"base");
    assert_eq!(std::fs::read(root.layers[1].join("etc/os")).unwrap(), b"2");
    assert_eq!((root.config.user.as_str(), root.config.stop_signal.as_str()), ("1234:5", "SIGQUIT"));
    assert_eq!(root.image_ref, by_digest);
    let cri = rig.store.image_status(&ImageSpec::new(id.to_string())).await.unwrap().unwrap();
    assert_eq!((cri.uid, cri.username.as_str()), (Some(1234), ""));
}

#[tokio::test]
async fn an_image_survives_a_restart_and_its_compressed_layers_do_not_take_disk_twice() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let name = registry.push(&hello(), "hello:1");
    let id = rig.store.pull(&name, None, None).await.unwrap();
    let rig = rig.reopen();
    assert_eq!(rig.store.status(&name).unwrap().unwrap().id, id);
    assert_eq!(rig.count("blobs/sha256"), 2, "manifest and configuration");
    assert_eq!(rig.count("ingest"), 0);
    drop(registry);
    assert!(rig.store.hold(&name, "c").await.is_ok(), "no registry is needed any more");
}

#[tokio::test]
async fn an_index_gives_this_platform_and_a_foreign_image_is_refused_by_name() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let native = hello();
    let foreign = ImageSource { architecture: "s390x", ..ImageSource::new(&[&[("bin/hello", b"big endian")]]) }.build();
    let both = BuiltImage::index(&[("s390x", &foreign), ("amd64", &native)]);
    let name = registry.push(&both, "multi:1");
    assert_eq!(rig.store.pull(&name, None, None).await.unwrap(), native.id());
    let digest = text(&both.manifest["digest"]);
    assert!(rig.store.status(&name).unwrap().unwrap().repo_digests[0].ends_with(&digest), "the digest is the index's");

    for image in [BuiltImage::index(&[("s390x", &foreign)]), foreign] {
        let name = registry.push(&image, "foreign:1");
        let error = rig.store.pull(&name, None, None).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongPlatform);
        assert_eq!(error.to_string(), "no image for linux/amd64; available: linux/s390x");
    }
    assert_eq!(rig.store.list().len(), 1);
}

#[tokio::test]
async fn images_that_do_not_exist_are_not_found_and_bad_names_are_told_apart() {
    let (registry, rig) = (Registry::start(), Rig::new());
    registry.push(&hello(), "hello:1");
    for (name, kind) in [
        (format!("{}/hello:2", registry.address), ErrorKind::NotFound),
        (format!("{}/nothing:1", registry.address), ErrorKind::NotFound),
        ("Bad//Name".to_owned(), ErrorKind::InvalidReference),
        ("127.0.0.1:1/hello".to_owned(), ErrorKind::Network),
    ] {
        assert_eq!(rig.store.pull(&name, None, None).await.unwrap_err().kind(), kind, "{name}");
    }
}

#[tokio::test]
async fn a_protected_registry_wants_the_right_password() {
    let (registry, rig) = (Registry::start_protected(), Rig::new());
    let name = registry.push_as(&hello(), "hello:1", &["--dest-creds=user:secret"]);
    let credentials = |password: &str| Some(Credentials { username: "user".into(), password: password.into(), ..Default::default() });
    for wrong in [None, credentials("guess")] {
        assert_eq!(rig.store.pull(&name, wrong, None).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    }
    rig.store.pull(&name, credentials("secret"), None).await.unwrap();
    assert_eq!(rig.store.pull(&name, None, None).await.unwrap_err().kind(), ErrorKind::Unauthorized, "one pull's secret serves no other");
}

/// A store to which `text` is said of a registry.
pub(crate) fn told_of(registry: &str, text: &str) -> (tempfile::TempDir, Rig) {
    let said = tempfile::tempdir().unwrap();
    std::fs::create_dir(said.path().join(registry)).unwrap();
    std::fs::write(said.path().join(registry).join("hosts.toml"), text).unwrap();
    let rig = Rig::with(RegistryConfig { hosts_dir: Some(said.path().into()), ..quick() });
    (said, rig)
}

#[tokio::test]
async fn a_registry_with_its_own_ca_is_trusted_only_where_that_is_configured() {
    let (registry, ca_file) = Registry::start_tls();
    let (_other, wrong_ca) = Registry::start_tls();
    let name = registry.push(&hello(), "hello:1");
    let address = registry.address.to_string();
    let (said, rig) = told_of(&address, &format!("ca = {wrong_ca:?}"));
    let error = rig.store.pull(&name, None, None).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Network && error.to_string().contains("certificate"), "{error}");
    let file = said.path().join(&address).join("hosts.toml");
    for (text, told) in [("ca = '/nonexistent'", "/nonexistent"), ("ca = 1", "hosts.toml: ca is neither")] {
        std::fs::write(&file, text).unwrap();
        let error = rig.store.pull(&name, None, None).await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
    let plain = Rig::new().store.pull(&name, None, None).await.unwrap_err();
    assert_eq!(plain.kind(), ErrorKind::Network, "{plain}");
    // What is written is read at the next pull.
    std::fs::write(&file, format!("ca = {ca_file:?}")).unwrap();
    rig.store.pull(&name, None, None).await.unwrap();
}

#[tokio::test]
async fn a_registry_need_not_be_verified_where_that_is_said_and_another_is_all_the_same() {
    let (registry, _) = Registry::start_tls();
    let name = registry.push(&hello(), "hello:1");
    let address = registry.address.to_string();
    let (said, rig) = told_of(&address, "skip_verify = true");
    rig.store.pull(&name, None, None).await.unwrap();
    // The same server as a mirror of somebody else, of whom nothing like that is said.
    std::fs::create_dir(said.path().join("127.0.0.1:1")).unwrap();
    let mirror = format!("[host.'https://{address}']");
    std::fs::write(said.path().join("127.0.0.1:1/hosts.toml"), &mirror).unwrap();
    let error = rig.store.pull("127.0.0.1:1/hello:1", None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Network, "{error}");
    std::fs::write(said.path().join("127.0.0.1:1/hosts.toml"), mirror + "\nskip_verify = true").unwrap();
    rig.store.pull("127.0.0.1:1/hello:1", None, None).await.unwrap();
}

#[tokio::test]
async fn layers_stack_by_overlayfs_with_whiteouts_hiding_what_is_below() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let base: &[(&str, &[u8])] = &[("keep", b"1"), ("gone", b"2"), ("dir/old", b"3"), ("cleared/old", b"4"), ("again/old", b"5")];
    let above: &[(&str, &[u8])] = &[
        (".wh.gone", b""),
        ("cleared/.wh..wh..opq", b""),
        ("cleared/new", b"6"),
        ("dir/new", b"7"),
        (".wh.again", b""),
        ("again/new", b"8"),
    ];
    let name = registry.push(&ImageSource::new(&[base, above]).build(), "stack:1");
    rig.store.pull(&name, None, None).await.unwrap();
    let (_, layers) = rig.store.hold(&name, "c").await.unwrap();
    let mut top_first: Vec<_> = layers.iter().map(|l| l.to_str().unwrap()).collect();
    top_first.reverse();
    let mount = rig.folder.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    // In a mount namespace of its own, which ends with the command.
    let script =
        format!("mount -t overlay -o ro,lowerdir={} none {1} && cd {1} && find . -type f | sort", top_first.join(":"), mount.display());
    let output = std::process::Command::new("unshare").args(["-m", "sh", "-c", &script]).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listing.lines().collect::<Vec<_>>(), ["./again/new", "./cleared/new", "./dir/new", "./dir/old", "./keep"]);
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_a_dead_one_is_passed_over() {
    let registry = Registry::start();
    registry.push(&hello(), "library/hello:1");
    let text = format!("[host.'http://127.0.0.1:1']\n[host.'http://{}']", registry.address);
    let (_said, rig) = told_of("docker.io", &text);
    rig.store.pull("hello:1", None, None).await.unwrap();
    assert_eq!(rig.store.list()[0].repo_tags, ["docker.io/library/hello:1"]);
}

#[tokio::test]
async fn images_share_layers_and_removal_spares_what_another_uses_or_holds() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let base: &[(&str, &[u8])] = &[("base", b"b")];
    let one = registry.push(&ImageSource::new(&[base, &[("one", b"1")]]).build(), "one:1");
    let two = registry.push(&ImageSource::new(&[base, &[("two", b"2")]]).build(), "two:1");
    for name in [&one, &two] {
        rig.store.pull(name, None, None).await.unwrap();
    }
    assert_eq!(rig.count("layers"), 3);
    let (_, layers) = rig.store.hold(&two, "container").await.unwrap();
    let removed = rig.store.remove(&one).await.unwrap();
    assert_eq!((removed.images, removed.layers, rig.count("layers")), (1, 1, 2));
    rig.store.remove(&two).await.unwrap();
    let rig = rig.reopen();
    assert!(layers.iter().all(|l| l.is_dir()), "held layers stay, across restarts too");
    assert_eq!(rig.store.holders(), ["container"]);
    rig.store.release("container").await.unwrap();
    assert_eq!((rig.count("layers"), rig.count("blobs/sha256"), rig.store.usage().1), (0, 0, 0));
    rig.store.remove(&two).await.unwrap();
}

#[tokio::test]
async fn docker_manifests_and_zstd_layers_are_pulled_as_well() {
    let (registry, rig) = (Registry::start(), Rig::new());
    for (n, zstd, options) in [(1, false, &["--format", "v2s2"][..]), (2, true, &["--format", "oci"])] {
        let content = n.to_string();
        let image = ImageSource { zstd, ..ImageSource::new(&[&[("form", content.as_bytes())]]) }.build();
        let name = registry.push_as(&image, &format!("form{n}:1"), options);
        rig.store.pull(&name, None, None).await.unwrap();
        let (_, layers) = rig.store.hold(&name, "c").await.unwrap();
        assert_eq!(std::fs::read_to_string(layers[0].join("form")).unwrap(), content, "{options:?}");
    }
}

#[tokio::test]
async fn a_tag_that_moved_in_the_registry_moves_here() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let name = registry.push(&ImageSource::new(&[&[("v", b"1")]]).build(), "app:latest");
    let old = rig.store.pull(&name, None, None).await.unwrap();
    registry.push(&ImageSource::new(&[&[("v", b"2")]]).build(), "app:latest");
    let new = rig.store.pull(&name, None, None).await.unwrap();
    assert_ne!(old, new);
    assert_eq!(rig.store.status(&name).unwrap().unwrap().id, new);
    assert!(rig.store.status(old.hex()).unwrap().unwrap().repo_tags.is_empty());
}

#[tokio::test]
async fn a_pinned_image_is_told_as_such_so_that_nobody_collects_it() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let name = registry.push(&hello(), "hello:1");
    rig.store.pull(&name, None, None).await.unwrap();
    for pinned in [true, false] {
        rig.store.set_pinned(&name, pinned).await.unwrap();
        let listed = ImageService::list_images(&rig.store, None).await.unwrap();
        assert_eq!(listed[0].pinned, pinned);
    }
}

#[tokio::test]
async fn an_operator_may_shorten_an_id_and_nobody_else() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let id = rig.store.pull(&registry.push(&hello(), "hello:1"), None, None).await.unwrap();
    let short = &id.hex()[..12];
    assert_eq!(rig.store.status(short).unwrap(), None);
    rig.store.set_pinned(short, true).await.unwrap();
    assert!(rig.store.list()[0].pinned);
    assert!(rig.store.set_pinned(&id.hex()[..3], true).await.is_err());
    assert_eq!(rig.store.remove(&format!("sha256:{short}")).await.unwrap().images, 1);
}

#[tokio::test]
async fn a_layer_that_rotted_in_the_registry_is_corrupt_and_nothing_of_the_image_stays() {
    let (registry, rig) = (Registry::start(), Rig::new());
    let image = hello();
    let name = registry.push(&image, "hello:1");
    let path = registry.blob_path(&text(&image.layers[1]["digest"]));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = rig.store.pull(&name, None, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(rig.store.list().is_empty());
    let rig = rig.reopen();
    assert_eq!((rig.count("layers"), rig.count("blobs/sha256")), (0, 0));
}

#[tokio::test]
async fn a_second_store_on_the_same_folder_is_refused() {
    let rig = Rig::new();
    let config = fram_image::ImageStoreConfig::new(rig.folder.path().join("images"));
    let error = fram_image::ImageStore::open(config).err().unwrap();
    assert!(error.to_string().contains("in use by another process"), "{error}");
}
