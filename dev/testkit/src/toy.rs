//! Images that are no format: a disk to test a transport or a table reader on.
//!
//! [`flat_disk`] is one run of bytes in memory. [`BlockImage`] allocates blocks like a dynamic
//! format, keeps its table in memory only, and can be told to fail, so that the disk floor's own
//! rules (gate, ranges, errors) can be tested without any format's. What has a parent stands in
//! `toy_child.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use virtdisk_disk::Disk;
use virtdisk_format::{
    Error, ErrorKind, Extent, Extents, Facts, Format, Image, Kind, Physical, Place, Result, Store,
    Ticket, append,
};

use crate::memory::MemoryStore;
use crate::pages::Pages;

/// A writable raw disk in memory with these contents.
#[must_use]
pub fn flat_disk(contents: Pages) -> Disk {
    let size = contents.len();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(contents));
    let image = FlatImage::new(Arc::clone(&store), 0, size);
    Disk::over(Box::new(image), store, "flat disk")
}

/// One run of a store.
pub struct FlatImage {
    store: Arc<dyn Store>,
    offset: u64,
    facts: Facts,
}

impl FlatImage {
    /// The `size` bytes of `store` from `offset` on, as a raw disk.
    pub fn new(store: Arc<dyn Store>, offset: u64, size: u64) -> Self {
        Self {
            store,
            offset,
            facts: Facts::new(Format::Raw, Kind::Fixed, size),
        }
    }

    /// The facts, to make them say something else before the disk is built.
    pub fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

impl Image for FlatImage {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn whole(&self) -> Option<u64> {
        Some(self.offset)
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        append(
            out,
            Extent {
                start,
                len,
                place: Place::Data {
                    file_offset: self.offset + start,
                },
            },
        );
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        self.map(start, len, out)?;
        Ok(Ticket::done())
    }

    fn complete(&self, _ticket: Ticket) -> Result<()> {
        Ok(())
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        let zeroed = self.store.zero(self.offset + start, len);
        zeroed.map_err(|error| Error::io("data", "cannot be zeroed", error))
    }

    fn flush(&self) -> Result<()> {
        self.store
            .flush()
            .map_err(|error| Error::io("file", "cannot be flushed", error))
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn physical(&self) -> Result<Physical> {
        Ok(Physical::default())
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}

/// Blocks that get space at their first write; their table lives in memory.
pub struct BlockImage {
    store: Arc<dyn Store>,
    facts: Facts,
    block: u64,
    table: Mutex<Vec<Option<u64>>>,
    /// Reservations that were not completed; a trim must find none.
    writing: AtomicUsize,
    trims: AtomicU64,
    refuse_writes: AtomicBool,
}

impl BlockImage {
    /// A disk of `size` bytes in blocks of `block` bytes, all of them unallocated.
    pub fn new(store: Arc<dyn Store>, size: u64, block: u32) -> Self {
        let mut facts = Facts::new(Format::Vhd, Kind::Dynamic, size);
        facts.block_size = block;
        let block = u64::from(block);
        let blocks = usize::try_from(size.div_ceil(block)).unwrap_or(0);
        Self {
            store,
            facts,
            block,
            table: Mutex::new(vec![None; blocks]),
            writing: AtomicUsize::new(0),
            trims: AtomicU64::new(0),
            refuse_writes: AtomicBool::new(false),
        }
    }

    /// The disk over such an image and a memory store, and the image itself to look at.
    #[must_use]
    pub fn disk(size: u64, block: u32) -> (Disk, Arc<Self>) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let image = Arc::new(Self::new(Arc::clone(&store), size, block));
        (
            Disk::over(Box::new(Shared(Arc::clone(&image))), store, "block disk"),
            image,
        )
    }

    /// From now on every reservation is refused, as after a failed metadata write.
    pub fn refuse_writes(&self) {
        self.refuse_writes.store(true, Ordering::SeqCst);
    }

    /// Trims that reached the image.
    pub fn trims(&self) -> u64 {
        self.trims.load(Ordering::SeqCst)
    }

    fn pieces(&self, start: u64, len: u64) -> impl Iterator<Item = (usize, u64, u64, u64)> {
        let (block, end) = (self.block, start + len);
        let mut position = start;
        std::iter::from_fn(move || {
            if position >= end {
                return None;
            }
            let (index, within) = (position / block, position % block);
            let part = (block - within).min(end - position);
            let piece = (index as usize, position, within, part);
            position += part;
            Some(piece)
        })
    }
}

/// The image as a disk owns it, while the test keeps looking at it.
struct Shared(Arc<BlockImage>);

impl Image for Shared {
    fn facts(&self) -> &Facts {
        &self.0.facts
    }

    fn whole(&self) -> Option<u64> {
        None
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        let table = self.0.table.lock();
        for (index, start, within, len) in self.0.pieces(start, len) {
            let place = match table[index] {
                Some(offset) => Place::Data {
                    file_offset: offset + within,
                },
                None => Place::Zero,
            };
            append(out, Extent { start, len, place });
        }
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        if self.0.refuse_writes.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::WritesRefused,
                "image",
                "refuses writes",
            ));
        }
        let mut table = self.0.table.lock();
        for (index, ..) in self.0.pieces(start, len) {
            if table[index].is_none() {
                let io = |error| Error::io("block", "cannot be added", error);
                let end = self.0.store.len().map_err(io)?;
                self.0.store.set_len(end + self.0.block).map_err(io)?;
                table[index] = Some(end);
            }
        }
        drop(table);
        self.map(start, len, out)?;
        self.0.writing.fetch_add(1, Ordering::SeqCst);
        Ok(Ticket::done())
    }

    fn complete(&self, _ticket: Ticket) -> Result<()> {
        self.0.writing.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        assert_eq!(
            self.0.writing.load(Ordering::SeqCst),
            0,
            "a trim beside a write"
        );
        self.0.trims.fetch_add(1, Ordering::SeqCst);
        let mut table = self.0.table.lock();
        for (index, _, within, part) in self.0.pieces(start, len) {
            let Some(offset) = table[index] else { continue };
            if part == self.0.block {
                table[index] = None;
            } else {
                let zeroed = self.0.store.zero(offset + within, part);
                zeroed.map_err(|error| Error::io("data", "cannot be zeroed", error))?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.0
            .store
            .flush()
            .map_err(|error| Error::io("file", "cannot be flushed", error))
    }

    fn validate(&self) -> Result<()> {
        Ok(())
    }

    fn physical(&self) -> Result<Physical> {
        let blocks = self
            .0
            .table
            .lock()
            .iter()
            .filter(|block| block.is_some())
            .count();
        Ok(Physical {
            blocks_allocated: blocks as u64,
            ..Physical::default()
        })
    }

    fn close(&self) -> Result<()> {
        self.flush()
    }
}
