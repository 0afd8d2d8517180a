//! Archives as other tools write them (skopeo: OCI and docker form), and archives that are broken.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use fram_cri::{ImageSpec, RootFilesystems};
use fram_image::{Digest, ErrorKind};

use crate::support::{BuiltImage, ImageSource, Rig, run, text};

fn source() -> BuiltImage {
    ImageSource::new(&[&[("bin/hello", b"hi")], &[("etc/os", b"2")]]).build()
}

/// The image as an archive that skopeo wrote.
fn archive(folder: &Path, image: &BuiltImage, form: &str, name: &str) -> PathBuf {
    let (layout, file) = (folder.join("layout"), folder.join("image.tar"));
    image.write_layout(&layout, "x");
    let (from, to) = (format!("oci:{}:x", layout.display()), format!("{form}:{}:{name}", file.display()));
    run("skopeo", &["copy", "--insecure-policy", "--all", &from, &to]);
    file
}

#[tokio::test]
async fn archives_by_skopeo_in_both_forms_are_imported_with_their_names() {
    for form in ["oci-archive", "docker-archive"] {
        let (folder, rig, image) = (tempfile::tempdir().unwrap(), Rig::new(), source());
        let file = archive(folder.path(), &image, form, "example.com/hello:1");
        let ids = rig.store.import(&file).await.unwrap();
        assert_eq!(ids.len(), 1);
        let info = rig.store.status("example.com/hello:1").unwrap().unwrap();
        assert_eq!(info.id, ids[0], "{form}");
        let root = rig.store.root_filesystem(&ImageSpec::new("example.com/hello:1"), "c").await.unwrap();
        assert_eq!(std::fs::read(root.layers[0].join("bin/hello")).unwrap(), b"hi");
        assert_eq!(rig.count("blobs/sha256"), 2, "what the image does not need was swept");
    }
}

#[tokio::test]
async fn a_compressed_archive_with_an_index_is_imported() {
    let (folder, rig, native) = (tempfile::tempdir().unwrap(), Rig::new(), source());
    let foreign = ImageSource { architecture: "s390x", ..ImageSource::new(&[&[("x", b"y")]]) }.build();
    let both = BuiltImage::index(&[("s390x", &foreign), ("amd64", &native)]);
    let file = archive(folder.path(), &both, "oci-archive", "example.com/multi:1");
    let bytes = std::fs::read(file).unwrap();
    let compressed = folder.path().join("image.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(File::create(&compressed).unwrap(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    gzip.finish().unwrap();
    assert_eq!(rig.store.import(&compressed).await.unwrap(), [native.id()]);
}

#[tokio::test]
async fn broken_archives_are_refused_and_leave_no_image() {
    let folder = tempfile::tempdir().unwrap();
    let mut lacking = source();
    lacking.blobs.remove(&text(&lacking.layers[0]["digest"]));
    let mut lying = source();
    lying.blobs.insert(text(&lying.layers[0]["digest"]), b"something else".to_vec());
    for (name, image) in [("lacking", lacking), ("lying", lying)] {
        let (layout, file) = (folder.path().join(name), folder.path().join(format!("{name}.tar")));
        image.write_layout(&layout, "example.com/a:1");
        let mut tar = tar::Builder::new(File::create(&file).unwrap());
        tar.append_dir_all(".", &layout).unwrap();
        tar.finish().unwrap();
        let rig = Rig::new();
        let error = rig.store.import(&file).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
        assert!(rig.store.list().is_empty());
        assert_eq!(rig.reopen().count("blobs/sha256"), 0);
    }
    let rig = Rig::new();
    let empty = folder.path().join("empty.tar");
    tar::Builder::new(File::create(&empty).unwrap()).finish().unwrap();
    assert_eq!(rig.store.import(&empty).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let text_file = folder.path().join("text");
    std::fs::write(&text_file, "hello").unwrap();
    assert_ne!(rig.store.import(&text_file).await.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn importing_twice_changes_nothing() {
    let (folder, rig, image) = (tempfile::tempdir().unwrap(), Rig::new(), source());
    let file = archive(folder.path(), &image, "oci-archive", "example.com/hello:1");
    let first: Vec<Digest> = rig.store.import(&file).await.unwrap();
    let before = rig.store.list();
    assert_eq!(rig.store.import(&file).await.unwrap(), first);
    let without_time = |mut list: Vec<fram_image::ImageInfo>| {
        list.iter_mut().for_each(|i| i.last_used = 0);
        list
    };
    assert_eq!(without_time(rig.store.list()), without_time(before));
}
