//! Network namespaces: running code inside one, on a thread of its own that ends afterwards, so that no pooled thread is ever
//! left in a foreign namespace. Making and keeping namespaces is the runtime's business.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};

use crate::netlink::NetlinkError;

/// An open reference to a network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Opens a bind-mounted namespace or `/proc/<pid>/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetlinkError> {
        let file = File::open(path).map_err(|source| NetlinkError::File {
            operation: "open network namespace",
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Makes a new namespace, empty but for a loopback that is down; it is gone when nothing refers to it any more.
    pub fn create() -> Result<Self, NetlinkError> {
        let failed = |source: std::io::Error| NetlinkError::File { operation: "create", path: "network namespace".to_owned(), source };
        std::thread::scope(|scope| {
            let creator = scope.spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                Self::current()
            });
            match creator.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetlinkError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Runs `work` inside and gives its result. Sockets opened there stay in this namespace wherever they are used.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T, NetlinkError> + Send) -> Result<T, NetlinkError> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| NetlinkError::File {
                    operation: "enter network namespace",
                    path: self.path.display().to_string(),
                    source: errno.into(),
                })?;
                work()
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
