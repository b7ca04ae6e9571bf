//! The synchronous Varlink client: one call, one reply, file descriptors beside them.
//!
//! A message is a JSON object ended by a NUL byte; descriptors travel as SCM_RIGHTS with its first
//! bytes. Everything that comes in is bounded before it is kept: a reply is at most
//! [`MESSAGE_LIMIT_BYTES`] long and has exactly the descriptors the caller expects. Descriptors are
//! close-on-exec and owned from the first instruction. A connection on which anything went wrong
//! is never used again; nothing waits once the service has closed its end.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::code::Code;
use crate::error::{Error, Result};
use crate::frame::{FAILED, Failure, MESSAGE_LIMIT_BYTES};

/// Most descriptors one message can bring; more are closed by the kernel and reported.
const FDS_LIMIT: usize = 4;
/// Bytes taken from the socket at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A call as it crosses the socket.
#[derive(Serialize)]
struct Call<'a, Q> {
    method: &'a str,
    parameters: Parameters<'a, Q>,
}

#[derive(Serialize)]
struct Parameters<'a, Q> {
    request: &'a Q,
}

/// A reply as it crosses the socket, its parameters still unread.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    continues: Option<bool>,
}

/// One connection to the service. Calls from several threads wait for each other.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    /// Held for the length of a call; true once the connection can't be used any more.
    broken: Mutex<bool>,
}

impl Wire {
    /// Takes a connected stream socket.
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            broken: Mutex::new(false),
        }
    }

    /// The socket, which is the handle.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Gives the socket up.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// Sends one call and waits for its reply. `fds_sent` go with the call; on success exactly
    /// `fds_expected` descriptors come back.
    ///
    /// # Errors
    /// The service's own failure; 109 when it closed the connection, 13 when what it answered is
    /// no answer, 87 when the call is longer than a message may be, host errors of the socket.
    pub(crate) fn call<Q: Serialize, R: DeserializeOwned>(
        &self,
        method: &str,
        request: &Q,
        fds_sent: &[BorrowedFd<'_>],
        fds_expected: usize,
    ) -> Result<(R, Vec<OwnedFd>)> {
        let message = encode(method, request)?;
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if *broken {
            return Err(closed());
        }
        *broken = true;
        self.send(&message, fds_sent)?;
        let (reply, fds) = self.receive()?;
        let answer = match decode(&reply, method)? {
            Ok(parameters) => Ok(parse(parameters, method)?),
            Err(failure) => Err(Error::from(failure)),
        };
        if answer.is_ok() && fds.len() != fds_expected {
            let found = fds.len();
            let what = format!("{method}: {found} file descriptors came, not {fds_expected}");
            return Err(nonsense(what));
        }
        *broken = false;
        Ok((answer?, fds))
    }

    /// Sends the whole message; the descriptors go with its first bytes.
    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut rest = message;
        let mut fds = fds;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_LIMIT))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::new(
                    Code::ERROR_INVALID_PARAMETER,
                    "too many files in a call",
                ));
            }
            let iov = [IoSlice::new(rest)];
            match sendmsg(&self.stream, &iov, &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(errno) => return Err(socket_error(errno)),
            }
        }
        Ok(())
    }

    /// Receives one message without its NUL, and the descriptors that came with it.
    fn receive(&self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut message = Vec::new();
        let mut fds = Vec::new();
        loop {
            let scanned = message.len();
            let received = self.receive_some(&mut message, &mut fds)?;
            if received == 0 {
                return Err(closed());
            }
            let fresh = message.get(scanned..).unwrap_or_default();
            if let Some(position) = fresh.iter().position(|byte| *byte == 0) {
                if position + 1 != fresh.len() {
                    return Err(nonsense("the service sent more than one answer"));
                }
                message.truncate(scanned + position);
                return Ok((message, fds));
            }
            if message.len() >= MESSAGE_LIMIT_BYTES {
                let what = format!("the answer is longer than {MESSAGE_LIMIT_BYTES} bytes");
                return Err(nonsense(what));
            }
        }
    }

    /// Appends what the socket holds, at most up to the limit; 0 means that the service closed it.
    fn receive_some(&self, message: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<usize> {
        let start = message.len();
        let want = CHUNK_BYTES.min(MESSAGE_LIMIT_BYTES.saturating_sub(start));
        message.resize(start + want, 0);
        let (received, flags) = loop {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_LIMIT))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let fresh = message.get_mut(start..).unwrap_or_default();
            let iov = &mut [IoSliceMut::new(fresh)];
            match recvmsg(&self.stream, iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(got) => {
                    for control in control.drain() {
                        if let RecvAncillaryMessage::ScmRights(rights) = control {
                            fds.extend(rights);
                        }
                    }
                    break (got.bytes, got.flags);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(errno) => return Err(socket_error(errno)),
            }
        };
        message.truncate(start + received);
        if flags.contains(ReturnFlags::CTRUNC) || fds.len() > FDS_LIMIT {
            return Err(nonsense("the service sent too many file descriptors"));
        }
        Ok(received)
    }

    /// Waits on a socket that somebody has made non-blocking.
    fn wait(&self, events: PollFlags) -> Result<()> {
        let mut polled = [PollFd::from_borrowed_fd(self.stream.as_fd(), events)];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(socket_error(errno)),
        }
    }
}

