//! Shutdowns as systemd tells of them: a lock of logind's delays them until the pods have ended. See upstream's
//! pkg/kubelet/nodeshutdown/systemd.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dbus::{Bus, BusError, put_text};

/// Where machines with systemd have their bus.
pub(super) const BUS: &str = "/run/dbus/system_bus_socket";
/// Where logind is told to wait longer than it does by default.
pub(super) const DROP_INS: &str = "/etc/systemd/logind.conf.d";
const DROP_IN: &str = "99-kubelet.conf";
const MANAGER: (&str, &str, &str) = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager");
const PROPERTIES: (&str, &str, &str) = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.DBus.Properties");
const SYSTEMD: (&str, &str, &str) = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const DRIVER: (&str, &str, &str) = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
const SIGNAL: &str = "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown',path='/org/freedesktop/login1'";
/// How often it is looked whether logind has read its new configuration, and after which time.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, thiserror::Error)]
pub(super) enum LogindError {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error("write {path:?}: {source}")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("logind's InhibitDelayMaxSec stays {is:?} where {wanted:?} is wanted")]
    TooShort { is: Duration, wanted: Duration },
    #[error("logind has given no lock")]
    NoLock,
}

/// While it is held the machine waits.
pub(super) struct Lock(#[allow(dead_code, reason = "it is held, and says nothing")] OwnedFd);

/// A talk with logind.
pub(super) struct Logind {
    bus: Bus,
}

impl Logind {
    pub(super) async fn connect(bus: &Path) -> Result<Self, LogindError> {
        Ok(Self { bus: Bus::connect(bus).await? })
    }

    #[cfg(test)]
    pub(super) fn over(bus: Bus) -> Self {
        Self { bus }
    }

    /// Has logind tell of shutdowns and wait for at least `wanted` with them. Where it waits less it is configured anew, by a file in
    /// `drop_ins`.
    pub(super) async fn prepare(&mut self, wanted: Duration, drop_ins: &Path) -> Result<(), LogindError> {
        let mut rule = Vec::new();
        put_text(&mut rule, SIGNAL);
        self.bus.call(DRIVER, "AddMatch", "s", rule).await?;
        let mut is = self.delay().await?;
        if is >= wanted {
            return Ok(());
        }
        let path = drop_ins.join(DROP_IN);
        // Whole seconds, and no less than is wanted.
        let seconds = wanted.as_secs() + u64::from(wanted.subsec_nanos() > 0);
        let text = format!("# Kubelet logind override\n[Login]\nInhibitDelayMaxSec={seconds}\n");
        let written = std::fs::create_dir_all(drop_ins).and_then(|()| std::fs::write(&path, text));
        written.map_err(|source| LogindError::Write { path, source })?;
        let mut unit = Vec::new();
        put_text(&mut unit, "systemd-logind.service");
        put_text(&mut unit, "all");
        super::dbus::put_number(&mut unit, nix::libc::SIGHUP.unsigned_abs());
        self.bus.call(SYSTEMD, "KillUnit", "ssi", unit).await?;
        for _ in 0..TRIES {
            is = self.delay().await?;
            if is >= wanted {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(LogindError::TooShort { is, wanted })
    }

    /// How long logind waits at most.
    async fn delay(&mut self) -> Result<Duration, LogindError> {
        let mut body = Vec::new();
        put_text(&mut body, MANAGER.2);
        put_text(&mut body, "InhibitDelayMaxUSec");
        let answer = self.bus.call(PROPERTIES, "Get", "ss", body).await?;
        Ok(Duration::from_micros(answer.read().long_variant()?))
    }

    pub(super) async fn lock(&mut self) -> Result<Lock, LogindError> {
        let mut body = Vec::new();
        for word in ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"] {
            put_text(&mut body, word);
        }
        let mut answer = self.bus.call(MANAGER, "Inhibit", "ssss", body).await?;
        answer.fds.pop().map(Lock).ok_or(LogindError::NoLock)
    }

    /// The next word about a shutdown: whether it begins, or was called off.
    pub(super) async fn word(&mut self) -> Result<bool, LogindError> {
        loop {
            let signal = self.bus.signal().await?;
            if signal.interface == MANAGER.2 && signal.member == "PrepareForShutdown" {
                return Ok(signal.read().number()? != 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::super::dbus::{Kind, Message, put_long_variant, put_number};
    use super::*;

    /// A bus with a logind that waits five seconds until it is told to read its configuration, and then as long as that says.
    async fn model(mut stream: UnixStream, drop_ins: PathBuf, lock: OwnedFd) -> Vec<String> {
        let mut lines = Vec::new();
        let mut byte = [0];
        for answer in ["OK 1234\r\n", "AGREE_UNIX_FD\r\n", ""] {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                stream.read_exact(&mut byte).await.unwrap();
                line.push(byte[0]);
            }
            lines.push(String::from_utf8_lossy(&line).trim_matches(['\0', '\r', '\n']).to_string());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        let (mut reloaded, mut said) = (false, vec![lines[0].split(' ').take(2).collect::<Vec<_>>().join(" ")]);
        loop {
            let mut head = [0; 16];
            if stream.read_exact(&mut head).await.is_err() {
                return said;
            }
            let number = |at: usize| usize::try_from(u32::from_ne_bytes(head[at..at + 4].try_into().unwrap())).unwrap();
            let size = (16 + number(12)).next_multiple_of(8) + number(4);
            let mut bytes = head.to_vec();
            bytes.resize(size, 0);
            stream.read_exact(&mut bytes[16..]).await.unwrap();
            let call = Message::decode(&bytes).unwrap();
            said.push(call.member.clone());
            let mut reply = Message { serial: 100, reply_to: call.serial, ..Message::new(Kind::Return) };
            match call.member.as_str() {
                "Get" => {
                    let configured = || std::fs::read_to_string(drop_ins.join(DROP_IN)).unwrap();
                    let seconds = if reloaded { configured().trim().rsplit('=').next().unwrap().parse().unwrap() } else { 5 };
                    reply.signature = "v".into();
                    put_long_variant(&mut reply.body, seconds * 1_000_000);
                }
                "KillUnit" => reloaded = true,
                "Inhibit" => {
                    (reply.signature, reply.fd_count) = ("h".into(), 1);
                    put_number(&mut reply.body, 0);
                    let bytes = reply.encode();
                    let parts = [std::io::IoSlice::new(&bytes)];
                    let fds = [lock.as_raw_fd()];
                    stream.writable().await.unwrap();
                    let sent =
                        sendmsg::<()>(stream.as_fd().as_raw_fd(), &parts, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None);
                    assert_eq!(sent.unwrap(), bytes.len());
                    let interface = MANAGER.2.to_string();
                    let mut signal = Message { serial: 101, path: MANAGER.1.into(), interface, ..Message::new(Kind::Signal) };
                    (signal.member, signal.signature) = ("PrepareForShutdown".into(), "b".into());
                    put_number(&mut signal.body, 1);
                    stream.write_all(&signal.encode()).await.unwrap();
                    continue;
                }
                _ => {}
            }
            stream.write_all(&reply.encode()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn logind_is_made_to_wait_long_enough_and_its_lock_is_held_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let drop_ins = dir.path().join("logind.conf.d");
        let (theirs, lock) = std::os::unix::net::UnixStream::pair().unwrap();
        let (ours, other) = UnixStream::pair().unwrap();
        let mut logind = tokio::task::JoinSet::new();
        logind.spawn(model(other, drop_ins.clone(), lock.into()));
        let mut talk = Logind::over(Bus::over(ours).await.unwrap());
        talk.prepare(Duration::from_millis(29_500), &drop_ins).await.unwrap();
        assert!(std::fs::read_to_string(drop_ins.join(DROP_IN)).unwrap().contains("InhibitDelayMaxSec=30\n"));
        let lock = talk.lock().await.unwrap();
        assert!(talk.word().await.unwrap());
        drop(talk);
        let said = logind.join_next().await.unwrap().unwrap();
        assert_eq!(said, ["AUTH EXTERNAL", "Hello", "AddMatch", "Get", "KillUnit", "Get", "Inhibit"]);
        // The model's own end went with it; the lock is what is left.
        theirs.set_nonblocking(true).unwrap();
        let state = || std::io::Read::read(&mut &theirs, &mut [0]).map_err(|e| e.kind());
        assert_eq!(state(), Err(std::io::ErrorKind::WouldBlock));
        drop(lock);
        assert_eq!(state(), Ok(0));
    }
}
