//! Raw netlink: building messages and attributes, a synchronous socket, errors with the kernel's own explanation.
//! Used for rtnetlink, nf_tables and ctnetlink alike; what the attributes mean is the callers' business.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt};

/// Larger than any datagram of a dump (the kernel fills at most 32 KiB, or the buffer of the last read).
const RECEIVE_BUFFER: usize = 64 << 10;
const DUMP_ATTEMPTS: usize = 10;
const SEND_BUFFER: usize = 64 << 20;
const HEADER: usize = 16;

/// `linux/netlink.h`: error messages carry only the header of what failed.
const NLM_F_CAPPED: u16 = 0x100;
/// `linux/netlink.h`: error messages carry attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot {operation}: {}{}", .errno.desc(), explain(.message))]
    Kernel { operation: String, errno: Errno, message: String },
    #[error("netlink socket: cannot {operation}: {source}")]
    Socket { operation: &'static str, source: io::Error },
    #[error("cannot {operation}: the kernel gave no answer")]
    NoAnswer { operation: String },
    #[error("cannot {operation} {path}: {source}")]
    File { operation: &'static str, path: String, source: io::Error },
}

fn explain(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl NetlinkError {
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// What was to be removed or looked up is not there.
    pub fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENOENT | Errno::ESRCH | Errno::ENODEV | Errno::EADDRNOTAVAIL))
    }
}

/// One message or a row of messages being built.
#[derive(Default)]
pub(crate) struct Builder {
    bytes: Vec<u8>,
}

impl Builder {
    /// Appends a message: its header, then what `body` writes.
    pub(crate) fn message(&mut self, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        body(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    pub(crate) fn attribute(&mut self, kind: u16, data: &[u8]) {
        debug_assert!(data.len() + 4 <= usize::from(u16::MAX), "a netlink attribute has at most 64 KiB");
        self.bytes.extend(((data.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.raw(data);
    }

    /// A zero-terminated string.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        self.attribute(kind, &[text.as_bytes(), &[0]].concat());
    }

    pub(crate) fn be32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    pub(crate) fn ne32(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_ne_bytes());
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend((kind | libc::NLA_F_NESTED as u16).to_ne_bytes());
        body(self);
        let length = self.bytes.len() - start;
        debug_assert!(length <= usize::from(u16::MAX), "a netlink attribute has at most 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Sets flags in the header of the last message.
    pub(crate) fn flag_last(&mut self, flags: u16) {
        let mut start = 0;
        while let Some(length) = self.bytes.get(start..).and_then(ne_u32) {
            let next = start + (length as usize).next_multiple_of(4).max(HEADER);
            if next >= self.bytes.len() {
                let old = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]);
                self.bytes[start + 6..start + 8].copy_from_slice(&(old | flags).to_ne_bytes());
            }
            start = next;
        }
    }

    pub(crate) fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
    }
}

/// The attributes in `bytes`, as (kind without flags, data).
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & libc::NLA_TYPE_MASK as u16;
        let data = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    })
}

pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, data)| data)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

pub(crate) fn ne_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

#[cfg(test)]
pub(crate) fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A netlink socket, bound for ever to the network namespace of the thread that opened it.
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

