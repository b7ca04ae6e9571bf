//! One piece of long work as others see it: how far it is, and the word to stop.
//!
//! May be shared by any number of threads. Promises: a job that is told to stop ends at its next
//! piece, a megabyte or so later, as [`Stopped::Cancelled`]; what it was making is then unfinished
//! and belongs to nobody.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::Error;

/// Progress and cancellation of one piece of work.
#[derive(Debug, Default)]
pub struct Job {
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
}

/// How far a job is, in bytes of the virtual disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are done.
    pub done: u64,
    /// All bytes; 0 until the work has begun.
    pub total: u64,
}

/// Why a job ended before its work was done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Stopped {
    /// It was told to.
    Cancelled,
    /// A disk failed.
    Disk(Error),
    /// The stream that the work writes to failed.
    Stream(io::Error),
}

impl Job {
    /// A job that has not begun.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            done: self.done.load(Ordering::Relaxed),
            total: self.total.load(Ordering::Relaxed),
        }
    }

    /// Tells it to stop. A job that has ended does not mind.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The work begins: so many bytes are to be done.
    pub(super) fn begin(&self, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    /// So many more bytes are done; an error if that is to be all.
    pub(super) fn advance(&self, len: u64) -> Result<(), Stopped> {
        self.done.fetch_add(len, Ordering::Relaxed);
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Stopped::Cancelled);
        }
        Ok(())
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Disk(error)
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => write!(f, "the work was cancelled"),
            Self::Disk(error) => error.fmt(f),
            Self::Stream(_) => write!(f, "the stream cannot be written"),
        }
    }
}

impl std::error::Error for Stopped {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Cancelled => None,
            // The disk's error is already in the text; its own source is not.
            Self::Disk(error) => error.source(),
            Self::Stream(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_job_ends_at_its_next_piece() {
        let job = Job::new();
        job.begin(100);
        assert!(job.advance(10).is_ok());
        assert_eq!(
            job.progress(),
            Progress {
                done: 10,
                total: 100
            }
        );
        job.cancel();
        assert!(matches!(job.advance(10), Err(Stopped::Cancelled)));
    }
}
