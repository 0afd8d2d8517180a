//! Follows changes of the configuration file: by what the kernel tells of its folder, so that files that are replaced, as those in
//! mounted Secrets are, are seen too.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use crate::{Encryption, EncryptionError};

/// Reloads an encryption's file whenever it has changed.
pub struct Reloads {
    encryption: Arc<Encryption>,
    path: PathBuf,
    folder: AsyncFd<Folder>,
}

/// How soon what could not be taken over is tried again: the first pause and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

struct Folder(Inotify);

impl AsRawFd for Folder {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Reloads {
    pub(crate) fn of(encryption: Arc<Encryption>, path: &Path) -> Result<Self, EncryptionError> {
        let failed = |source: std::io::Error| EncryptionError::Io { path: path.into(), operation: "watch", source };
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let notify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|e| failed(e.into()))?;
        let events = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        notify.add_watch(folder, events).map_err(|e| failed(e.into()))?;
        // SAFETY: the descriptor is that of the inotify instance inside, which nothing closes or replaces before the `AsyncFd` that
        // owns it is gone.
        let folder = unsafe { AsyncFd::register_with_interest(Folder(notify), Interest::READABLE) }.map_err(|e| failed(e.into()))?;
        Ok(Self { encryption, path: path.into(), folder })
    }

    /// Reloads until `stop`: what has changed since it was read, even while nobody followed it yet.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = PAUSES.0;
        loop {
            let settled = self.reload_if_outdated().await;
            let again = async {
                match settled {
                    true => std::future::pending().await,
                    false => tokio::time::sleep(pause).await,
                }
            };
            let changed = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = self.changed() => changed,
                () = again => Ok(()),
            };
            pause = if settled { PAUSES.0 } else { (pause * 2).min(PAUSES.1) };
            if let Err(error) = changed {
                tracing::error!(path = %self.path.display(), %error, "the encryption configuration is not followed any more");
                return stop.cancelled().await;
            }
        }
    }

    /// False where what the file says cannot be put in force, and may be later.
    async fn reload_if_outdated(&self) -> bool {
        if !self.encryption.is_outdated() {
            return true;
        }
        let encryption = self.encryption.clone();
        // It asks key management services, and waits for them.
        let reloaded = tokio::task::spawn_blocking(move || encryption.reload()).await;
        match reloaded {
            Ok(Ok(())) => {
                tracing::info!(path = %self.path.display(), "the encryption configuration was reloaded");
                return true;
            }
            Ok(Err(error)) => tracing::error!(%error, "the former encryption configuration stays in force"),
            Err(error) => tracing::error!(%error, "reloading the encryption configuration failed"),
        }
        false
    }

    /// Waits for an event in the folder and takes all that are there.
    async fn changed(&self) -> std::io::Result<()> {
        let mut guard = self.folder.readable().await?;
        loop {
            match self.folder.get_ref().0.read_events() {
                Ok(_) => {}
                Err(Errno::EAGAIN) => {
                    guard.clear_ready();
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
