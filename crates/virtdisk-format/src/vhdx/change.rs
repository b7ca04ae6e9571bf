//! A change of several places in the tables that comes into effect as a whole.
//!
//! It holds the pages, 4 KiB each, as they are to be, begun from what the tables say; the writer
//! puts all of them into one log entry. Afterwards the caches of the tables are told.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::bitmap::Bitmap;
use super::layout::LOG_SECTOR;
use super::pending::{PAGE_BYTES, Page, Tables};
use crate::error::Result;

/// Bits of a page.
const PAGE_BITS: u64 = LOG_SECTOR * 8;

/// Pages of tables with changes in them, all of which come into effect together.
pub(crate) struct Change<'a> {
    tables: &'a Tables,
    /// By file offset.
    pages: BTreeMap<u64, Page>,
    /// Which of them are of a bitmap: the chunk, and the page's first bit.
    bitmaps: BTreeMap<u64, (u32, u64)>,
    /// Entries of the table: number and content.
    entries: Vec<(u32, u64)>,
}

/// What the caches of tables are to learn of a change.
pub(crate) struct News {
    pub(crate) entries: Vec<(u32, u64)>,
    /// Chunk, first bit, words from there on.
    pub(crate) bitmaps: Vec<(u32, u64, Vec<u64>)>,
}

impl<'a> Change<'a> {
    /// No change yet.
    pub(crate) fn new(tables: &'a Tables) -> Change<'a> {
        Change {
            tables,
            pages: BTreeMap::new(),
            bitmaps: BTreeMap::new(),
            entries: Vec::new(),
        }
    }

    /// How many pages are changed.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// What the caches are to learn.
    pub(crate) fn news(&self) -> News {
        let words = |at: &u64| {
            let bytes = self.pages.get(at).map(|page| page.chunks_exact(8));
            let word = |bytes: &[u8]| {
                let number = |word, &byte: &u8| (word << 8) | u64::from(byte);
                bytes.iter().rev().fold(0, number)
            };
            bytes.into_iter().flatten().map(word).collect()
        };
        let bitmaps = self.bitmaps.iter();
        News {
            entries: self.entries.clone(),
            bitmaps: bitmaps
                .map(|(at, &(chunk, bit))| (chunk, bit, words(at)))
                .collect(),
        }
    }

    /// The pages, for the log.
    pub(crate) fn into_pages(self) -> Vec<(u64, Page)> {
        self.pages.into_iter().collect()
    }

    /// Puts an entry of the table, which is at byte `offset` of the file.
    pub(crate) fn put_entry(&mut self, index: u32, offset: u64, entry: u64) -> Result<()> {
        let (page, within) = self.page(offset)?;
        page[within..within + 8].copy_from_slice(&entry.to_le_bytes());
        self.entries.push((index, entry));
        Ok(())
    }

    /// Sets or clears the bits from `from` to `to` of a bitmap.
    pub(crate) fn put_bits(&mut self, bitmap: Bitmap, from: u64, to: u64, set: bool) -> Result<()> {
        let mut bit = from;
        while bit < to {
            let offset = bitmap.offset + bit / 8;
            let first = bit / PAGE_BITS * PAGE_BITS;
            self.bitmaps
                .insert(offset / LOG_SECTOR * LOG_SECTOR, (bitmap.chunk, first));
            let (page, within) = self.page(offset)?;
            let byte = &mut page[within];
            if bit.is_multiple_of(8) && to - bit >= 8 {
                *byte = if set { 0xFF } else { 0 };
                bit += 8;
            } else {
                let mask = 1 << (bit % 8);
                *byte = if set { *byte | mask } else { *byte & !mask };
                bit += 1;
            }
        }
        Ok(())
    }

    /// Whether the bits from `from` to `to` of a bitmap are all set, with this change.
    pub(crate) fn all_set(&self, bitmap: Bitmap, from: u64, to: u64) -> Result<bool> {
        let mut bit = from;
        let mut kept: Option<(u64, Page)> = None;
        while bit < to {
            let offset = bitmap.offset + bit / 8;
            let within = offset % LOG_SECTOR;
            let at = offset - within;
            let page = match (self.pages.get(&at), &kept) {
                (Some(page), _) => page,
                (None, Some((place, page))) if *place == at => page,
                (None, _) => &kept.insert((at, self.tables.page(at)?)).1,
            };
            let byte = page[usize::try_from(within).unwrap_or(0)];
            let whole = bit.is_multiple_of(8) && to - bit >= 8;
            if whole && byte == 0xFF {
                bit += 8;
            } else if byte >> (bit % 8) & 1 == 1 {
                bit += 1;
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The page of byte `offset`, and where in it that is.
    fn page(&mut self, offset: u64) -> Result<(&mut [u8; PAGE_BYTES], usize)> {
        let within = offset % LOG_SECTOR;
        let at = offset - within;
        let page = match self.pages.entry(at) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(place) => place.insert(self.tables.page(at)?),
        };
        Ok((page, usize::try_from(within).unwrap_or(0)))
    }
}
