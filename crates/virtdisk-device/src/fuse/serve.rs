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
use rustix::time::Timespec;
use zerocopy::IntoBytes;

use super::answer::{Reply, View, answer};
use super::buffer::MessageBuffer;
use super::crew::{Crew, Lookout};
use super::processors::keep_to_share;
use super::served::Served;
use super::wire::{DATA_BYTES, HEAD_BYTES, Malformed, NOTIFY_RESEND, Operation, OutHeader, parse};

/// Bytes of a reply's header.
const OUT_BYTES: usize = size_of::<OutHeader>();

/// Up to here moving data is quick, when the disk is, bytes.
const QUICK_BYTES: u32 = 64 * 1024;

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
    crew: Crew,
    /// Held until all threads are there; false afterwards when they are to give up.
    begins: Mutex<bool>,
}

/// Tells [`Server::wait`] and the other threads that a thread ended, even if it panicked.
struct Obituary<S> {
    shared: Arc<Shared<S>>,
    result: io::Result<()>,
    to: Sender<io::Result<()>>,
}

impl<S> Drop for Obituary<S> {
    fn drop(&mut self) {
        self.shared.crew.finish();
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
            crew: Crew::new(),
            begins,
        });
        let mut begins = shared.begins.lock().unwrap_or_else(PoisonError::into_inner);
        let (to, ends) = mpsc::channel();
        let threads = threads.max(1);
        for number in 0..threads {
            let mut buffer = MessageBuffer::new(DATA_BYTES);
            let obituary = Obituary {
                shared: Arc::clone(&shared),
                result: Err(io::Error::other("a thread that served the disk panicked")),
                to: to.clone(),
            };
            thread::Builder::new()
                .name(format!("serve-{number}"))
                .spawn(move || {
                    let mut obituary = obituary;
                    let message = buffer.with_header(HEAD_BYTES);
                    keep_to_share(number, threads);
                    obituary.result = obituary.shared.run(number, message);
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
    /// Thread `number`: answers until the connection is dead. The message is a head of
    /// [`HEAD_BYTES`] and the data behind it.
    fn run(&self, number: usize, message: &mut [u8]) -> io::Result<()> {
        if !*self.begins.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        let lead = number == 0;
        let mut lookout = Lookout::default();
        while let Some(received) = self.take(message)? {
            let (head, data) = message.split_at_mut(HEAD_BYTES);
            let request = parse(&head[..received.min(HEAD_BYTES)], received);
            let begun = self
                .crew
                .begin(request.is_ok_and(|r| is_lengthy(r.operation)));
            let (unique, reply) = match request {
                Ok(request) => (
                    request.unique,
                    answer(&self.disk, &self.view, request.operation, data),
                ),
                Err(Malformed::Body { unique, errno }) => {
                    (unique, Reply::Error(errno.raw_os_error()))
                }
                Err(Malformed::NoHeader) => (0, Reply::Silence),
            };
            self.send(unique, reply, &mut message[HEAD_BYTES - OUT_BYTES..])?;
            self.crew.end(&begun);
            if lead {
                self.crew.look_out(&mut lookout, || self.is_ready());
            } else {
                self.crew.rest();
            }
        }
        Ok(())
    }

    /// Waits for a message and answers its length; `None` when the connection is dead.
    fn take(&self, message: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match read(&self.connection, &mut *message) {
                Ok(received) => return Ok(Some(received)),
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(None),
                // NOENT: the request was taken back before it was read whole.
                Err(Errno::INTR | Errno::NOENT) => {}
                // Somebody who shares the descriptor made it non-blocking.
                Err(Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&self.connection, PollFlags::IN)];
                    match poll(&mut ready, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Is there a message, or the end of the connection, to be read without waiting?
    fn is_ready(&self) -> bool {
        let mut ready = [PollFd::new(&self.connection, PollFlags::IN)];
        !matches!(
            poll(
                &mut ready,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            ),
            Ok(0)
        )
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

/// May the operation take long, whatever state the disk is in? Others should be there meanwhile.
fn is_lengthy(operation: Operation) -> bool {
    match operation {
        Operation::Read { size, .. } | Operation::Write { size, .. } => size > QUICK_BYTES,
        Operation::Fsync | Operation::Allocate { .. } | Operation::Seek { .. } => true,
        _ => false,
    }
}