/// One message received.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        let failed = |operation| move |e: Errno| NetlinkError::Socket { operation, source: e.into() };
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed("open"))?;
        // Without the privilege to exceed the system's limit, small batches still pass.
        let _ = setsockopt(&descriptor, sockopt::SndBufForce, &SEND_BUFFER);
        let _ = setsockopt(&descriptor, sockopt::RcvBufForce, &(4 << 20));
        for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
            set_flag(&descriptor, option)?;
        }
        Ok(Self { descriptor, sequence: 0 })
    }

    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// One request that the kernel acknowledges. `operation` completes "cannot ...".
    pub(crate) fn request(
        &mut self,
        kind: u16,
        flags: u16,
        operation: impl Fn() -> String,
        body: impl FnOnce(&mut Builder),
    ) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, sequence, body);
        self.transmit(&builder, |_| operation())
    }

    /// Sends messages of which the last asks for an acknowledgement; the first error counts. The kernel works while it is
    /// sent to, so all answers are there when sending returns.
    pub(crate) fn transmit(&mut self, builder: &Builder, operation: impl Fn(u32) -> String) -> Result<(), NetlinkError> {
        self.send(builder)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut acknowledged = false;
        let mut first = None;
        loop {
            let n = match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(n) => n,
                Err(Errno::EAGAIN) => break,
                // More errors than fit; those that did not fit are no better than those that did.
                Err(Errno::ENOBUFS | Errno::EINTR) => continue,
                Err(e) => return Err(NetlinkError::Socket { operation: "receive", source: e.into() }),
            };
            for (answer, sequence) in answers(&buffer[..n]) {
                if answer.kind != libc::NLMSG_ERROR as u16 {
                    continue;
                }
                match error_of(&answer) {
                    None => acknowledged = true,
                    Some((errno, message)) => {
                        first.get_or_insert(NetlinkError::Kernel { operation: operation(sequence), errno, message });
                    }
                }
            }
        }
        match first {
            Some(error) => Err(error),
            None if acknowledged => Ok(()),
            None => Err(NetlinkError::NoAnswer { operation: operation(self.sequence) }),
        }
    }

    /// One request that is answered by one message, whose body is returned.
    pub(crate) fn query(
        &mut self,
        kind: u16,
        operation: impl Fn() -> String,
        body: impl FnOnce(&mut Builder),
    ) -> Result<Vec<u8>, NetlinkError> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, libc::NLM_F_REQUEST as u16, sequence, body);
        self.send(&builder)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let n = match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(n) => n,
            Err(e) => return Err(NetlinkError::Socket { operation: "receive", source: e.into() }),
        };
        let (answer, _) = answers(&buffer[..n])
            .find(|(_, answered)| *answered == sequence)
            .ok_or_else(|| NetlinkError::NoAnswer { operation: operation() })?;
        match answer.kind {
            kind if kind == libc::NLMSG_ERROR as u16 => {
                let (errno, message) = error_of(&answer).unwrap_or((Errno::EPROTO, String::new()));
                Err(NetlinkError::Kernel { operation: operation(), errno, message })
            }
            _ => Ok(answer.body.to_vec()),
        }
    }

    /// What `parse` makes of all answers to a dump request. A dump during which the kernel's list changed is repeated.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        operation: &str,
        body: impl Fn(&mut Builder),
        mut parse: impl FnMut(&[u8], &mut Vec<T>),
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if self.dump_once(kind, operation, &body, |answer| parse(answer, &mut found))? {
                return Ok(found);
            }
        }
        Err(NetlinkError::Kernel { operation: operation.to_owned(), errno: Errno::EINTR, message: "the list keeps changing".to_owned() })
    }

    /// Gives whether the dump was consistent.
    fn dump_once(
        &mut self,
        kind: u16,
        operation: &str,
        body: impl FnOnce(&mut Builder),
        mut each: impl FnMut(&[u8]),
    ) -> Result<bool, NetlinkError> {
        let sequence = self.next_sequence();
        let mut builder = Builder::default();
        builder.message(kind, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, sequence, body);
        self.send(&builder)?;
        let mut buffer = vec![0; RECEIVE_BUFFER];
        let mut consistent = true;
        loop {
            let n = match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(n) => n,
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(NetlinkError::Socket { operation: "receive", source: e.into() }),
            };
            for (answer, _) in answers(&buffer[..n]).filter(|(_, answered)| *answered == sequence) {
                consistent &= answer.flags & libc::NLM_F_DUMP_INTR as u16 == 0;
                match i32::from(answer.kind) {
                    libc::NLMSG_DONE => return Ok(consistent),
                    libc::NLMSG_ERROR => {
                        let Some((errno, message)) = error_of(&answer) else { return Ok(consistent) };
                        return Err(NetlinkError::Kernel { operation: operation.to_owned(), errno, message });
                    }
                    _ => each(answer.body),
                }
            }
        }
    }

    fn send(&self, builder: &Builder) -> Result<(), NetlinkError> {
        match send(self.descriptor.as_raw_fd(), builder.bytes(), MsgFlags::empty()) {
            Ok(_) => Ok(()),
            Err(e) => Err(NetlinkError::Socket { operation: "send", source: e.into() }),
        }
    }
}

fn set_flag(descriptor: &OwnedFd, option: i32) -> Result<(), NetlinkError> {
    let one: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the pointer and length describe a local c_int that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            descriptor.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop).map_err(|e| NetlinkError::Socket { operation: "set an option of", source: e.into() })
}

/// The messages of one datagram with their sequence numbers.
fn answers(bytes: &[u8]) -> impl Iterator<Item = (Answer<'_>, u32)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = ne_u32(rest)? as usize;
        let message = rest.get(..length).filter(|m| m.len() >= HEADER)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let flags = u16::from_ne_bytes([message[6], message[7]]);
        Some((Answer { kind, flags, body: &message[HEADER..] }, ne_u32(&message[8..])?))
    })
}

/// The errno and explanation of an error message; `None` if it acknowledges.
fn error_of(answer: &Answer<'_>) -> Option<(Errno, String)> {
    let code = ne_u32(answer.body)? as i32;
    if code == 0 {
        return None;
    }
    let mut explanation = String::new();
    if answer.flags & NLM_F_ACK_TLVS != 0 {
        let inner = answer.body.get(4..).and_then(ne_u32).unwrap_or(0) as usize;
        let skip = 4 + if answer.flags & NLM_F_CAPPED != 0 { HEADER } else { inner.next_multiple_of(4) };
        explanation = answer.body.get(skip..).and_then(|tlvs| find(tlvs, NLMSGERR_ATTR_MSG)).map(text).unwrap_or_default();
    }
    Some((Errno::from_raw(-code), explanation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_as_they_were_written() {
        let mut builder = Builder::default();
        builder.string(1, "abc");
        builder.nest(2, |inner| inner.be32(3, 7));
        builder.attribute(4, &[]);
        let read: Vec<_> = attributes(builder.bytes()).collect();
        assert_eq!(read[0], (1, &b"abc\0"[..]));
        assert_eq!(find(read[1].1, 3).and_then(be_u32), Some(7));
        assert_eq!(read[2], (4, &b""[..]));
    }

    #[test]
    fn truncated_or_senseless_input_ends_the_reading() {
        for bytes in [&[][..], &[9], &[0, 0, 0, 0], &[255, 255, 1, 0, 1], &[3, 0, 1, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
            assert_eq!(answers(bytes).count(), 0, "{bytes:?}");
        }
    }
}
