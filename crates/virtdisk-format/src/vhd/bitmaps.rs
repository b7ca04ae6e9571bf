//! The sector bitmaps of blocks that are in the file in part, those that were met last.
//!
//! A slot holds one bitmap; a block always has the same slot, and replaces the block that is there.
//! Slots are made when they are first needed and together hold at most 8 MiB. What is kept is what
//! the file holds: whoever reads a bitmap to keep it, or changes one in the file, holds the slot's
//! turn meanwhile.
//!
//! Looking up takes no lock, in the way of `bat`: a reader that finds the same stamp before and
//! after has read that block's bits. Bits that turn from 0 to 1 need no new stamp.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::{Mutex, MutexGuard};

use super::bitmap::{BitOrder, mask, run};
use super::layout::SECTOR;

/// Bytes of bitmaps that are kept at most.
const MOST_BYTES: u64 = 8 << 20;
/// Most slots there are.
const MOST_SLOTS: u64 = 16 << 10;
/// Bytes that a slot takes besides its bits, about.
const SLOT_BYTES: u64 = 64;

/// The bitmaps of one image.
pub(crate) struct Bitmaps {
    pub(crate) order: BitOrder,
    /// Words of a block's bitmap.
    words: usize,
    slots: Box<[OnceLock<Box<Slot>>]>,
}

struct Slot {
    /// Loads so far in the upper half, block number + 1 in the lower; 0 there means no block.
    stamp: AtomicU64,
    words: Box<[AtomicU64]>,
    turn: Mutex<()>,
}

impl Slot {
    fn holds(stamp: u64, block: u32) -> bool {
        stamp & u64::from(u32::MAX) == u64::from(block) + 1
    }

    fn word(&self, index: usize) -> u64 {
        self.words
            .get(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }
}

impl Bitmaps {
    /// Nothing is kept yet. Blocks of `block_size` bytes, `blocks` of them.
    pub(crate) fn new(block_size: u64, blocks: u32, order: BitOrder) -> Bitmaps {
        let words = (block_size / SECTOR).div_ceil(64);
        let slots = (MOST_BYTES / (words * 8 + SLOT_BYTES))
            .min(MOST_SLOTS)
            .min(blocks.into())
            .max(1);
        Bitmaps {
            order,
            words: usize::try_from(words).unwrap_or(0),
            slots: (0..slots).map(|_| OnceLock::new()).collect(),
        }
    }

    fn slot_of(&self, block: u32) -> &OnceLock<Box<Slot>> {
        &self.slots[block as usize % self.slots.len()]
    }

    /// Whether the bitmap of a block is kept.
    pub(crate) fn holds(&self, block: u32) -> bool {
        let slot = self.slot_of(block).get();
        slot.is_some_and(|slot| Slot::holds(slot.stamp.load(Ordering::Acquire), block))
    }

    /// The run of equal bits from `sector` on, up to `end`, if the block's bitmap is kept.
    #[inline]
    pub(crate) fn run(&self, block: u32, sector: u64, end: u64) -> Option<(u64, bool)> {
        let slot = self.slot_of(block).get()?;
        let stamp = slot.stamp.load(Ordering::Acquire);
        if !Slot::holds(stamp, block) {
            return None;
        }
        let found = run(|index| slot.word(index), sector, end);
        fence(Ordering::Acquire);
        (slot.stamp.load(Ordering::Relaxed) == stamp).then_some(found)
    }

    /// Takes the turn of a block's slot.
    pub(crate) fn turn(&self, block: u32) -> Turn<'_> {
        let slot = self.slot_of(block).get_or_init(|| {
            Box::new(Slot {
                stamp: AtomicU64::new(0),
                words: (0..self.words).map(|_| AtomicU64::new(0)).collect(),
                turn: Mutex::new(()),
            })
        });
        Turn {
            slot,
            block,
            order: self.order,
            _held: slot.turn.lock(),
        }
    }

    /// Forgets the bitmaps of blocks from `first` to `last`.
    pub(crate) fn forget(&self, first: u32, last: u32) {
        for block in first..=last {
            if self.holds(block) {
                self.turn(block).forget();
            }
        }
    }
}

