//! Turns one layer's tar entries into a folder in overlayfs form: `.wh.x` becomes a character device 0/0, an opaque marker
//! the xattr trusted.overlay.opaque. Owners, modes, times, xattrs, links and devices are kept.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Archive, Entry, EntryType};

use super::{LayerError, LayerLimits, LayerUsage, Rationed, beneath, decompress};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Marks of aufs itself (`.wh..wh.plnk`, `.wh..wh.aufs`), meaningless elsewhere.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
/// A block of tar: what an entry without content costs, so that a million empty files count too.
const ENTRY_COST: u64 = 512;

pub(super) struct Unpacker<'a> {
    layer: &'a str,
    root: OwnedFd,
    limits: &'a LayerLimits,
    written: u64,
    entries: u64,
    /// The folder of the last entry: archives list a folder's files together.
    current: Option<(PathBuf, OwnedFd)>,
    /// Names hidden by a whiteout of this layer; a folder made there later must hide what is below.
    whiteouts: HashSet<PathBuf>,
    /// Folder times are set last, since filling a folder changes them.
    folder_times: Vec<(PathBuf, Timespec)>,
    /// Folders without an entry so far, the root among them.
    undescribed: BTreeSet<PathBuf>,
}

/// What one entry says about itself, apart from its content.
struct Meta {
    kind: EntryType,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timespec,
    device: u64,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

type Step<T> = Result<T, (&'static str, io::Error)>;

fn step<T, E: Into<io::Error>>(operation: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|e| (operation, e.into()))
}

impl<'a> Unpacker<'a> {
    pub(super) fn new(layer: &'a str, folder: &Path, limits: &'a LayerLimits) -> Result<Self, LayerError> {
        let root = File::open(folder).map(OwnedFd::from).map_err(|source| entry_error(layer, "open", folder, source))?;
        Ok(Self {
            layer,
            root,
            limits,
            written: 0,
            entries: 0,
            current: None,
            whiteouts: HashSet::new(),
            folder_times: Vec::new(),
            undescribed: BTreeSet::from([PathBuf::new()]),
        })
    }

    /// Unpacks all entries; gives what they take, and the folders that none of them describes.
    pub(super) fn run(mut self, stream: impl Read) -> Result<(LayerUsage, BTreeSet<PathBuf>), LayerError> {
        let (stream, ration) = Rationed::new(stream);
        let mut archive = Archive::new(stream);
        let entries = archive.entries().map_err(|e| decompress::classify(self.layer, e))?;
        for entry in entries {
            let entry = entry.map_err(|e| decompress::classify(self.layer, e))?;
            ration.content();
            // Content that nobody wants (that of a folder, a link, a whiteout) is skipped on the way to the next entry.
            let size = entry.size();
            self.entry(entry)?;
            ration.headers(size);
        }
        for (path, mtime) in std::mem::take(&mut self.folder_times).into_iter().rev() {
            // A later entry may have replaced the folder; then it has no time of its own to restore.
            if let Ok(folder) = beneath::open_folder(&self.root, &path) {
                step("set time of", rustix::fs::futimens(&folder, &times(mtime))).map_err(|(o, e)| entry_error(self.layer, o, &path, e))?;
            }
        }
        Ok((LayerUsage { bytes: self.written, inodes: self.entries }, self.undescribed))
    }

