//! Layers built entry by entry, unpacked for real: overlayfs form, metadata, and archives that mean harm. Needs root.

use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, EntryType, Header};

use super::*;

/// A tar in the making, without the checks of the `tar` crate against harmful names.
struct Layer(Builder<Vec<u8>>);

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, name: &str, mode: u32, link: &str) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(0);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header
    }

    fn add(mut self, kind: EntryType, name: &str, mode: u32, link: &str) -> Self {
        let mut header = Self::header(kind, name, mode, link);
        header.set_cksum();
        self.0.append(&header, io::empty()).unwrap();
        self
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.add(EntryType::Directory, name, mode, "")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Symlink, name, 0o777, target)
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.add(EntryType::Link, name, 0o644, target)
    }

    fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Self::header(EntryType::Regular, name, mode, "");
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn owned_file(mut self, name: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = Self::header(EntryType::Regular, name, mode, "");
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_cksum();
        self.0.append(&header, io::empty()).unwrap();
        self
    }

    fn with_pax(mut self, pairs: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(pairs.iter().copied()).unwrap();
        self
    }

    fn device(mut self, name: &str, kind: EntryType, major: u32, minor: u32) -> Self {
        let mut header = Self::header(kind, name, 0o620, "");
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_cksum();
        self.0.append(&header, io::empty()).unwrap();
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

struct Rig {
    folder: tempfile::TempDir,
    store: LayerStore,
}

impl Rig {
    fn new() -> Self {
        Self::limited(LayerLimits::default())
    }

    fn limited(limits: LayerLimits) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test makes devices and changes owners: run it as root");
        let folder = tempfile::tempdir().unwrap();
        let store = LayerStore::open(folder.path(), limits).unwrap();
        Self { folder, store }
    }

    fn unpack(&self, layer: Layer) -> Result<PathBuf, LayerError> {
        self.unpack_over(layer, &[])
    }

    fn unpack_over(&self, layer: Layer, parents: &[PathBuf]) -> Result<PathBuf, LayerError> {
        let tar = layer.finish();
        let digest = Digest::of(&tar);
        self.unpack_blob(&tar, &digest, parents)
    }

    fn unpack_blob(&self, blob: &[u8], diff_id: &Digest, parents: &[PathBuf]) -> Result<PathBuf, LayerError> {
        let source = LayerSource { blob: diff_id, diff_id, chain_id: diff_id };
        let unpacked = self.store.unpack(blob, &source)?;
        self.store.place(unpacked, &source, parents)?;
        Ok(self.store.path(diff_id))
    }

    /// Nothing half-done may stay after a refusal.
    fn assert_refused(&self, layer: Layer, what: &str) {
        let result = self.unpack(layer);
        assert!(result.is_err(), "{what} was unpacked to {result:?}");
        assert_eq!(fs::read_dir(self.folder.path().join("layers")).unwrap().count(), 0, "{what} left something behind");
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

#[test]
fn files_keep_mode_owner_time_links_and_extended_attributes() {
    let rig = Rig::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let layer = Layer::new()
        .dir("bin/", 0o1777)
        .owned_file("bin/su", 0o6755, 12, 34)
        .with_pax(&[("SCHILY.xattr.user.note", b"x"), ("SCHILY.xattr.security.capability", &capability), ("mtime", b"12.5")])
        .file("bin/ping", 0o755, b"hello")
        .hardlink("bin/hard", "bin/ping")
        .hardlink("hard2", "/bin/ping")
        .symlink("lib", "/usr/lib")
        .device("bin/null", EntryType::Char, 1, 3)
        .add(EntryType::Fifo, "bin/fifo", 0o600, "");
    let root = rig.unpack(layer).unwrap();
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((stat("bin/su").mode() & 0o7777, stat("bin/su").uid(), stat("bin/su").gid()), (0o6755, 12, 34));
    assert_eq!(stat("bin").mode() & 0o7777, 0o1777);
    assert_eq!(stat("bin").mtime(), 1_000_000_000, "a folder's time is set after it was filled");
    assert_eq!((stat("bin/ping").mtime(), stat("bin/ping").mtime_nsec()), (12, 500_000_000));
    assert_eq!(stat("bin/hard").ino(), stat("bin/ping").ino());
    assert_eq!(stat("hard2").ino(), stat("bin/ping").ino());
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("/usr/lib"));
    assert!(stat("bin/null").file_type().is_char_device() && stat("bin/null").rdev() == rustix::fs::makedev(1, 3));
    assert!(stat("bin/fifo").file_type().is_fifo());
    assert_eq!(xattr(&root.join("bin/ping"), "user.note").as_deref(), Some(&b"x"[..]));
    assert_eq!(xattr(&root.join("bin/ping"), "security.capability").as_deref(), Some(&capability[..]));
}

#[test]
fn whiteouts_take_overlayfs_form_and_spare_what_the_layer_itself_brings() {
    let rig = Rig::new();
    let layer = Layer::new()
        .file("etc/.wh.passwd", 0o644, b"")
        .file("var/.wh..wh..opq", 0o644, b"")
        .file("opt/.wh.app", 0o644, b"")
        .file("opt/app/new", 0o644, b"n")
        .file("kept", 0o644, b"k")
        .file(".wh.kept", 0o644, b"")
        .file(".wh..wh.plnk", 0o644, b"");
    let root = rig.unpack(layer).unwrap();
    let hidden = fs::symlink_metadata(root.join("etc/passwd")).unwrap();
    assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
    assert_eq!(xattr(&root.join("var"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(xattr(&root.join("opt/app"), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]));
    assert_eq!(fs::read(root.join("kept")).unwrap(), b"k");
    assert!(!root.join(".wh..wh.plnk").exists());
}

#[test]
fn folders_that_a_layer_does_not_describe_look_as_in_the_layers_below() {
    let rig = Rig::new();
    let below = rig.unpack(Layer::new().dir("./", 0o711).dir("tmp", 0o1777).dir("usr", 0o750)).unwrap();
    let above = rig.unpack_over(Layer::new().file("tmp/a", 0o600, b"").file("usr/new/b", 0o600, b""), &[below]).unwrap();
    let mode = |name: &str| fs::metadata(above.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("usr"), mode("usr/new"), mode("")), (0o1777, 0o750, 0o755, 0o711));
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_the_same_name() {
    let rig = Rig::new();
    let layer = Layer::new()
        .file("a", 0o600, b"1")
        .file("a", 0o600, b"2")
        .file("d/x", 0o600, b"")
        .symlink("d", "elsewhere")
        .symlink("s", "/")
        .dir("s", 0o755)
        .file("s/y", 0o600, b"");
    let root = rig.unpack(layer).unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"2");
    assert!(root.join("d").is_symlink());
    assert!(!root.join("s").is_symlink() && root.join("s/y").exists() && !root.join("y").exists());
}

#[test]
fn entries_through_symlinks_stay_inside_the_layer() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let rig = Rig::new();
    let layer = Layer::new()
        .symlink("out", target)
        .file("out/planted", 0o644, b"")
        .symlink("up", "../../../../../../../../tmp")
        .file("up/planted", 0o644, b"")
        .symlink("usr-bin", "usr/bin")
        .dir("usr/bin", 0o755)
        .file("usr-bin/tool", 0o755, b"");
    let root = rig.unpack(layer).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "a file was written outside of the layer");
    assert!(!Path::new("/tmp/planted").exists());
    assert!(root.join("usr/bin/tool").exists(), "a symlink that stays inside is followed");
}

