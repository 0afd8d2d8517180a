//! Wakes whoever follows files: when the kernel tells of a write or a new file in their directories, or when something
//! happened in the runtime.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// What wakes who follows files.
pub struct Activity {
    inotify: Option<AsyncFd<OwnedFd>>,
    runtime: Option<watch::Receiver<u64>>,
}

impl Activity {
    /// Follows the directory of the file, so that a new file of the same name is noticed too, and the runtime. Where the kernel has no
    /// more watches, only the runtime's events wake.
    pub(crate) fn watch(path: &Path, runtime: watch::Receiver<u64>) -> Self {
        Self { runtime: Some(runtime), ..Self::of_folders(&[path.parent().unwrap_or(path)]) }
    }

    /// Follows what is in these directories. Where the kernel has no more watches, nothing wakes.
    pub fn of_folders(folders: &[impl AsRef<Path>]) -> Self {
        let watching = || -> nix::Result<OwnedFd> {
            let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
            let news = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            let flags = news | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
            for folder in folders {
                match inotify.add_watch(folder.as_ref(), flags) {
                    // It has gone since it was found.
                    Ok(_) | Err(nix::errno::Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(inotify.into())
        };
        let inotify = match watching().map_err(std::io::Error::from).and_then(register) {
            Ok(inotify) => Some(inotify),
            Err(error) => {
                let folder = folders.first().map(|f| f.as_ref().to_path_buf());
                tracing::warn!(?folder, %error, "files cannot be watched, their changes go unseen");
                None
            }
        };
        Self { inotify, runtime: None }
    }

    /// Returns after something may have changed. Safe to cancel.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = readable(self.inotify.as_ref()) => {}
            () = happened(self.runtime.as_mut()) => {}
        }
    }
}

async fn happened(runtime: Option<&mut watch::Receiver<u64>>) {
    if let Some(runtime) = runtime
        && runtime.changed().await.is_ok()
    {
        return;
    }
    // Nothing is followed, or the kubelet stops, and ends its connections.
    std::future::pending().await
}

fn register(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it stays open and the same for as long as the registration that owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

async fn readable(inotify: Option<&AsyncFd<OwnedFd>>) {
    let Some(inotify) = inotify else { return std::future::pending().await };
    if let Ok(mut guard) = inotify.readable().await {
        // What the events say does not matter, only that they are taken.
        let mut events = [0; 4096];
        while nix::unistd::read(inotify.get_ref(), &mut events).is_ok() {}
        guard.clear_ready();
    }
}
