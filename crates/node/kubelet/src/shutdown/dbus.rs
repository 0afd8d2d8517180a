//! As much of D-Bus as it takes to talk with systemd's logind: messages, calls, signals, and a descriptor in an answer. See the D-Bus
//! specification; only numbers of this machine's own order are understood, as all programs on one machine write them.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

/// A message of logind is a few hundred bytes.
const LARGEST: usize = 1 << 20;
/// As libdbus waits for an answer.
const PATIENCE: Duration = Duration::from_secs(25);
const ORDER: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    #[error("the system bus: {0}")]
    Io(#[from] io::Error),
    #[error("the system bus refuses: {0}")]
    Refused(String),
    #[error("the system bus says something that is not understood")]
    Malformed,
    #[error("the system bus does not answer")]
    Silent,
    #[error("{name}: {text}")]
    Error { name: String, text: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// A message, its body as it stands in it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) serial: u32,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error: String,
    pub(super) reply_to: u32,
    pub(super) destination: String,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    /// How many of them its header says that it has.
    pub(super) fd_count: u32,
}

impl Message {
    pub(super) fn new(kind: Kind) -> Self {
        let (none, body, fds) = (String::new, Vec::new(), Vec::new());
        Self {
            kind: kind as u8,
            serial: 0,
            path: none(),
            interface: none(),
            member: none(),
            error: none(),
            reply_to: 0,
            destination: none(),
            signature: none(),
            body,
            fds,
            fd_count: 0,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut fields = Vec::new();
        for (code, sort, text) in [
            (1, b'o', &self.path),
            (2, b's', &self.interface),
            (3, b's', &self.member),
            (4, b's', &self.error),
            (6, b's', &self.destination),
        ] {
            if !text.is_empty() {
                align(&mut fields, 8);
                fields.extend([code, 1, sort, 0]);
                put_text(&mut fields, text);
            }
        }
        if self.reply_to > 0 {
            align(&mut fields, 8);
            fields.extend([5, 1, b'u', 0]);
            put_number(&mut fields, self.reply_to);
        }
        if !self.signature.is_empty() {
            align(&mut fields, 8);
            fields.extend([8, 1, b'g', 0, length(&self.signature)]);
            fields.extend(self.signature.as_bytes());
            fields.push(0);
        }
        if self.fd_count > 0 {
            align(&mut fields, 8);
            fields.extend([9, 1, b'u', 0]);
            put_number(&mut fields, self.fd_count);
        }
        let mut out = vec![ORDER, self.kind, 0, 1];
        put_number(&mut out, u32::try_from(self.body.len()).unwrap_or(0));
        put_number(&mut out, self.serial);
        put_number(&mut out, u32::try_from(fields.len()).unwrap_or(0));
        out.extend(fields);
        align(&mut out, 8);
        out.extend(&self.body);
        out
    }

    /// How long the message is that begins with these sixteen bytes.
    fn size(head: &[u8]) -> Result<usize, BusError> {
        let mut reader = Reader { bytes: head, at: 4 };
        let (body, _serial, fields) = (reader.number()?, reader.number()?, reader.number()?);
        let wide = |n: u32| usize::try_from(n).map_err(|_| BusError::Malformed);
        let size = (16 + wide(fields)?).next_multiple_of(8).saturating_add(wide(body)?);
        if head.first() == Some(&ORDER) && size <= LARGEST { Ok(size) } else { Err(BusError::Malformed) }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BusError> {
        let mut message = Self::new(Kind::Call);
        let mut reader = Reader { bytes, at: 1 };
        message.kind = reader.byte()?;
        reader.at = 8;
        message.serial = reader.number()?;
        let end = 16 + usize::try_from(reader.number()?).map_err(|_| BusError::Malformed)?;
        while reader.at < end {
            reader.align(8);
            let code = reader.byte()?;
            let sort = reader.signature()?;
            match (code, sort.as_str()) {
                (1, "o") => message.path = reader.text()?,
                (2, "s") => message.interface = reader.text()?,
                (3, "s") => message.member = reader.text()?,
                (4, "s") => message.error = reader.text()?,
                (5, "u") => message.reply_to = reader.number()?,
                (6, "s") => message.destination = reader.text()?,
                (8, "g") => message.signature = reader.signature()?,
                (9, "u") => message.fd_count = reader.number()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.number()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(BusError::Malformed),
            }
        }
        message.body = bytes.get(end.next_multiple_of(8)..).ok_or(BusError::Malformed)?.to_vec();
        Ok(message)
    }

    /// What the body says, from its beginning.
    pub(super) fn read(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }
}

fn align(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

pub(super) fn put_number(out: &mut Vec<u8>, number: u32) {
    align(out, 4);
    out.extend(number.to_ne_bytes());
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_number(out, u32::try_from(text.len()).unwrap_or(0));
    out.extend(text.as_bytes());
    out.push(0);
}

/// A variant with a number of 64 bits.
#[cfg(test)]
pub(super) fn put_long_variant(out: &mut Vec<u8>, number: u64) {
    out.extend([1, b't', 0]);
    align(out, 8);
    out.extend(number.to_ne_bytes());
}

fn length(text: &str) -> u8 {
    u8::try_from(text.len()).unwrap_or(0)
}

pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Result<&[u8], BusError> {
        let end = self.at.checked_add(count).ok_or(BusError::Malformed)?;
        let bytes = self.bytes.get(self.at..end).ok_or(BusError::Malformed)?;
        self.at = end;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32, BusError> {
        self.align(4);
        let bytes = self.take(4)?.try_into().map_err(|_| BusError::Malformed)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// A variant with a number of 64 bits.
    pub(super) fn long_variant(&mut self) -> Result<u64, BusError> {
        if self.signature()? != "t" {
            return Err(BusError::Malformed);
        }
        self.align(8);
        let bytes = self.take(8)?.try_into().map_err(|_| BusError::Malformed)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    pub(super) fn text(&mut self) -> Result<String, BusError> {
        let length = usize::try_from(self.number()?).map_err(|_| BusError::Malformed)?;
        self.ended(length)
    }

    fn signature(&mut self) -> Result<String, BusError> {
        let length = usize::from(self.byte()?);
        self.ended(length)
    }

    /// A text with the zero that ends it.
    fn ended(&mut self, length: usize) -> Result<String, BusError> {
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| BusError::Malformed)?;
        self.byte()?;
        Ok(text)
    }
}

/// A connection to the bus. What comes is buffered, with the descriptors that came with it.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    buffer: Vec<u8>,
    fds: Vec<OwnedFd>,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Bus {
    pub(super) async fn connect(path: &Path) -> Result<Self, BusError> {
        let connected = async { Self::over(UnixStream::connect(path).await?).await };
        tokio::time::timeout(PATIENCE, connected).await.map_err(|_| BusError::Silent)?
    }

    pub(super) async fn over(stream: UnixStream) -> Result<Self, BusError> {
        let mut bus = Self { stream, buffer: Vec::new(), fds: Vec::new(), serial: 0, signals: Vec::new() };
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.stream.write_all(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes()).await?;
        bus.expect("OK ").await?;
        bus.stream.write_all(b"NEGOTIATE_UNIX_FD\r\n").await?;
        bus.expect("AGREE_UNIX_FD").await?;
        bus.stream.write_all(b"BEGIN\r\n").await?;
        bus.call(("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"), "Hello", "", Vec::new()).await?;
        Ok(bus)
    }

    async fn expect(&mut self, beginning: &str) -> Result<(), BusError> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_string();
                return if line.starts_with(beginning) { Ok(()) } else { Err(BusError::Refused(line)) };
            }
            self.fill().await?;
        }
    }

    /// Reads what is there, descriptors included.
    async fn fill(&mut self) -> Result<(), BusError> {
        let mut chunk = [0; 4096];
        let (stream, fds) = (&self.stream, &mut self.fds);
        let read = stream
            .async_io(Interest::READABLE, || {
                let mut room = nix::cmsg_space!([std::os::fd::RawFd; 4]);
                let mut parts = [IoSliceMut::new(&mut chunk)];
                let got = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
                for control in got.cmsgs()? {
                    if let ControlMessageOwned::ScmRights(raw) = control {
                        // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                        fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                    }
                }
                Ok(got.bytes)
            })
            .await?;
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        self.buffer.extend(&chunk[..read]);
        Ok(())
    }

    async fn receive(&mut self) -> Result<Message, BusError> {
        loop {
            if self.buffer.len() >= 16 {
                let size = Message::size(&self.buffer[..16])?;
                if self.buffer.len() >= size {
                    let bytes: Vec<u8> = self.buffer.drain(..size).collect();
                    let mut message = Message::decode(&bytes)?;
                    // Those of messages that come after this one may be here already; they come in order.
                    let count = usize::try_from(message.fd_count).unwrap_or(usize::MAX);
                    if count > self.fds.len() {
                        return Err(BusError::Malformed);
                    }
                    message.fds = self.fds.drain(..count).collect();
                    return Ok(message);
                }
            }
            self.fill().await?;
        }
    }

    /// Calls a method of an object: its service, path and interface. The body is that of the signature.
    pub(super) async fn call(
        &mut self,
        (service, path, interface): (&str, &str, &str),
        member: &str,
        signature: &str,
        body: Vec<u8>,
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let call = Message {
            serial: self.serial,
            path: path.into(),
            interface: interface.into(),
            member: member.into(),
            destination: service.into(),
            signature: signature.into(),
            body,
            ..Message::new(Kind::Call)
        };
        let answer = async {
            self.stream.write_all(&call.encode()).await?;
            self.answer().await
        };
        tokio::time::timeout(PATIENCE, answer).await.map_err(|_| BusError::Silent)?
    }

    /// The answer to the last call.
    async fn answer(&mut self) -> Result<Message, BusError> {
        loop {
            let message = self.receive().await?;
            if message.kind == Kind::Signal as u8 {
                self.signals.push(message);
            } else if message.reply_to == self.serial && message.kind == Kind::Error as u8 {
                let text = if message.signature.starts_with('s') { message.read().text()? } else { String::new() };
                return Err(BusError::Error { name: message.error, text });
            } else if message.reply_to == self.serial && message.kind == Kind::Return as u8 {
                return Ok(message);
            }
        }
    }

    /// The next signal of those that were asked for.
    pub(super) async fn signal(&mut self) -> Result<Message, BusError> {
        if !self.signals.is_empty() {
            return Ok(self.signals.remove(0));
        }
        loop {
            let message = self.receive().await?;
            if message.kind == Kind::Signal as u8 {
                return Ok(message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_the_specification_says_and_reads_as_it_was_written() {
        let mut body = Vec::new();
        put_text(&mut body, "shutdown");
        put_number(&mut body, 7);
        let call = Message {
            serial: 3,
            path: "/o".into(),
            interface: "a.b".into(),
            member: "M".into(),
            destination: "c.d".into(),
            signature: "su".into(),
            body,
            ..Message::new(Kind::Call)
        };
        let bytes = call.encode();
        // The head, and the path as the first field.
        assert_eq!(bytes[..12], [b"l\x01\0\x01".as_slice(), &20_u32.to_ne_bytes(), &3_u32.to_ne_bytes()].concat());
        assert_eq!(bytes[16..27], *b"\x01\x01o\0\x02\0\0\0/o\0");
        assert_eq!(Message::size(&bytes[..16]).unwrap(), bytes.len());
        let read = Message::decode(&bytes).unwrap();
        assert_eq!(
            (read.path.as_str(), read.member.as_str(), read.destination.as_str(), read.signature.as_str()),
            ("/o", "M", "c.d", "su")
        );
        let mut reader = read.read();
        assert_eq!((reader.text().unwrap().as_str(), reader.number().unwrap()), ("shutdown", 7));
        assert!(reader.number().is_err());
        for end in 16..bytes.len() - 1 {
            // What is cut short is an error or has less of a body, and never more than that.
            let _ = Message::decode(&bytes[..end]);
        }
        assert!(Message::size(&[b'B'; 16]).is_err());
    }
    #[tokio::test(start_paused = true)]
    async fn a_bus_that_does_not_answer_is_not_waited_for_for_ever() {
        let (stream, _silent) = UnixStream::pair().unwrap();
        let mut bus = Bus { stream, buffer: Vec::new(), fds: Vec::new(), serial: 0, signals: Vec::new() };
        let said = bus.call(("a", "/b", "c"), "M", "", Vec::new()).await;
        assert!(matches!(said, Err(BusError::Silent)), "{said:?}");
    }

    #[tokio::test]
    async fn descriptors_belong_to_the_message_that_says_how_many_it_has() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let mut bus = Bus { stream, buffer: Vec::new(), fds: Vec::new(), serial: 0, signals: Vec::new() };
        let fd = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        // A signal without any and an answer with one came in one reading.
        let signal = Message { serial: 1, member: "S".into(), ..Message::new(Kind::Signal) };
        let answer = Message { serial: 2, reply_to: 1, fd_count: 1, ..Message::new(Kind::Return) };
        bus.buffer = [signal.encode(), answer.encode()].concat();
        bus.fds = vec![fd()];
        assert_eq!((bus.receive().await.unwrap().fds.len(), bus.receive().await.unwrap().fds.len()), (0, 1));
        bus.buffer = answer.encode();
        assert!(matches!(bus.receive().await, Err(BusError::Malformed)), "it says that it has one, and has none");
    }
}