#[test]
fn archives_that_lead_out_are_refused_and_leave_nothing() {
    let rig = Rig::new();
    rig.assert_refused(Layer::new().file("../escape", 0o644, b""), "a path with ..");
    rig.assert_refused(Layer::new().file("a/../../escape", 0o644, b""), "a path with .. inside");
    rig.assert_refused(Layer::new().hardlink("a", "../../../../etc/passwd"), "a hard link with ..");
    rig.assert_refused(Layer::new().hardlink("a", "/etc/passwd"), "a hard link to a file that only the host has");
    rig.assert_refused(Layer::new().symlink("e", "/etc").hardlink("a", "e/passwd"), "a hard link through a symlink");
    rig.assert_refused(Layer::new().file("a/.wh...", 0o644, b""), "a whiteout of ..");
    rig.assert_refused(Layer::new().file("a/.wh.", 0o644, b""), "a whiteout of nothing");
    assert!(!rig.folder.path().join("escape").exists());
}

#[test]
fn attributes_that_steer_overlayfs_or_the_host_are_not_taken_from_an_archive() {
    let rig = Rig::new();
    let attributes: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u"),
    ];
    let root = rig.unpack(Layer::new().with_pax(attributes).dir("d", 0o755)).unwrap();
    for name in ["trusted.overlay.redirect", "user.overlay.opaque", "security.selinux"] {
        assert_eq!(xattr(&root.join("d"), name), None, "{name}");
    }
}

