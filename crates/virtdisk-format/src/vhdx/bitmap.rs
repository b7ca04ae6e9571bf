//! Sector bitmaps: which sectors of a differencing disk's blocks are in the file (2.6).
//!
//! A chunk has one bitmap of 1 MiB, a bit per logical sector, least significant bit first; the part
//! that is about a partially present block counts, everything else in it is arbitrary.
//! Pages of bitmaps are read on demand, as those of the table are.

use std::sync::Arc;

use super::cache::{Cache, PAGE, PAGE_BYTES, WORDS};
use super::layout::BITMAP_BLOCK;
use super::shape::Shape;
use crate::error::{Error, Result};
use crate::store::Store;

/// Pages of a bitmap.
const PAGES: u64 = BITMAP_BLOCK / PAGE;
/// Bits of a word.
const WORD_BITS: u64 = 64;
/// Bits of a page.
const PAGE_BITS: u64 = PAGE * 8;

/// A chunk's bitmap and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bitmap {
    pub(crate) chunk: u32,
    /// File offset in bytes.
    pub(crate) offset: u64,
}

/// The bitmaps of one image.
pub(crate) struct Bitmaps {
    tables: Arc<dyn Store>,
    cache: Cache,
}

impl Bitmaps {
    /// The bitmaps of a disk; nothing is read yet.
    pub(crate) fn new(tables: Arc<dyn Store>, shape: &Shape) -> Bitmaps {
        let chunks = if shape.differencing {
            shape.chunks()
        } else {
            0
        };
        Bitmaps {
            tables,
            cache: Cache::new(u64::from(chunks) * PAGES),
        }
    }

    /// The word with this bit of a chunk.
    fn word(&self, bitmap: Bitmap, bit: u64) -> Result<u64> {
        let within = bit / PAGE_BITS;
        let page = u64::from(bitmap.chunk) * PAGES + within;
        // 2^14 chunks of 2^8 pages.
        let page = u32::try_from(page).unwrap_or(u32::MAX - 1);
        let place = usize::try_from(bit % PAGE_BITS / WORD_BITS).unwrap_or(0);
        if let Some(word) = self.cache.look(page, place) {
            return Ok(word);
        }
        self.cache.load(page, place, |words| {
            let at = bitmap.offset.saturating_add(within * PAGE);
            let mut bytes = [0; PAGE_BYTES];
            self.tables
                .read_exact_at(&mut bytes, at)
                .map_err(|error| Error::io("VHDX sector bitmap", "cannot be read", error).at(at))?;
            for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = bytes
                    .iter()
                    .rev()
                    .fold(0, |word, &byte| (word << 8) | u64::from(byte));
            }
            Ok(())
        })
    }

    /// From `first` on, before `last`: how many bits are alike, and whether they are ones.
    pub(crate) fn run(&self, bitmap: Bitmap, first: u64, last: u64) -> Result<(u64, bool)> {
        let present = self.word(bitmap, first)? >> (first % WORD_BITS) & 1 == 1;
        let mut bit = first;
        while bit < last {
            let word = self.word(bitmap, bit)?;
            let unlike = if present { !word } else { word } >> (bit % WORD_BITS);
            let left = WORD_BITS - bit % WORD_BITS;
            let alike = u64::from(unlike.trailing_zeros()).min(left);
            bit += alike;
            if alike < left {
                break;
            }
        }
        Ok((bit.min(last) - first, present))
    }

    /// Words of one page of a chunk's bitmap, from the one with `bit` on, are these: the bitmap has
    /// them already, or the log has.
    pub(crate) fn put(&self, chunk: u32, bit: u64, words: &[u64]) {
        let page = u64::from(chunk) * PAGES + bit / PAGE_BITS;
        let place = usize::try_from(bit % PAGE_BITS / WORD_BITS).unwrap_or(WORDS);
        if let Ok(page) = u32::try_from(page) {
            self.cache.put(page, place, words);
        }
    }
}
