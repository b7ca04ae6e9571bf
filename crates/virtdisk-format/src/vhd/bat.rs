//! The block allocation table, read by the page and on demand.
//!
//! A slot holds one 4 KiB page of the table (1,024 entries) and, beside it, a bit per block that is
//! known to be whole: its entry was checked and its sector bitmap is all ones. There are at most
//! 1,024 slots, so that a table of any size costs at most about 4 MiB; a page whose slot is taken
//! replaces the one there. Entries are written through: the file first, then the page.
//!
//! Looking up takes no lock. A slot's stamp names its page and counts its loads; a reader that
//! finds the same stamp before and after has read that page. Whoever changes a slot or the table's
//! bytes holds the slot's turn, so a page is never loaded while its bytes change.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::layout::{ENTRY, UNALLOCATED};
use crate::error::{Error, Result};
use crate::store::Store;

/// Bytes of an entry, for buffers.
const ENTRY_BYTES: usize = 4;
/// Entries of a page.
const PAGE_ENTRIES: u32 = 1024;
/// Most slots there are.
const MOST_SLOTS: u32 = 1024;
/// Bytes read at once when the whole table is gone through.
const STREAM_BYTES: u32 = 128 * 1024;

/// What the table says of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The sector of its bitmap, or [`UNALLOCATED`].
    pub(crate) sector: u32,
    /// Checked, and the bitmap is all ones.
    pub(crate) whole: bool,
}

/// The table of one image.
pub(crate) struct Bat {
    store: Arc<dyn Store>,
    /// File offset of the first entry in bytes.
    offset: u64,
    /// Entries that are used, one per block of the disk.
    blocks: u32,
    slots: Box<[OnceLock<Box<Slot>>]>,
}

struct Slot {
    /// Loads so far in the upper half, page number + 1 in the lower; 0 there means no page.
    stamp: AtomicU64,
    entries: [AtomicU32; PAGE_ENTRIES as usize],
    whole: [AtomicU32; PAGE_ENTRIES as usize / 32],
    /// Held by whoever loads a page or changes the table's bytes.
    turn: Mutex<()>,
}

impl Slot {
    fn empty() -> Box<Slot> {
        Box::new(Slot {
            stamp: AtomicU64::new(0),
            entries: std::array::from_fn(|_| AtomicU32::new(UNALLOCATED)),
            whole: std::array::from_fn(|_| AtomicU32::new(0)),
            turn: Mutex::new(()),
        })
    }

    fn holds(stamp: u64, page: u32) -> bool {
        stamp & u64::from(u32::MAX) == u64::from(page) + 1
    }

    /// The entry, if this page is here and stays while it is read.
    #[inline]
    fn look(&self, page: u32, index: u32) -> Option<Entry> {
        let stamp = self.stamp.load(Ordering::Acquire);
        if !Slot::holds(stamp, page) {
            return None;
        }
        let entry = self.entry(index);
        fence(Ordering::Acquire);
        (self.stamp.load(Ordering::Relaxed) == stamp).then_some(entry)
    }

    /// The bit comes first: who sees it set also sees the entry that it is about.
    #[inline]
    fn entry(&self, index: u32) -> Entry {
        let bits = self.whole[index as usize / 32].load(Ordering::Acquire);
        let sector = self.entries[index as usize].load(Ordering::Acquire);
        Entry {
            sector,
            whole: bits >> (index % 32) & 1 == 1,
        }
    }

    /// Puts an entry; the caller has the turn and knows that the page is here.
    fn put(&self, index: u32, entry: Entry) {
        let (word, bit) = (&self.whole[index as usize / 32], 1 << (index % 32));
        if !entry.whole {
            word.fetch_and(!bit, Ordering::Release);
        }
        self.entries[index as usize].store(entry.sector, Ordering::Release);
        if entry.whole {
            word.fetch_or(bit, Ordering::Release);
        }
    }
}