#[test]
fn what_is_small_on_the_wire_and_huge_on_disk_is_refused() {
    let rig = Rig::limited(LayerLimits { max_bytes: 1 << 20, max_entries: 100 });
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let bomb = Layer::new().file("zeros", 0o644, &vec![0; 4 << 20]).finish();
    gzip.write_all(&bomb).unwrap();
    let result = rig.unpack_blob(&gzip.finish().unwrap(), &Digest::of(&bomb), &[]);
    assert!(matches!(result, Err(LayerError::TooBig { .. })), "{result:?}");
    let attribute = vec![b'x'; 2 << 20];
    let result = Rig::new().unpack(Layer::new().with_pax(&[("SCHILY.xattr.user.x", &attribute)]).file("a", 0o644, b""));
    assert!(matches!(result, Err(LayerError::TooBig { .. })), "headers are held in memory: {result:?}");
    let many = (0..200).fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), 0o644, b""));
    rig.assert_refused(many, "more entries than allowed");
}

#[test]
fn gzip_zstd_and_plain_layers_give_the_same_and_a_wrong_diff_id_is_refused() {
    let tar = Layer::new().file("a", 0o644, b"content").finish();
    let diff_id = Digest::of(&tar);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    for blob in [tar.clone(), gzip.finish().unwrap(), zstd::encode_all(&tar[..], 1).unwrap()] {
        let root = Rig::new().unpack_blob(&blob, &diff_id, &[]).map(|path| path.file_name().map(ToOwned::to_owned));
        assert!(root.is_ok(), "{root:?}");
    }
    let wrong = Digest::of(b"something else");
    assert!(matches!(Rig::new().unpack_blob(&tar, &wrong, &[]), Err(LayerError::WrongDiffId { .. })));
}

#[test]
fn truncated_and_garbled_archives_are_corrupt_and_leave_nothing() {
    let tar = Layer::new().file("a", 0o644, &[7; 3000]).finish();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let mut garbled = tar.clone();
    garbled[0] ^= 0xff;
    for blob in [&gzip[..gzip.len() / 2], &tar[..700], &garbled, b"not a tar at all".as_slice()] {
        let rig = Rig::new();
        let error = rig.unpack_blob(blob, &Digest::of(&tar), &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert_eq!(fs::read_dir(rig.folder.path().join("layers")).unwrap().count(), 0);
    }
}

/// A small deterministic random number generator, for repeatable damage.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Sums a header block anew, so that damage in it gets past the first check.
fn repair_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

#[test]
fn damaged_archives_are_refused_or_unpacked_but_never_leave_their_folder() {
    let sound = Layer::new()
        .dir("a/", 0o755)
        .file("a/.wh.b", 0o644, b"")
        .file("a/c", 0o644, &[7; 600])
        .hardlink("a/d", "a/c")
        .symlink("a/e", "../../etc")
        .file("a/e/f", 0o600, b"x")
        .device("a/g", EntryType::Char, 1, 3)
        .with_pax(&[("path", b"a/h/../i"), ("SCHILY.xattr.user.x", b"y"), ("mtime", b"1.5")])
        .file("a/h", 0o644, b"h")
        .finish();
    let mut random = Lcg(7);
    let rig = Rig::limited(LayerLimits { max_bytes: 1 << 20, max_entries: 1000 });
    let outside = rig.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let tricks: [&[u8]; 6] = [b"../outside/x", b"/", b"..", b"a/e/../../outside/x", b"\0", b".wh..wh..opq"];
    for _ in 0..2000 {
        let mut archive = sound.clone();
        for _ in 0..=random.below(3) {
            let block = random.below(archive.len() / 512) * 512;
            let header = &mut archive[block..block + 512];
            // Names, types, sizes and link names are where harm would come from.
            match random.below(3) {
                0 => header[[0, 157][random.below(2)]..].iter_mut().zip(tricks[random.below(6)]).for_each(|(to, from)| *to = *from),
                1 => header[156] = b"0123456gxLKS7"[random.below(13)],
                _ => header[random.below(512)] = random.below(256) as u8,
            }
            repair_checksum(header);
        }
        let digest = Digest::of(&archive);
        match rig.unpack_blob(&archive, &digest, &[]) {
            Ok(path) => fs::remove_dir_all(path).unwrap(),
            Err(error) => assert_ne!(error.to_string(), ""),
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs::read_dir(rig.folder.path()).unwrap().count(), 2, "only the layers and the folder outside");
        assert_eq!(fs::read_dir(rig.folder.path().join("layers")).unwrap().count(), 0);
    }
}
