//! A store that keeps what it overwrites: every old byte is handed out before its place changes.
//!
//! Repair works through one, so that everything it does can be undone. Whoever takes the old bytes
//! makes them durable before it answers; where it fails nothing is written. Growth has no old bytes
//! and is told with none: who undoes knows the old length.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::Store;

/// Takes an offset and the bytes that stand there, none where the file is made longer, and keeps
/// them durably.
pub type Undo = Box<dyn FnMut(u64, &[u8]) -> io::Result<()> + Send>;

/// Most bytes that are kept in all; more is no repair.
const MOST_KEPT: u64 = 1 << 30;
/// Bytes that are kept at once.
const PIECE: u64 = 256 << 10;

/// The store.
pub(crate) struct Recorder {
    store: Arc<dyn Store>,
    kept: Mutex<Kept>,
}

struct Kept {
    undo: Undo,
    left: u64,
}

impl Recorder {
    pub(crate) fn new(store: Arc<dyn Store>, undo: Undo) -> Recorder {
        let left = MOST_KEPT;
        Recorder {
            store,
            kept: Mutex::new(Kept { undo, left }),
        }
    }

    /// Keeps what stands in the part of the range that is inside the file.
    fn keep(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut kept = self.kept.lock();
        let end = offset.saturating_add(len).min(self.store.len()?);
        let mut at = offset;
        if at >= end {
            return (kept.undo)(at, &[]);
        }
        while at < end {
            let piece = PIECE.min(end - at);
            kept.left = kept.left.checked_sub(piece).ok_or_else(|| {
                let message = "a repair that changes more than 1 GiB is not done";
                io::Error::new(io::ErrorKind::Unsupported, message)
            })?;
            let mut old = vec![0; usize::try_from(piece).unwrap_or(0)];
            self.store.read_exact_at(&mut old, at)?;
            (kept.undo)(at, &old)?;
            at += piece;
        }
        Ok(())
    }
}

impl Store for Recorder {
    fn len(&self) -> io::Result<u64> {
        self.store.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.keep(len, u64::MAX)?;
        self.store.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.store.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.keep(offset, buf.len() as u64)?;
        self.store.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.store.flush()
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let (mut at, end) = (offset, offset.saturating_add(len));
        self.keep(at, 0)?;
        // What is a hole reads zeros before and after.
        while at < end {
            at = self.store.next_data(at)?.max(at);
            let piece = PIECE.min(end.saturating_sub(at));
            self.keep(at, piece)?;
            at = at.saturating_add(piece.max(1));
        }
        self.store.zero(offset, len)
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        self.store.next_data(from)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.keep(len, 0)?;
        self.store.allocate(len)
    }
}