impl Bat {
    /// A table of `blocks` entries at `offset`; nothing is read yet. At least one block.
    pub(crate) fn new(store: Arc<dyn Store>, offset: u64, blocks: u32) -> Bat {
        let slots = blocks.div_ceil(PAGE_ENTRIES).clamp(1, MOST_SLOTS);
        Bat {
            store,
            offset,
            blocks,
            slots: (0..slots).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Entries of the table that count.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// The file offset of a block's entry in bytes.
    pub(crate) fn offset_of(&self, block: u32) -> u64 {
        self.offset.saturating_add(u64::from(block) * ENTRY)
    }

    fn slot_of(&self, page: u32) -> &OnceLock<Box<Slot>> {
        &self.slots[page as usize % self.slots.len()]
    }

    /// What the table says of a block of the disk.
    #[inline]
    pub(crate) fn look(&self, block: u32) -> Result<Entry> {
        let (page, index) = (block / PAGE_ENTRIES, block % PAGE_ENTRIES);
        match self
            .slot_of(page)
            .get()
            .and_then(|slot| slot.look(page, index))
        {
            Some(entry) => Ok(entry),
            None => self.load(page, index),
        }
    }

    /// Loads the page into its slot and answers one of its entries.
    #[cold]
    fn load(&self, page: u32, index: u32) -> Result<Entry> {
        let slot = self.slot_of(page).get_or_init(Slot::empty);
        let _turn = slot.turn.lock();
        let stamp = slot.stamp.load(Ordering::Relaxed);
        if Slot::holds(stamp, page) {
            return Ok(slot.entry(index));
        }
        let first = page * PAGE_ENTRIES;
        let mut bytes = [0; PAGE_ENTRIES as usize * ENTRY_BYTES];
        let count = PAGE_ENTRIES.min(self.blocks.saturating_sub(first));
        let bytes = &mut bytes[..count as usize * ENTRY_BYTES];
        self.read(bytes, first)?;
        let loads = (stamp >> 32).wrapping_add(1) << 32;
        slot.stamp.store(loads, Ordering::Relaxed);
        fence(Ordering::Release);
        for (entry, sector) in slot.entries.iter().zip(sectors(bytes)) {
            entry.store(sector, Ordering::Relaxed);
        }
        for word in &slot.whole {
            word.store(0, Ordering::Relaxed);
        }
        slot.stamp
            .store(loads | (u64::from(page) + 1), Ordering::Release);
        Ok(slot.entry(index))
    }

    fn read(&self, bytes: &mut [u8], first: u32) -> Result<()> {
        let at = self.offset_of(first);
        self.store.read_exact_at(bytes, at).map_err(|error| {
            Error::io("VHD block allocation table", "cannot be read", error).at(at)
        })
    }

    /// Notes that a block was found whole, if its entry is still `sector`.
    pub(crate) fn mark_whole(&self, block: u32, sector: u32) {
        let (page, index) = (block / PAGE_ENTRIES, block % PAGE_ENTRIES);
        if let Some(slot) = self.slot_of(page).get() {
            let _turn = slot.turn.lock();
            if Slot::holds(slot.stamp.load(Ordering::Relaxed), page)
                && slot.entry(index).sector == sector
            {
                slot.put(
                    index,
                    Entry {
                        sector,
                        whole: true,
                    },
                );
            }
        }
    }

    /// Gives `block` its space: in the file, then here. Not durable until the next flush. After an
    /// error the file may have either entry.
    pub(crate) fn assign(&self, block: u32, entry: Entry) -> Result<()> {
        self.write(block, &entry.sector.to_be_bytes(), entry)
    }

    /// Takes the space of `count` blocks of one page away, as [`Bat::assign`] gives it.
    pub(crate) fn release(&self, first: u32, count: u32) -> Result<()> {
        let bytes = vec![0xFF; count as usize * ENTRY_BYTES];
        self.write(
            first,
            &bytes,
            Entry {
                sector: UNALLOCATED,
                whole: false,
            },
        )
    }

    /// Writes entries of one page, all the same, to the file and into the page if it is here.
    fn write(&self, first: u32, bytes: &[u8], entry: Entry) -> Result<()> {
        let (page, index) = (first / PAGE_ENTRIES, first % PAGE_ENTRIES);
        let slot = self.slot_of(page).get_or_init(Slot::empty);
        let _turn = slot.turn.lock();
        let at = self.offset_of(first);
        self.store.write_all_at(bytes, at).map_err(|error| {
            Error::io("VHD block allocation table", "cannot be written", error).at(at)
        })?;
        if Slot::holds(slot.stamp.load(Ordering::Relaxed), page) {
            for (index, _) in (index..).zip(bytes.chunks_exact(ENTRY_BYTES)) {
                slot.put(index, entry);
            }
        }
        Ok(())
    }

    /// The last block of the page that `block` is in.
    pub(crate) fn last_of_page(&self, block: u32) -> u32 {
        (block | (PAGE_ENTRIES - 1)).min(self.blocks.saturating_sub(1))
    }

    /// Goes through all allocated blocks in order, straight from the file: block and sector.
    pub(crate) fn stream(&self, mut visit: impl FnMut(u32, u32) -> Result<()>) -> Result<()> {
        let step = STREAM_BYTES / 4;
        let mut buffer = vec![0; STREAM_BYTES.min(self.blocks.saturating_mul(4)) as usize];
        let mut first = 0;
        while first < self.blocks {
            let count = step.min(self.blocks - first);
            let bytes = &mut buffer[..count as usize * ENTRY_BYTES];
            self.read(bytes, first)?;
            for (block, sector) in (first..).zip(sectors(bytes)) {
                if sector != UNALLOCATED {
                    visit(block, sector)?;
                }
            }
            first = first.saturating_add(count);
        }
        Ok(())
    }
}

fn sectors(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(ENTRY_BYTES).map(|entry| {
        entry
            .iter()
            .fold(0, |sector, &byte| (sector << 8) | u32::from(byte))
    })
}