    fn entry(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), LayerError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let raw = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let refuse = |reason| LayerError::Unsafe { layer: self.layer.to_owned(), entry: raw.display().to_string(), reason };
        let path = beneath::clean(&raw).ok_or_else(|| refuse("leads out of the layer"))?;
        self.charge(&entry)?;
        let meta = self.meta(&mut entry, &raw)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_folder(&meta).map_err(|(o, e)| entry_error(self.layer, o, &raw, e));
        };
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            if matches!(hidden, b"" | b"." | b"..") {
                return Err(refuse("is a whiteout without a name"));
            }
            return self.whiteout(&path, &name).map_err(|(o, e)| entry_error(self.layer, o, &raw, e));
        }
        let link = match kind {
            EntryType::Link | EntryType::Symlink => {
                let link = entry.link_name_bytes().ok_or_else(|| refuse("is a link without a target"))?;
                Some(PathBuf::from(OsStr::from_bytes(&link)))
            }
            _ => None,
        };
        if kind == EntryType::Link && link.as_deref().is_some_and(|l| beneath::clean(l).is_none()) {
            return Err(refuse("is a hard link that leads out of the layer"));
        }
        self.create(&path, &name, &meta, link.as_deref(), &mut entry).map_err(|(o, e)| match o {
            "read content of" => decompress::classify(self.layer, e),
            _ => entry_error(self.layer, o, &raw, e),
        })
    }

    /// Counts an entry against the limits before anything of it is written.
    fn charge(&mut self, entry: &Entry<'_, impl Read>) -> Result<(), LayerError> {
        self.entries += 1;
        self.written = self.written.saturating_add(entry.size());
        let too_big = |reason: String| LayerError::TooBig { layer: self.layer.to_owned(), reason };
        if self.entries > self.limits.max_entries {
            return Err(too_big(format!("more than {} entries", self.limits.max_entries)));
        }
        if self.written.saturating_add(self.entries * ENTRY_COST) > self.limits.max_bytes {
            return Err(too_big(format!("more than {} bytes of files", self.limits.max_bytes)));
        }
        Ok(())
    }

    fn meta(&self, entry: &mut Entry<'_, impl Read>, raw: &Path) -> Result<Meta, LayerError> {
        let corrupt =
            |e: io::Error| LayerError::Corrupt { layer: self.layer.to_owned(), reason: format!("entry {:?}: {e}", raw.display()) };
        let mut xattrs = Vec::new();
        let mut pax_time = None;
        if let Some(extensions) = entry.pax_extensions().map_err(corrupt)? {
            for extension in extensions {
                let extension = extension.map_err(corrupt)?;
                if let Some(name) = extension.key_bytes().strip_prefix(XATTR_PREFIX) {
                    if is_portable_xattr(name) {
                        xattrs.push((OsStr::from_bytes(name).to_owned(), extension.value_bytes().to_vec()));
                    }
                } else if extension.key_bytes() == b"mtime" {
                    pax_time = std::str::from_utf8(extension.value_bytes()).ok().and_then(parse_time);
                }
            }
        }
        let header = entry.header();
        let id = |value: u64| u32::try_from(value).map_err(|_| corrupt(io::Error::other("owner is out of range")));
        let device = match (header.device_major(), header.device_minor()) {
            (Ok(Some(major)), Ok(Some(minor))) => rustix::fs::makedev(major, minor),
            _ => 0,
        };
        let old = header.as_old();
        let seconds = i64::try_from(number(&old.mtime, header.mtime()).map_err(corrupt)?).unwrap_or(0);
        Ok(Meta {
            kind: header.entry_type(),
            mode: header.mode().map_err(corrupt)? & 0o7777,
            uid: id(number(&old.uid, header.uid()).map_err(corrupt)?)?,
            gid: id(number(&old.gid, header.gid()).map_err(corrupt)?)?,
            mtime: pax_time.unwrap_or(Timespec { tv_sec: seconds, tv_nsec: 0 }),
            device,
            xattrs,
        })
    }

    fn root_folder(&mut self, meta: &Meta) -> Step<()> {
        if !meta.kind.is_dir() {
            return Err(("create", io::Error::other("the root of a layer must be a folder")));
        }
        let root = step("open", self.root.try_clone())?;
        self.finish_open(&root, meta)?;
        self.undescribed.remove(Path::new(""));
        self.folder_times.push((PathBuf::new(), meta.mtime));
        Ok(())
    }

    fn whiteout(&mut self, path: &Path, name: &OsStr) -> Step<()> {
        let folder = self.parent(path)?;
        if name.as_bytes() == OPAQUE {
            return step("mark opaque", rustix::fs::fsetxattr(&folder, OPAQUE_XATTR, b"y", XattrFlags::empty()));
        }
        if name.as_bytes().starts_with(AUFS) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        match step("inspect", beneath::stat(&folder, hidden))? {
            // A whiteout is about the layers below only (image-spec layer.md): what this layer brought itself stays,
            // but a folder of it must not show what lies below.
            Some(stat) if beneath::file_type(&stat) == FileType::Directory => {
                let inner = step("open", beneath::open_folder(&folder, Path::new(hidden)))?;
                step("mark opaque", rustix::fs::fsetxattr(&inner, OPAQUE_XATTR, b"y", XattrFlags::empty()))
            }
            Some(_) => Ok(()),
            None => {
                step("create whiteout for", rustix::fs::mknodat(&folder, hidden, FileType::CharacterDevice, Mode::empty(), 0))?;
                self.whiteouts.insert(path.with_file_name(hidden));
                Ok(())
            }
        }
    }

    fn create(&mut self, path: &Path, name: &OsStr, meta: &Meta, link: Option<&Path>, content: &mut impl Read) -> Step<()> {
        let folder = self.parent(path)?;
        let existing = step("inspect", beneath::stat(&folder, name))?.map(|s| beneath::file_type(&s));
        let merge = meta.kind.is_dir() && existing == Some(FileType::Directory);
        if existing.is_some() && !merge {
            step("replace", beneath::remove_all(&folder, name))?;
            // The cached folder may have been below what was just removed.
            self.current = None;
            self.undescribed.retain(|folder| !folder.starts_with(path));
        }
        self.undescribed.remove(path);
        let was_hidden = self.whiteouts.remove(path);
        match meta.kind {
            EntryType::Directory => {
                if !merge {
                    step("create folder", rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700)))?;
                }
                let inner = step("open", beneath::open_folder(&folder, Path::new(name)))?;
                if was_hidden {
                    step("mark opaque", rustix::fs::fsetxattr(&inner, OPAQUE_XATTR, b"y", XattrFlags::empty()))?;
                }
                self.finish_open(&inner, meta)?;
                self.folder_times.push((path.to_path_buf(), meta.mtime));
                Ok(())
            }
            EntryType::Link => self.hard_link(&folder, name, link.unwrap_or(Path::new(""))),
            EntryType::Symlink => {
                let target = link.unwrap_or(Path::new(""));
                step("create symlink", rustix::fs::symlinkat(target, &folder, name))?;
                self.current = None;
                finish_named(&folder, name, meta)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match meta.kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                step("create device", rustix::fs::mknodat(&folder, name, kind, Mode::empty(), meta.device))?;
                finish_named(&folder, name, meta)
            }
            _ => self.regular(&folder, name, meta, content),
        }
    }

    fn regular(&self, folder: &OwnedFd, name: &OsStr, meta: &Meta, content: &mut impl Read) -> Step<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = step("create", rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600)))?;
        let mut file = File::from(file);
        copy(content, &mut file)?;
        let file = OwnedFd::from(file);
        self.finish_open(&file, meta)?;
        step("set time of", rustix::fs::futimens(&file, &times(meta.mtime)))
    }

    fn hard_link(&self, folder: &OwnedFd, name: &OsStr, target: &Path) -> Step<()> {
        let target = beneath::clean(target).unwrap_or_default();
        let target_name = target.file_name().ok_or(("hard-link", io::Error::from(Errno::INVAL)))?;
        let parent = step("open folder of link target for", beneath::open_folder(&self.root, target.parent().unwrap_or(Path::new(""))))?;
        step("hard-link", rustix::fs::linkat(&parent, target_name, folder, name, AtFlags::empty()))
    }

    /// Owner first (changing it clears setuid bits), then mode, then xattrs (file capabilities vanish with a new owner).
    fn finish_open(&self, file: &OwnedFd, meta: &Meta) -> Step<()> {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        step("set owner of", rustix::fs::fchown(file, Some(uid), Some(gid)))?;
        step("set mode of", rustix::fs::fchmod(file, Mode::from_raw_mode(meta.mode)))?;
        for (name, value) in &meta.xattrs {
            match rustix::fs::fsetxattr(file, name.as_os_str(), value, XattrFlags::empty()) {
                // A file system without this xattr class still gives a working image (as containerd's archive does).
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(("set extended attribute of", e.into())),
            }
        }
        Ok(())
    }

    /// The folder an entry goes into, made if the archive did not mention it.
    fn parent(&mut self, path: &Path) -> Step<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new(""));
        if let Some((cached, folder)) = &self.current
            && cached == parent
        {
            return step("open", folder.try_clone());
        }
        let folder = match beneath::open_folder(&self.root, parent) {
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_folders(parent)?,
            other => step("open folder of", other)?,
        };
        self.current = Some((parent.to_path_buf(), step("open", folder.try_clone())?));
        Ok(folder)
    }

    fn make_folders(&mut self, path: &Path) -> Step<OwnedFd> {
        let mut walked = PathBuf::new();
        let mut folder = step("open", self.root.try_clone())?;
        for name in path {
            walked.push(name);
            folder = match beneath::open_folder(&self.root, &walked) {
                Ok(inner) => inner,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_folder(&folder, name, &walked)?,
                Err(e) => return Err(("open folder of", e.into())),
            };
        }
        Ok(folder)
    }

    fn make_folder(&mut self, folder: &OwnedFd, name: &OsStr, path: &Path) -> Step<OwnedFd> {
        // A dangling symlink or a file in the way gives way to the folder that the archive implies.
        step("replace", beneath::remove_all(folder, name))?;
        step("create folder", rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)))?;
        let inner = step("open", beneath::open_folder(folder, Path::new(name)))?;
        if self.whiteouts.remove(path) {
            step("mark opaque", rustix::fs::fsetxattr(&inner, OPAQUE_XATTR, b"y", XattrFlags::empty()))?;
        } else {
            self.undescribed.insert(path.to_path_buf());
        }
        Ok(inner)
    }
}

