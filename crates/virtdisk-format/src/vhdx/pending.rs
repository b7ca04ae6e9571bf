//! Metadata that is in the log and not yet in its place.
//!
//! A change of a table goes to the log first and to its place only when the log is durable.
//! Between the two the page, 4 KiB as a data descriptor carries it, is kept here, and everybody who
//! reads tables reads through [`Tables`]: the file, with these pages over it. After a kill the log
//! says the same as the pages did, for an entry is in the file before its pages are here.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::RwLock;

use super::layout::LOG_SECTOR;
use crate::error::{Error, Result};
use crate::store::Store;

/// Bytes of a page, for buffers.
pub(crate) const PAGE_BYTES: usize = 4096;
/// What a data descriptor carries.
pub(crate) type Page = Box<[u8; PAGE_BYTES]>;

struct Kept {
    /// The last log entry that has the page.
    sequence: u64,
    bytes: Page,
}

/// The file as its tables are to be read.
pub(crate) struct Tables {
    file: Arc<dyn Store>,
    /// By file offset. A reader holds the lock while it reads the file, whoever puts a page into
    /// the file holds it while the page goes: so no reader misses both.
    pending: RwLock<BTreeMap<u64, Kept>>,
}

impl Tables {
    /// A file without pending pages.
    pub(crate) fn new(file: Arc<dyn Store>) -> Tables {
        Tables {
            file,
            pending: RwLock::default(),
        }
    }

    /// The page at `offset`, a multiple of its size.
    pub(crate) fn page(&self, offset: u64) -> Result<Page> {
        let mut page = Box::new([0; PAGE_BYTES]);
        self.read_exact_at(&mut *page, offset)
            .map_err(|error| Error::io("VHDX table", "cannot be read", error).at(offset))?;
        Ok(page)
    }

    /// Keeps pages that the entry `sequence` has.
    pub(crate) fn keep(&self, sequence: u64, pages: Vec<(u64, Page)>) {
        let mut pending = self.pending.write();
        for (offset, bytes) in pages {
            pending.insert(offset, Kept { sequence, bytes });
        }
    }

    /// Puts the pages of entries up to `sequence` in their places, except those that a later entry
    /// has too.
    pub(crate) fn apply(&self, sequence: u64) -> Result<()> {
        let due: Vec<u64> = self
            .pending
            .read()
            .iter()
            .filter(|(_, kept)| kept.sequence <= sequence)
            .map(|(&offset, _)| offset)
            .collect();
        for offset in due {
            let mut pending = self.pending.write();
            if let Some(kept) = pending
                .get(&offset)
                .filter(|kept| kept.sequence <= sequence)
            {
                self.file
                    .write_all_at(&*kept.bytes, offset)
                    .map_err(|error| {
                        Error::io("VHDX table", "cannot be written", error).at(offset)
                    })?;
                pending.remove(&offset);
            }
        }
        Ok(())
    }
}

impl Store for Tables {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let pending = self.pending.read();
        self.file.read_exact_at(buf, offset)?;
        let end = offset.saturating_add(buf.len() as u64);
        let from = offset.saturating_sub(LOG_SECTOR - 1);
        for (&at, kept) in pending.range(from..end) {
            // Where page and buffer meet, as seen from each.
            let within = usize::try_from(offset.saturating_sub(at)).unwrap_or(PAGE_BYTES);
            let start = usize::try_from(at.saturating_sub(offset)).unwrap_or(buf.len());
            let part = kept.bytes.get(within..).unwrap_or_default();
            let target = buf.get_mut(start..).unwrap_or_default();
            let len = part.len().min(target.len());
            target[..len].copy_from_slice(&part[..len]);
        }
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.zero(offset, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn next_data(&self, from: u64) -> io::Result<u64> {
        let pending = self.pending.read();
        if pending.is_empty() {
            self.file.next_data(from)
        } else {
            Ok(from)
        }
    }
}