/// The turn of a block's slot, until it is dropped: nobody else loads the slot or changes the
/// block's bitmap in the file.
pub(crate) struct Turn<'a> {
    slot: &'a Slot,
    block: u32,
    order: BitOrder,
    _held: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    /// Whether the slot has the block's bitmap.
    pub(crate) fn holds(&self) -> bool {
        Slot::holds(self.slot.stamp.load(Ordering::Relaxed), self.block)
    }

    /// Keeps the bitmap that the file holds.
    pub(crate) fn keep(&self, bytes: &[u8]) {
        let stamp = self.slot.stamp.load(Ordering::Relaxed);
        let loads = (stamp >> 32).wrapping_add(1) << 32;
        self.slot.stamp.store(loads, Ordering::Relaxed);
        fence(Ordering::Release);
        let words = bytes.chunks(8).map(|bytes| self.order.word(bytes));
        let words = words.chain(std::iter::repeat(0));
        for (word, bits) in self.slot.words.iter().zip(words) {
            word.store(bits, Ordering::Relaxed);
        }
        let stamp = loads | (u64::from(self.block) + 1);
        self.slot.stamp.store(stamp, Ordering::Release);
    }

    /// Forgets the block's bitmap, if it is here.
    pub(crate) fn forget(&self) {
        let stamp = self.slot.stamp.load(Ordering::Relaxed);
        if Slot::holds(stamp, self.block) {
            let loads = (stamp >> 32).wrapping_add(1) << 32;
            self.slot.stamp.store(loads, Ordering::Release);
        }
    }

    /// The run of equal bits from `sector` on, up to `end`. The bitmap is here.
    pub(crate) fn run(&self, sector: u64, end: u64) -> (u64, bool) {
        run(|index| self.slot.word(index), sector, end)
    }

    /// The bytes of the file that have the bits of `first..end`, with these bits set: which byte of
    /// the bitmap is the first, and the bytes. The bitmap is here; it does not change.
    pub(crate) fn with(&self, first: u64, end: u64) -> (u64, Vec<u8>) {
        let (from, to) = (first / 8, end.div_ceil(8));
        let mut bytes = Vec::new();
        for word in self.words(first, end) {
            let bits = self.slot.word(word) | mask(word, first, end);
            bytes.extend_from_slice(&self.order.bytes(bits));
        }
        let skipped = usize::try_from(from % 8).unwrap_or(0);
        bytes.drain(..skipped);
        bytes.truncate(usize::try_from(to - from).unwrap_or(0));
        (from, bytes)
    }

    /// Sets the bits of `first..end`, as the file has them already.
    pub(crate) fn set(&self, first: u64, end: u64) {
        for index in self.words(first, end) {
            if let Some(word) = self.slot.words.get(index) {
                word.fetch_or(mask(index, first, end), Ordering::Release);
            }
        }
    }

    /// The words that have bits of `first..end`.
    fn words(&self, first: u64, end: u64) -> std::ops::Range<usize> {
        let index = |word: u64| {
            usize::try_from(word)
                .unwrap_or(0)
                .min(self.slot.words.len())
        };
        index(first / 64)..index(end.div_ceil(64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_bounded() {
        for block_size in [512, 4096, 2 << 20, 1 << 31] {
            let bitmaps = Bitmaps::new(block_size, u32::MAX, BitOrder::MostSignificantFirst);
            let each = bitmaps.words as u64 * 8 + SLOT_BYTES;
            let slots = bitmaps.slots.len() as u64;
            assert!(
                slots * each <= MOST_BYTES && slots >= 8,
                "{block_size}: {slots}"
            );
        }
        let few = Bitmaps::new(2 << 20, 3, BitOrder::MostSignificantFirst);
        assert_eq!(few.slots.len(), 3);
    }

    #[test]
    fn a_block_replaces_the_one_in_its_slot() {
        let bitmaps = Bitmaps::new(4096, u32::MAX, BitOrder::MostSignificantFirst);
        let other = u32::try_from(bitmaps.slots.len()).unwrap();
        bitmaps.turn(0).keep(&[0b1100_0001]);
        assert_eq!(bitmaps.run(0, 0, 8), Some((2, true)));
        assert_eq!(bitmaps.run(other, 0, 8), None);
        bitmaps.turn(other).keep(&[0]);
        assert_eq!(bitmaps.run(other, 0, 8), Some((8, false)));
        assert_eq!(bitmaps.run(0, 0, 8), None);
        bitmaps.forget(0, 0);
        assert!(bitmaps.holds(other));
        bitmaps.forget(other, other);
        assert!(!bitmaps.holds(other));
    }

    #[test]
    fn set_bits_are_those_of_the_range_and_no_others() {
        let bitmaps = Bitmaps::new(64 << 10, 4, BitOrder::MostSignificantFirst);
        let turn = bitmaps.turn(2);
        turn.keep(&[0b1000_0000; 16]);
        assert_eq!(turn.with(10, 13), (1, vec![0b1011_1000]));
        assert_eq!(turn.with(7, 17), (0, vec![0x81, 0xFF, 0x80]));
        assert_eq!(turn.with(70, 71), (8, vec![0b1000_0010]));
        let (from, bytes) = turn.with(0, 128);
        assert_eq!((from, bytes), (0, vec![0xFF; 16]));
        turn.set(62, 66);
        assert_eq!(turn.run(62, 128), (4, true));
        assert_eq!(turn.run(66, 128), (6, false));
        assert_eq!(turn.run(57, 128), (5, false));
    }
}