/// Gives folders that no entry describes the owner and mode they have in the layers below, top first: overlayfs shows the topmost.
pub(super) fn inherit(layer: &str, folder: &Path, undescribed: &BTreeSet<PathBuf>, parents: &[PathBuf]) -> Result<(), LayerError> {
    let open = |path: &Path| File::open(path).map(OwnedFd::from);
    let root = open(folder).map_err(|source| entry_error(layer, "open", folder, source))?;
    let below: Vec<OwnedFd> = parents.iter().filter_map(|parent| open(parent).ok()).collect();
    undescribed.iter().try_for_each(|path| inherit_one(&root, path, &below).map_err(|(o, e)| entry_error(layer, o, path, e)))
}

fn inherit_one(root: &OwnedFd, path: &Path, below: &[OwnedFd]) -> Step<()> {
    let target = step("open", beneath::open_folder(root, path))?;
    let Some(found) = below.iter().find_map(|root| beneath::open_folder(root, path).ok()) else {
        return step("set mode of", rustix::fs::fchmod(&target, Mode::from_raw_mode(0o755)));
    };
    let stat = step("inspect", rustix::fs::fstat(&found))?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    step("set owner of", rustix::fs::fchown(&target, Some(uid), Some(gid)))?;
    step("set mode of", rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777)))
}

