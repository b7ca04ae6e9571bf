//! A store in memory: a file that is never slow, never fails and counts what is asked of it.
//!
//! Sparse, so that images of several TiB cost what they hold; the counters let a test require that
//! opening a large image reads little.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use virtdisk_format::Store;

use crate::pages::Pages;

/// What was asked of a [`MemoryStore`] so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `read_exact_at`.
    pub reads: u64,
    /// Bytes that those calls asked for.
    pub bytes_read: u64,
    /// Calls of `write_all_at`.
    pub writes: u64,
    /// Bytes that those calls brought.
    pub bytes_written: u64,
    /// Calls of `flush`.
    pub flushes: u64,
}

/// A file in memory.
#[derive(Default)]
pub struct MemoryStore {
    pages: Mutex<Pages>,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    flushes: AtomicU64,
}

impl MemoryStore {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with these contents.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self::from_pages(Pages::from_bytes(bytes))
    }

    /// A file with these contents, shared until either side writes.
    #[must_use]
    pub fn from_pages(pages: Pages) -> Self {
        Self {
            pages: Mutex::new(pages),
            ..Self::default()
        }
    }

    /// The contents now.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.pages.lock().clone()
    }

    /// The contents now as one vector; for small files.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.pages.lock().to_vec()
    }

    /// Bytes that take up room.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages.lock().allocated()
    }

    /// Overwrites bytes behind the back of whoever uses the store; not counted.
    pub fn poke(&self, buf: &[u8], offset: u64) {
        self.pages.lock().write(buf, offset);
    }

    /// Changes the length behind the back of whoever uses the store.
    pub fn cut(&self, len: u64) {
        self.pages.lock().set_len(len);
    }

    /// What was asked so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            reads: self.reads.load(Ordering::Relaxed),
            bytes_read: self.bytes_read.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            bytes_written: self.bytes_written.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
        }
    }
}

impl Store for MemoryStore {
    fn len(&self) -> io::Result<u64> {
        Ok(self.pages.lock().len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.pages.lock().set_len(len);
        Ok(())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes_read
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        read_pages(&self.pages.lock(), buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.bytes_written
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.pages.lock().write(buf, offset);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut pages = self.pages.lock();
        check_inside(&pages, offset, len)?;
        pages.zero(offset, len);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut pages = self.pages.lock();
        if pages.len() < len {
            pages.set_len(len);
        }
        Ok(())
    }
}

/// Reads as a file would: `UnexpectedEof` where the range ends past the length.
pub(crate) fn read_pages(pages: &Pages, buf: &mut [u8], offset: u64) -> io::Result<()> {
    if pages.read(buf, offset) {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Zeroing stays inside the length, as the trait says.
pub(crate) fn check_inside(pages: &Pages, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= pages.len() => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