/// The bytes of a call, with its NUL.
fn encode<Q: Serialize>(method: &str, request: &Q) -> Result<Vec<u8>> {
    let call = Call {
        method,
        parameters: Parameters { request },
    };
    let mut message = serde_json::to_vec(&call).map_err(|source| {
        Error::new(
            Code::ERROR_INVALID_PARAMETER,
            format!("{method}: can't be written as JSON"),
        )
        .with_source(source)
    })?;
    message.push(0);
    if message.len() > MESSAGE_LIMIT_BYTES {
        let what = format!("{method}: the arguments are longer than {MESSAGE_LIMIT_BYTES} bytes");
        return Err(Error::new(Code::ERROR_INVALID_PARAMETER, what));
    }
    Ok(message)
}

/// The parameters of a good reply, or the failure that the service reports.
fn decode<'a>(message: &'a [u8], method: &str) -> Result<std::result::Result<&'a str, Failure>> {
    let wrong = |source| {
        nonsense(format!("the answer to {method} is no Varlink reply")).with_source(source)
    };
    let reply: Reply<'a> = serde_json::from_slice(message).map_err(wrong)?;
    if reply.continues == Some(true) {
        return Err(nonsense(format!(
            "the answer to {method} wants to continue"
        )));
    }
    let parameters = reply.parameters.map_or("{}", RawValue::get);
    let Some(name) = reply.error else {
        return Ok(Ok(parameters));
    };
    if name == FAILED {
        return serde_json::from_str(parameters).map(Err).map_err(wrong);
    }
    let code = match name.as_str() {
        "org.varlink.service.InvalidParameter" => Code::ERROR_INVALID_PARAMETER,
        "org.varlink.service.PermissionDenied" => Code::ERROR_ACCESS_DENIED,
        "org.varlink.service.MethodNotFound"
        | "org.varlink.service.MethodNotImplemented"
        | "org.varlink.service.InterfaceNotFound" => Code::ERROR_CALL_NOT_IMPLEMENTED,
        _ => Code::ERROR_INVALID_DATA,
    };
    let message = format!("the service refuses {method}: {}", name.escape_debug());
    let hint = "the service and this program may be of different versions";
    Ok(Err(Failure::from(
        Error::new(code, message).with_hint(hint),
    )))
}

/// The parameters of a good reply as the words they stand for.
fn parse<R: DeserializeOwned>(parameters: &str, method: &str) -> Result<R> {
    serde_json::from_str(parameters).map_err(|source| {
        nonsense(format!("the answer to {method} has a wrong shape")).with_source(source)
    })
}

/// The service is gone, or was given up by us.
fn closed() -> Error {
    Error::new(
        Code::ERROR_BROKEN_PIPE,
        "the virtual disk service closed the connection",
    )
    .with_hint("open the disk again")
}

/// The service sent something that is no answer.
fn nonsense(what: impl Into<String>) -> Error {
    Error::new(Code::ERROR_INVALID_DATA, what)
}

fn socket_error(errno: Errno) -> Error {
    match errno {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => closed(),
        _ => Error::from_io(
            "the virtual disk service can't be reached",
            io::Error::from(errno),
        ),
    }
}