/// Owner, xattrs and time of what cannot be opened for writing: symlinks and devices.
fn finish_named(folder: &OwnedFd, name: &OsStr, meta: &Meta) -> Step<()> {
    let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
    step("set owner of", rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    if !meta.kind.is_symlink() {
        step("set mode of", rustix::fs::chmodat(folder, name, Mode::from_raw_mode(meta.mode), AtFlags::empty()))?;
    }
    let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
    for (key, value) in &meta.xattrs {
        match rustix::fs::lsetxattr(&path, key.as_os_str(), value, XattrFlags::empty()) {
            // The kernel allows no user.* xattrs on symlinks and devices.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(("set extended attribute of", e.into())),
        }
    }
    step("set time of", rustix::fs::utimensat(folder, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW))
}

/// Copies with read and write errors told apart: one means a broken archive, the other a full disk.
fn copy(content: &mut impl Read, file: &mut File) -> Step<()> {
    use std::io::Write;
    let mut buffer = [0; 64 << 10];
    loop {
        match step("read content of", content.read(&mut buffer))? {
            0 => return Ok(()),
            n => step("write", file.write_all(&buffer[..n]))?,
        }
    }
}

/// Only attributes that belong to the image's files. An archive that sets trusted.overlay.* (redirect, metacopy) could make
/// overlayfs show files from elsewhere.
fn is_portable_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: mtime, last_modification: mtime }
}

/// Go's archive/tar, which reads images everywhere else, takes a blank field for zero.
fn number(field: &[u8], parsed: io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) { Ok(0) } else { parsed }
}

/// A pax time: seconds with an optional decimal fraction.
fn parse_time(text: &str) -> Option<Timespec> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some(Timespec { tv_sec: seconds.parse().ok()?, tv_nsec: digits.parse().ok()? })
}

fn entry_error(layer: &str, operation: &'static str, entry: &Path, source: io::Error) -> LayerError {
    LayerError::Entry { layer: layer.to_owned(), operation, entry: entry.display().to_string(), source }
}
