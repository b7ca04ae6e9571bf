//! Packets between broker and worker: JSON and file descriptors on a SOCK_SEQPACKET pair.
//!
//! One packet is one message. Both ends are this binary, so the only untrusted word in here is
//! what a worker that a hostile image took over may send: length, descriptor count and JSON are
//! bounded and checked, and a packet that does not parse ends the link.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest packet, bytes: below what a socket takes at once by default.
const PACKET_LIMIT_BYTES: usize = 176 * 1024;
/// Most descriptors in one packet: what the kernel takes (`SCM_MAX_FD`).
const FD_LIMIT: usize = 253;

/// Sends one message with its descriptors.
///
/// # Errors
/// `InvalidInput` when the message is longer than a packet, else what the socket says.
pub fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > PACKET_LIMIT_BYTES || fds.len() > FD_LIMIT {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "message too long for a packet",
        ));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        let iov = [IoSlice::new(&bytes)];
        match rustix::net::sendmsg(socket, &iov, &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message; `None` when the other end is gone.
///
/// # Errors
/// `InvalidData` for a packet that is cut short or is not the JSON it should be.
pub fn receive<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((bytes, fds)) = receive_packet(socket)? else {
        return Ok(None);
    };
    Ok(Some((serde_json::from_slice(&bytes)?, fds)))
}

/// Receives the descriptors of one packet, whatever its bytes are; `None` as above.
///
/// # Errors
/// As [`receive`].
pub fn receive_fds(socket: BorrowedFd<'_>) -> io::Result<Option<Vec<OwnedFd>>> {
    Ok(receive_packet(socket)?.map(|(_, fds)| fds))
}

/// Receives one packet.
fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0_u8; PACKET_LIMIT_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FD_LIMIT))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut iov = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => break got,
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    if got
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet cut short",
        ));
    }
    bytes.truncate(got.bytes);
    Ok(Some((bytes, fds)))
}

/// Waits until the socket can be read, or its other end is gone.
///
/// # Errors
/// `TimedOut` after `timeout`.
pub fn wait_readable(socket: BorrowedFd<'_>, timeout: std::time::Duration) -> io::Result<()> {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let spec = rustix::time::Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [rustix::event::PollFd::new(
            &socket,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut fds, Some(&spec)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Blocks until the other end of `socket` is closed, without reading from it.
pub fn wait_closed(socket: BorrowedFd<'_>) {
    loop {
        let mut fds = [rustix::event::PollFd::new(
            &socket,
            rustix::event::PollFlags::RDHUP,
        )];
        match rustix::event::poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}

/// A connected pair of packet sockets, both closed on exec.
///
/// # Errors
/// What the kernel says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A packet socket that listens at `path`.
///
/// # Errors
/// What the kernel says; the path is too long or taken.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = unconnected()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// A packet socket connected to the one that listens at `path`.
///
/// # Errors
/// What the kernel says; nobody listens.
pub fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = unconnected()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// A packet socket, closed on exec.
fn unconnected() -> io::Result<OwnedFd> {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(
        kind.0,
        kind.1,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_message_and_its_descriptor_arrive_together() {
        let (a, b) = pair().unwrap();
        let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
        send(a.as_fd(), &"hello", &[null.as_fd()]).unwrap();
        let (text, fds): (String, _) = receive(b.as_fd()).unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("hello", 1));
        drop(a);
        assert!(receive::<String>(b.as_fd()).unwrap().is_none());
        wait_closed(b.as_fd());
    }

    #[test]
    fn garbage_and_wrong_types_are_errors_not_panics() {
        let (a, b) = pair().unwrap();
        rustix::net::send(&a, b"{\"half", SendFlags::empty()).unwrap();
        assert!(receive::<String>(b.as_fd()).is_err());
        send(a.as_fd(), &7_u32, &[]).unwrap();
        assert!(receive::<String>(b.as_fd()).is_err());
    }
}
