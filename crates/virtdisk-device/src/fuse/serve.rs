//! The serve half: answers the kernel's requests until the file is gone.
//!
//! Needs the connection and the disk, no right and no path. Its threads share one connection
//! descriptor: a request that was read through a clone would die with the clone. One request costs
//! one read, the disk's work, and one write. Each thread owns one buffer of 1 MiB, made at the
//! start.
//!
//! Nothing is answered before it is done, and nothing is kept in memory between requests: the
//! process may be killed at any instant, and its successor is told what was not answered.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, read, write};
use zerocopy::IntoBytes;

use super::answer::{Reply, View, answer};
use super::buffer::MessageBuffer;
use super::served::Served;
use super::wire::{DATA_BYTES, HEAD_BYTES, Malformed, NOTIFY_RESEND, OutHeader, parse};

/// Bytes of a reply's header.
const OUT_BYTES: usize = size_of::<OutHeader>();

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The kernel let go of the file: nothing has it open any more, or it was cut off.
    Unmounted,
}

/// Threads that serve one connection.
pub struct Server {
    ends: Receiver<io::Result<()>>,
}

/// What the threads share.
struct Shared<S> {
    connection: OwnedFd,
    disk: S,
    view: View,
    /// Held until all threads are there; false afterwards when they are to give up.
    begins: Mutex<bool>,
}

/// Tells [`Server::wait`] how a thread ended, even if it panicked.
struct Obituary {
    result: io::Result<()>,
    to: Sender<io::Result<()>>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        // Nobody listens when the server was dropped.
        let _ = self.to.send(result);
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Serves bytes `range.0` to `range.0 + range.1` of `disk` with `threads` threads (two are
    /// right for most; 0 counts as 1).
    ///
    /// `resend` says that another server had this connection: its process must be gone and
    /// reaped. What it had not answered is then done again.
    ///
    /// # Errors
    /// `InvalidInput` for a range outside the disk; EINVAL when the kernel can't send again; what
    /// the kernel says about threads. Nothing was answered then. A file that is gone already is no
    /// error: [`Self::wait`] returns at once.
    pub fn start<S: Served>(
        connection: OwnedFd,
        disk: S,
        range: (u64, u64),
        read_only: bool,
        threads: usize,
        resend: bool,
    ) -> io::Result<Self> {
        let (offset, length) = range;
        if offset
            .checked_add(length)
            .is_none_or(|end| end > disk.size())
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "range outside the disk",
            ));
        }
        let view = View {
            offset,
            length,
            read_only,
        };
        let begins = Mutex::new(false);
        let shared = Arc::new(Shared {
            connection,
            disk,
            view,
            begins,
        });
        let mut begins = shared.begins.lock().unwrap_or_else(PoisonError::into_inner);
        let (to, ends) = mpsc::channel();
        for number in 0..threads.max(1) {
            let (shared, to) = (Arc::clone(&shared), to.clone());
            let mut buffer = MessageBuffer::new(DATA_BYTES);
            let panicked = io::Error::other("a thread that served the disk panicked");
            thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || {
                    let mut obituary = Obituary {
                        result: Err(panicked),
                        to,
                    };
                    obituary.result = shared.run(buffer.with_header(HEAD_BYTES));
                })?;
        }
        if resend {
            let length = const { OUT_BYTES as u32 };
            let notice = OutHeader {
                length,
                error: NOTIFY_RESEND,
                unique: 0,
            };
            write(&shared.connection, notice.as_bytes())?;
        }
        *begins = true;
        drop(begins);
        Ok(Self { ends })
    }

    /// Waits until the file is gone.
    ///
    /// # Errors
    /// As soon as one thread can't go on: what the kernel said, or that it panicked. Requests may
    /// be unanswered then; end the process and let another one take over.
    pub fn wait(self) -> io::Result<Ended> {
        self.ends
            .iter()
            .collect::<io::Result<()>>()
            .map(|()| Ended::Unmounted)
    }
}

impl<S: Served> Shared<S> {
    /// One thread: answers until the connection is dead. The message is a head of [`HEAD_BYTES`]
    /// and the data behind it.
    fn run(&self, message: &mut [u8]) -> io::Result<()> {
        if !*self.begins.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        loop {
            let received = match read(&self.connection, &mut *message) {
                Ok(received) => received,
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(()),
                // NOENT: the request was taken back before it was read whole.
                Err(Errno::INTR | Errno::NOENT) => continue,
                // Somebody who shares the descriptor made it non-blocking.
                Err(Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&self.connection, PollFlags::IN)];
                    match poll(&mut ready, None) {
                        Ok(_) | Err(Errno::INTR) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            };
            let (head, data) = message.split_at_mut(HEAD_BYTES);
            let (unique, reply) = match parse(&head[..received.min(HEAD_BYTES)], received) {
                Ok(request) => (
                    request.unique,
                    answer(&self.disk, &self.view, request.operation, data),
                ),
                Err(Malformed::Body { unique, errno }) => {
                    (unique, Reply::Error(errno.raw_os_error()))
                }
                Err(Malformed::NoHeader) => continue,
            };
            self.send(unique, reply, &mut message[HEAD_BYTES - OUT_BYTES..])?;
        }
    }

    /// Sends a reply: its header goes to the front of `message`, its data is behind that. A
    /// request that nobody waits for any more is no error.
    fn send(&self, unique: u64, reply: Reply, message: &mut [u8]) -> io::Result<()> {
        let (error, body) = match reply {
            Reply::Silence => return Ok(()),
            Reply::Error(errno) => (errno.saturating_neg(), 0),
            Reply::Data(length) => (0, length),
        };
        let whole = message.len().min(OUT_BYTES + body);
        let message = &mut message[..whole];
        let length = u32::try_from(whole).unwrap_or(u32::MAX);
        let header = OutHeader {
            length,
            error,
            unique,
        };
        message[..OUT_BYTES].copy_from_slice(header.as_bytes());
        match write(&self.connection, message) {
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
