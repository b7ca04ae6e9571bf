//! Pages of a table, 4 KiB of 512 words each, read on demand and kept in bounded memory.
//!
//! There are at most 1,024 slots, so that a table of any size costs at most about 4 MiB; a page
//! whose slot is taken replaces the one there. What a page is and where it is read from is known
//! to `bat` and `bitmap`, which number their pages from 0.
//!
//! Looking up takes no lock. A slot's stamp names its page and counts its loads; a reader that
//! finds the same stamp before and after has read that page. Whoever changes a slot holds the
//! slot's turn, and loads hold it while they read: what is put after the table's bytes changed is
//! never overwritten by a load that read them before.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;

use crate::error::Result;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// The same, for buffers.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Words of a page.
pub(crate) const WORDS: usize = 512;
/// Most slots there are.
const MOST_SLOTS: u64 = 1024;

/// A page's words, as a load fills them.
pub(crate) type Page = [u64; WORDS];

/// The pages of one table that are in memory.
pub(crate) struct Cache {
    slots: Box<[OnceLock<Box<Slot>>]>,
}

struct Slot {
    /// Loads so far in the upper half, page number + 1 in the lower; 0 there means no page.
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
    /// Held by whoever changes stamp or words.
    turn: Mutex<()>,
}

impl Slot {
    fn empty() -> Box<Slot> {
        Box::new(Slot {
            stamp: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
            turn: Mutex::new(()),
        })
    }

    fn holds(stamp: u64, page: u32) -> bool {
        stamp & u64::from(u32::MAX) == u64::from(page) + 1
    }

    #[inline]
    fn look(&self, page: u32, index: usize) -> Option<u64> {
        let stamp = self.stamp.load(Ordering::Acquire);
        if !Slot::holds(stamp, page) {
            return None;
        }
        let word = self.words[index % WORDS].load(Ordering::Acquire);
        fence(Ordering::Acquire);
        (self.stamp.load(Ordering::Relaxed) == stamp).then_some(word)
    }
}

impl Cache {
    /// A cache for a table of so many pages; nothing is in it.
    pub(crate) fn new(pages: u64) -> Cache {
        Cache {
            slots: (0..pages.clamp(1, MOST_SLOTS))
                .map(|_| OnceLock::new())
                .collect(),
        }
    }

    fn slot_of(&self, page: u32) -> &OnceLock<Box<Slot>> {
        &self.slots[page as usize % self.slots.len()]
    }

    /// A word of a page that is here.
    #[inline]
    pub(crate) fn look(&self, page: u32, index: usize) -> Option<u64> {
        self.slot_of(page).get()?.look(page, index)
    }

    /// Loads a page with `fill` unless it is here by now, and answers one of its words.
    #[cold]
    pub(crate) fn load(
        &self,
        page: u32,
        index: usize,
        fill: impl FnOnce(&mut Page) -> Result<()>,
    ) -> Result<u64> {
        let slot = self.slot_of(page).get_or_init(Slot::empty);
        let _turn = slot.turn.lock();
        let stamp = slot.stamp.load(Ordering::Relaxed);
        if Slot::holds(stamp, page) {
            return Ok(slot.words[index % WORDS].load(Ordering::Acquire));
        }
        let mut words = [0; WORDS];
        fill(&mut words)?;
        let loads = (stamp >> 32).wrapping_add(1) << 32;
        slot.stamp.store(loads, Ordering::Relaxed);
        fence(Ordering::Release);
        for (kept, &word) in slot.words.iter().zip(&words) {
            kept.store(word, Ordering::Relaxed);
        }
        let named = loads | (u64::from(page) + 1);
        slot.stamp.store(named, Ordering::Release);
        Ok(words[index % WORDS])
    }

    /// Puts words of a page, from `first` on, if the page is here. The table itself, as `load`
    /// reads it, has them already.
    pub(crate) fn put(&self, page: u32, first: usize, words: &[u64]) {
        let Some(slot) = self.slot_of(page).get() else {
            return;
        };
        let _turn = slot.turn.lock();
        if Slot::holds(slot.stamp.load(Ordering::Relaxed), page) {
            for (kept, &word) in slot.words.iter().skip(first).zip(words) {
                kept.store(word, Ordering::Release);
            }
        }
    }
}
