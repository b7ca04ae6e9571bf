//! A differencing image that is no format, to test the joining of layers on.
//!
//! Every sector is the parent's, the image's own, or zero; the table is in memory only. It asserts
//! what a format may expect of the disk floor: no half sectors where bytes are the parent's, and no
//! other I/O beside a trim.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use virtdisk_format::{
    Error, Extent, Extents, Facts, Format, Image, Kind, ParentLink, Physical, Place, Result, Store,
    Ticket, append,
};

use crate::memory::MemoryStore;

/// What a sector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sector {
    Parent,
    Own,
    Zero,
}

/// The image. Clones are the same image, so that a test can look at one that a disk owns.
#[derive(Clone)]
pub struct ChildImage(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    facts: Facts,
    sectors: Mutex<Vec<Sector>>,
    /// Reservations that were not completed; a trim must find none.
    writing: AtomicUsize,
    completed: AtomicU64,
    trimmed: AtomicU64,
}

impl ChildImage {
    /// A child of `size` bytes, all of them its parent's, in sectors and blocks of so many bytes.
    #[must_use]
    pub fn new(size: u64, sector: u32, block: u32) -> Self {
        let store = MemoryStore::new();
        let mut facts = Facts::new(Format::Vhdx, Kind::Differencing, size);
        facts.block_size = block;
        facts.logical_sector_size = sector;
        facts.parent = Some(ParentLink::default());
        let sectors = vec![Sector::Parent; (size / u64::from(sector)) as usize];
        let made = store.set_len(size);
        debug_assert!(made.is_ok());
        Self(Arc::new(Inner {
            store: Arc::new(store),
            facts,
            sectors: Mutex::new(sectors),
            writing: AtomicUsize::new(0),
            completed: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
        }))
    }

    /// The store, for the disk.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.0.store)
    }

    /// How many sectors are the parent's.
    #[must_use]
    pub fn parents_sectors(&self) -> usize {
        let sectors = self.0.sectors.lock();
        sectors
            .iter()
            .filter(|&&sector| sector == Sector::Parent)
            .count()
    }

    /// Bytes given to trims so far.
    #[must_use]
    pub fn trimmed(&self) -> u64 {
        self.0.trimmed.load(Ordering::SeqCst)
    }

    /// Reservations that made sectors the image's own so far.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.0.completed.load(Ordering::SeqCst)
    }

    fn sector(&self) -> u64 {
        u64::from(self.0.facts.logical_sector_size)
    }

    /// The sectors that a range touches.
    fn touched(&self, start: u64, len: u64) -> std::ops::Range<usize> {
        let end = (start + len).div_ceil(self.sector());
        (start / self.sector()) as usize..end as usize
    }

    /// Fails the test if a range has half a sector that is the parent's.
    fn assert_whole(&self, start: u64, len: u64) {
        let sectors = self.0.sectors.lock();
        for edge in [start, start + len] {
            let index = (edge / self.sector()) as usize;
            let half = len > 0 && !edge.is_multiple_of(self.sector());
            assert!(
                !half || sectors[index] != Sector::Parent,
                "half a sector of the parent at {edge}"
            );
        }
    }
}

impl Image for ChildImage {
    fn facts(&self) -> &Facts {
        &self.0.facts
    }

    fn whole(&self) -> Option<u64> {
        None
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        assert!(start + len <= self.0.facts.virtual_size, "range outside");
        let sectors = self.0.sectors.lock();
        for index in self.touched(start, len) {
            let from = start.max(index as u64 * self.sector());
            let to = (start + len).min((index as u64 + 1) * self.sector());
            let place = match sectors[index] {
                Sector::Parent => Place::Parent,
                Sector::Own => Place::Data { file_offset: from },
                Sector::Zero => Place::Zero,
            };
            let extent = Extent {
                start: from,
                len: to - from,
                place,
            };
            append(out, extent);
        }
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        self.assert_whole(start, len);
        if len == 0 {
            return Ok(Ticket::done());
        }
        let mut sectors = self.0.sectors.lock();
        for index in self.touched(start, len) {
            // As a format does it: what is zero gets its space, zeroed, before the data.
            if sectors[index] == Sector::Zero {
                let zeroed = self
                    .0
                    .store
                    .zero(index as u64 * self.sector(), self.sector());
                zeroed.map_err(|error| Error::io("sector", "cannot be zeroed", error))?;
                sectors[index] = Sector::Own;
            }
        }
        let place = Place::Data { file_offset: start };
        append(out, Extent { start, len, place });
        self.0.writing.fetch_add(1, Ordering::SeqCst);
        Ok(Ticket::pending(start, len))
    }

    fn complete(&self, ticket: Ticket) -> Result<()> {
        let Some((start, len)) = ticket.range() else {
            return Ok(());
        };
        let mut sectors = self.0.sectors.lock();
        let touched = &mut sectors[self.touched(start, len)];
        if touched.contains(&Sector::Parent) {
            self.0.completed.fetch_add(1, Ordering::SeqCst);
        }
        touched.fill(Sector::Own);
        self.0.writing.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        assert_eq!(
            self.0.writing.load(Ordering::SeqCst),
            0,
            "a trim beside a write"
        );
        assert!(
            start.is_multiple_of(self.sector()) && len.is_multiple_of(self.sector()),
            "a trim of half a sector: {len} bytes at {start}"
        );
        self.0.trimmed.fetch_add(len, Ordering::SeqCst);
        self.0.sectors.lock()[self.touched(start, len)].fill(Sector::Zero);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let flushed = self.0.store.flush();
        flushed.map_err(|error| Error::io("file", "cannot be flushed", error))
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
