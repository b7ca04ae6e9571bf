//! The block allocation table, read by the page and on demand (2.6).
//!
//! A page's entries are judged when it is loaded: an entry that puts a whole block where it may lie
//! is marked, so that most look-ups need nothing more. All others are judged when they are met, and
//! one that is wrong stops no other. Entries behind those that count are padding and never read.
//!
//! The table is read through a store that shows what the log has and the file has not yet; whoever
//! changes an entry there puts it here afterwards.

use std::sync::Arc;

use super::cache::{Cache, PAGE_BYTES, WORDS};
use super::layout::{
    BAT_ENTRY, FULLY_PRESENT, NOT_PRESENT, OFFSET_BITS, PARTIALLY_PRESENT, RESERVED_BITS,
    STATE_BITS,
};
use super::shape::{Shape, Subject};
use super::territory::Territory;
use crate::error::{Error, Result};
use crate::store::Store;

/// Bytes of an entry, for buffers.
const ENTRY_BYTES: usize = 8;
/// Entries of a page.
const PAGE_ENTRIES: u32 = 512;
/// Bytes read at once when the whole table is gone through.
const STREAM_BYTES: usize = 128 * 1024;
/// Of the reserved bits, here: the entry was judged, and all of its block is in the file.
const WHOLE: u64 = 1 << 3;
/// Of the reserved bits, here: the file has bits among them.
const ODD: u64 = 1 << 4;

/// What the table says of a block or of a chunk's bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry(u64);

impl Entry {
    /// The state, 0 to 7.
    #[inline]
    pub(crate) fn state(self) -> u64 {
        self.0 & STATE_BITS
    }

    /// The file offset in bytes; means something in some states only.
    #[inline]
    pub(crate) fn offset(self) -> u64 {
        self.0 & OFFSET_BITS
    }

    /// Whether it puts a block into the file where it may lie, all of it.
    #[inline]
    pub(crate) fn is_whole(self) -> bool {
        self.0 & WHOLE != 0
    }

    /// Whether reserved bits are set in the file.
    pub(crate) fn is_odd(self) -> bool {
        self.0 & ODD != 0
    }

    /// Whether its state is one that has space: data, all or in part.
    pub(crate) fn has_data(self) -> bool {
        matches!(self.state(), FULLY_PRESENT | PARTIALLY_PRESENT)
    }

    /// An entry as it stands in the file.
    pub(crate) fn of_file(raw: u64) -> Entry {
        if raw & RESERVED_BITS == 0 {
            Entry(raw)
        } else {
            Entry(raw & !WHOLE | ODD)
        }
    }
}

/// The table of one image.
pub(crate) struct Bat {
    tables: Arc<dyn Store>,
    /// File offset of the first entry in bytes, a multiple of 1 MiB.
    offset: u64,
    shape: Shape,
    territory: Arc<Territory>,
    cache: Cache,
}

impl Bat {
    /// A table at `offset`; nothing is read yet. All entries that count are inside its region.
    pub(crate) fn new(
        tables: Arc<dyn Store>,
        offset: u64,
        shape: Shape,
        territory: Arc<Territory>,
    ) -> Bat {
        Bat {
            tables,
            offset,
            shape,
            territory,
            cache: Cache::new(shape.entries().div_ceil(PAGE_ENTRIES).into()),
        }
    }

    /// The sizes of the disk.
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The file offset of an entry in bytes.
    pub(crate) fn offset_of(&self, index: u32) -> u64 {
        self.offset.saturating_add(u64::from(index) * BAT_ENTRY)
    }

    /// An entry that counts.
    #[inline]
    pub(crate) fn look(&self, index: u32) -> Result<Entry> {
        let (page, place) = (index / PAGE_ENTRIES, (index % PAGE_ENTRIES) as usize);
        match self.cache.look(page, place) {
            Some(word) => Ok(Entry(word)),
            None => self.load(page, place),
        }
    }

