//! A socket that does not let one message grow without bound.
//!
//! The Varlink library grows its buffer until a message ends. Here a connection whose message
//! passes the limit, or that sends more descriptors than any call takes, is ended instead.

use std::os::fd::{AsFd, BorrowedFd};
use virtdisk::frame::MESSAGE_LIMIT_BYTES;
use zlink::connection::socket::{ReadHalf, ReadResult, Socket, UnixSocket};

/// Most descriptors that a connection may have sent beside one message.
const FD_LIMIT: usize = 8;

/// A socket with a limit on what it reads.
#[derive(Debug)]
pub struct Limited<S>(S);

impl<S> Limited<S> {
    /// Puts the limit on a socket.
    pub fn new(socket: S) -> Self {
        Self(socket)
    }
}

impl<S: Socket> Socket for Limited<S> {
    type ReadHalf = LimitedRead<S::ReadHalf>;
    type WriteHalf = S::WriteHalf;

    const CAN_TRANSFER_FDS: bool = S::CAN_TRANSFER_FDS;

    fn split(self) -> (Self::ReadHalf, Self::WriteHalf) {
        let (read, write) = self.0.split();
        (
            LimitedRead {
                read,
                count: Count::default(),
            },
            write,
        )
    }
}

/// The reading half.
#[derive(Debug)]
pub struct LimitedRead<R> {
    read: R,
    count: Count,
}

/// What has come since the last end of a message.
#[derive(Debug, Default)]
struct Count {
    bytes: usize,
    fds: usize,
}

impl Count {
    /// Counts a piece; false when the message has grown too long.
    fn add(&mut self, piece: &[u8], fds: usize) -> bool {
        self.fds += fds;
        match piece.iter().rposition(|byte| *byte == 0) {
            Some(end) => {
                let longest = self.bytes + piece.iter().position(|b| *b == 0).unwrap_or(end);
                let fits = longest <= MESSAGE_LIMIT_BYTES && self.fds <= FD_LIMIT;
                self.bytes = piece.len() - end - 1;
                self.fds = 0;
                fits
            }
            None => {
                self.bytes += piece.len();
                self.bytes <= MESSAGE_LIMIT_BYTES && self.fds <= FD_LIMIT
            }
        }
    }
}

impl<R: ReadHalf> ReadHalf for LimitedRead<R> {
    async fn read(&mut self, buf: &mut [u8]) -> zlink::Result<ReadResult> {
        let result = self.read.read(buf).await?;
        let got = result.bytes_read();
        if self.count.add(&buf[..got], result.fds().len()) {
            Ok(result)
        } else {
            tracing::warn!("a client's message is too long; its connection ends");
            Err(std::io::Error::from(std::io::ErrorKind::InvalidData).into())
        }
    }
}

impl<R: AsFd> AsFd for LimitedRead<R> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }
}

impl<R: ReadHalf + UnixSocket> UnixSocket for LimitedRead<R> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_up_to_the_limit_pass_and_longer_ones_do_not() {
        let mut count = Count::default();
        assert!(count.add(&vec![b'x'; MESSAGE_LIMIT_BYTES], 1));
        assert!(count.add(b"\0rest", 0));
        assert_eq!(count.bytes, 4);
        assert!(!count.add(&vec![b'x'; MESSAGE_LIMIT_BYTES], 0));
    }

    #[test]
    fn descriptors_without_messages_add_up() {
        let mut count = Count::default();
        assert!(count.add(b"x", FD_LIMIT));
        assert!(!count.add(b"x", 1));
    }
}