    #[cold]
    fn load(&self, page: u32, place: usize) -> Result<Entry> {
        let first = page * PAGE_ENTRIES;
        let word = self.cache.load(page, place, |words| {
            let mut bytes = [0; PAGE_BYTES];
            let count = PAGE_ENTRIES.min(self.shape.entries().saturating_sub(first));
            let bytes = &mut bytes[..count as usize * ENTRY_BYTES];
            self.read(bytes, first)?;
            for ((word, raw), index) in words.iter_mut().zip(entries(bytes)).zip(first..) {
                *word = self.judge(index, raw);
            }
            Ok(())
        })?;
        Ok(Entry(word))
    }

    /// An entry as it is kept.
    fn judge(&self, index: u32, raw: u64) -> u64 {
        let Entry(word) = Entry::of_file(raw);
        if word & (STATE_BITS | RESERVED_BITS) != FULLY_PRESENT {
            return word;
        }
        let Subject::Payload(block) = self.shape.subject(index) else {
            return word;
        };
        let room = self
            .territory
            .room(word & OFFSET_BITS, self.shape.block_size);
        match room {
            Some(inside) if inside >= self.shape.visible(block) => word | WHOLE,
            _ => word,
        }
    }

    /// Entries of one page, from `first` on, are what `raws` says: the table has them already, or
    /// the log has. Blocks that they name are inside the territory by now.
    pub(crate) fn put(&self, first: u32, raws: &[u64]) {
        let words: Vec<u64> = (first..)
            .zip(raws)
            .map(|(index, &raw)| self.judge(index, raw))
            .collect();
        let place = (first % PAGE_ENTRIES) as usize;
        self.cache.put(first / PAGE_ENTRIES, place, &words);
    }

    fn read(&self, bytes: &mut [u8], first: u32) -> Result<()> {
        let at = self.offset_of(first);
        self.tables.read_exact_at(bytes, at).map_err(|error| {
            Error::io("VHDX block allocation table", "cannot be read", error).at(at)
        })
    }

    /// The first entry from `first` on that lies in no hole of the file, where all are 0;
    /// `u32::MAX` where none does.
    fn skip_hole(&self, first: u32) -> u32 {
        let at = self.offset_of(first);
        match self.tables.next_data(at) {
            Ok(data) => {
                let skipped = data.saturating_sub(at) / ENTRY_BYTES as u64;
                u32::try_from(u64::from(first) + skipped).unwrap_or(u32::MAX)
            }
            Err(_) => first,
        }
    }

    /// Goes through all entries that are not 0, in order, straight from the tables: number, and
    /// entry as it stands there.
    pub(crate) fn stream(&self, mut visit: impl FnMut(u32, u64) -> Result<()>) -> Result<()> {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        const STEP: u32 = 16 * 1024;
        const _: () = assert!(STEP as usize * ENTRY_BYTES == STREAM_BYTES);
        const _: () = assert!(PAGE_ENTRIES as usize == WORDS);
        let all = self.shape.entries();
        let mut buffer = vec![0; STREAM_BYTES.min(all as usize * ENTRY_BYTES)];
        let mut first = 0;
        while first < all {
            first = self.skip_hole(first);
            if first >= all {
                break;
            }
            let count = STEP.min(all - first);
            let bytes = &mut buffer[..count as usize * ENTRY_BYTES];
            self.read(bytes, first)?;
            for (page, start) in bytes.chunks(PAGE_BYTES).zip((first..).step_by(WORDS)) {
                if *page == ZEROS[..page.len()] {
                    continue;
                }
                for (index, raw) in (start..).zip(entries(page)) {
                    if raw != NOT_PRESENT {
                        visit(index, raw)?;
                    }
                }
            }
            first = first.saturating_add(count);
        }
        Ok(())
    }
}

fn entries(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(ENTRY_BYTES).map(|entry| {
        entry
            .iter()
            .rev()
            .fold(0, |raw, &byte| (raw << 8) | u64::from(byte))
    })
}
