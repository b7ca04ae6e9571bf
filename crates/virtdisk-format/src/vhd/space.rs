//! Where the next block goes: free slots, slack before the footer, and how far the footer moves.
//!
//! A slot is room for a block's bitmap and data. Slots come from blocks that were freed or holes
//! found at open, then from the slack between the last block and the footer, then from moving the
//! footer. This file only computes; `allocate` does the writing and keeps its order.
//!
//! Placement is that of Windows (1.8): data start on 4 KiB and the footer sits where the next
//! bitmap would, so that the file's length is a multiple of 4 KiB (V-30). Only where the disk could
//! not be filled that way before file offsets end (1.9), blocks are packed.

use super::layout::{ALIGNMENT, FOOTER, LAST_SECTOR, RawFooter, SECTOR, round_up};
use super::shape::Shape;

/// Most blocks that one footer move provides for ahead of need.
const MOST_AHEAD: u32 = 64;
/// Most bytes of the same.
const MOST_AHEAD_BYTES: u64 = 128 << 20;
/// Most free slots that are remembered; more are found again at the next open.
pub(crate) const MOST_FREE: usize = 1 << 20;

/// The free space of an image that is open for writing.
pub(crate) struct Space {
    placement: Placement,
    /// Slots without an owner, by bitmap sector, the first to use last. What they hold is unknown.
    free: Vec<u32>,
    /// Slots with all-ones bitmap and zero data, both durable.
    ready: Vec<u32>,
    /// End of the last slot or structure in use; from here to the footer nothing is used.
    tail: u64,
    /// Where the trailing footer is.
    pub(crate) footer_at: u64,
    /// Its bytes.
    pub(crate) footer: RawFooter,
    /// Blocks of the disk that have no space.
    pub(crate) unallocated: u32,
    /// Blocks to provide for at the next move.
    ahead: u32,
    /// Something was allocated or freed since open.
    pub(crate) changed: bool,
}

/// What decides where a slot can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Bytes of bitmap and data.
    pub(crate) slot: u64,
    /// Bytes of the bitmap.
    pub(crate) bitmap: u64,
    /// Only sectors are aligned.
    pub(crate) packed: bool,
}

impl Placement {
    /// The placement for a disk of which `left` blocks will go behind `tail`.
    pub(crate) fn choose(shape: &Shape, tail: u64, left: u32) -> Placement {
        let mut placement = Placement {
            slot: shape.slot(),
            bitmap: shape.bitmap,
            packed: false,
        };
        placement.packed = placement.end_of_run(tail, left).is_none();
        placement
    }

    /// The first place for a slot at or behind `end`, in bytes; as Windows has it.
    pub(crate) fn behind(&self, end: u64) -> Option<u64> {
        if self.packed {
            return round_up(end, SECTOR);
        }
        let data = round_up(
            round_up(end, ALIGNMENT)?.checked_add(self.bitmap)?,
            ALIGNMENT,
        )?;
        data.checked_sub(self.bitmap)
    }

    /// The first place for a slot at or behind `start` where no more than alignment is wanted.
    pub(crate) fn within_hole(&self, start: u64) -> Option<u64> {
        if self.packed {
            return round_up(start, SECTOR);
        }
        round_up(start.checked_add(self.bitmap)?, ALIGNMENT)?.checked_sub(self.bitmap)
    }

    /// Where the footer goes behind `end`.
    pub(crate) fn footer_behind(&self, end: u64) -> Option<u64> {
        if self.packed {
            return round_up(end, SECTOR);
        }
        round_up(end, ALIGNMENT)?.checked_add(ALIGNMENT - FOOTER)
    }

    /// The sector number of a slot, if the table can name it.
    pub(crate) fn sector(at: u64) -> Option<u32> {
        u32::try_from(at / SECTOR)
            .ok()
            .filter(|&sector| sector <= LAST_SECTOR)
    }

    /// Whether the table can name `count` slots behind `tail`.
    pub(crate) fn holds(&self, tail: u64, count: u32) -> bool {
        self.end_of_run(tail, count).is_some()
    }

    /// Where `count` slots behind `tail` end, if the table can name them all.
    fn end_of_run(&self, tail: u64, count: u32) -> Option<u64> {
        if count == 0 {
            return Some(tail);
        }
        let first = self.behind(tail)?;
        let stride = self
            .behind(first.checked_add(self.slot)?)?
            .checked_sub(first)?;
        let last = first.checked_add(stride.checked_mul(u64::from(count) - 1)?)?;
        Placement::sector(last)?;
        last.checked_add(self.slot)
    }
}

impl Space {
    pub(crate) fn new(
        placement: Placement,
        mut free: Vec<u32>,
        tail: u64,
        footer: (u64, RawFooter),
        unallocated: u32,
    ) -> Space {
        free.sort_unstable_by(|a, b| b.cmp(a));
        Space {
            placement,
            free,
            ready: Vec::new(),
            tail,
            footer_at: footer.0,
            footer: footer.1,
            unallocated,
            ahead: 1,
            changed: false,
        }
    }

    /// Slots that can be given out at once.
    pub(crate) fn ready(&self) -> u32 {
        u32::try_from(self.ready.len()).unwrap_or(u32::MAX)
    }

    /// Takes a ready slot.
    pub(crate) fn take_ready(&mut self) -> Option<u32> {
        self.ready.pop()
    }

    /// Adds slots that were made ready, the first to use first.
    pub(crate) fn add_ready(&mut self, slots: Vec<u32>) {
        self.ready.splice(0..0, slots.into_iter().rev());
    }

    /// Adds slots whose contents mean nothing any more.
    pub(crate) fn add_free(&mut self, slots: Vec<u32>) {
        let room = MOST_FREE.saturating_sub(self.free.len());
        self.free.extend(slots.into_iter().take(room));
        self.free.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// How many slots to make ready when `wanted` are: some ahead, never more than the disk needs.
    pub(crate) fn goal(&mut self, wanted: u32) -> u32 {
        let by_bytes = u32::try_from(MOST_AHEAD_BYTES / self.placement.slot).unwrap_or(u32::MAX);
        let ahead = self.ahead.min(by_bytes);
        self.ahead = self.ahead.saturating_mul(2).min(MOST_AHEAD);
        wanted.max(ahead).min(self.unallocated.max(wanted))
    }

    /// Takes up to `most` slots that need no footer move.
    pub(crate) fn take_free(&mut self, most: u32) -> Vec<u32> {
        let mut slots = Vec::new();
        while (slots.len() as u64) < u64::from(most) {
            if let Some(slot) = self.free.pop() {
                slots.push(slot);
                continue;
            }
            let Some(at) = self.placement.behind(self.tail) else {
                break;
            };
            let end = at.saturating_add(self.placement.slot);
            match Placement::sector(at) {
                Some(sector) if end <= self.footer_at => {
                    slots.push(sector);
                    self.tail = end;
                }
                _ => break,
            }
        }
        slots
    }

    /// Where the footer has to go for `count` slots behind the tail, or for as many as file
    /// offsets allow, but at least one.
    pub(crate) fn place_for(&self, count: u32) -> Option<u64> {
        let (mut fits, mut too_many) = (0, count.checked_add(1)?);
        while too_many - fits > 1 {
            let middle = fits + (too_many - fits) / 2;
            match self.placement.end_of_run(self.tail, middle) {
                Some(_) => fits = middle,
                None => too_many = middle,
            }
        }
        if fits == 0 {
            return None;
        }
        self.placement
            .footer_behind(self.placement.end_of_run(self.tail, fits)?)
    }

    /// Bytes of a slot that are data: start and end.
    pub(crate) fn data_of(&self, sector: u32) -> (u64, u64) {
        let at = u64::from(sector) * SECTOR;
        (at + self.placement.bitmap, at + self.placement.slot)
    }

    /// Where the footer would go if everything behind `tail` were given back, if that gives back
    /// anything and is ours to give: this session changed the image, or the slack is a whole number
    /// of slots as a session that was killed leaves it.
    pub(crate) fn shrinks_to(&self, tail: u64) -> Option<u64> {
        let target = self.placement.footer_behind(tail)?;
        let slack = self
            .footer_at
            .checked_sub(target)
            .filter(|&slack| slack > 0)?;
        let stride = round_up(self.placement.slot, ALIGNMENT)?;
        (self.changed || slack.is_multiple_of(stride)).then_some(target)
    }

    /// The end of what is used, as far as is known without reading the table.
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Forgets all free space, for the image is closed.
    pub(crate) fn forget(&mut self) {
        self.free = Vec::new();
        self.ready = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(virtual_size: u64, block_size: u32) -> Shape {
        let blocks = u32::try_from(virtual_size.div_ceil(block_size.into())).unwrap();
        Shape::new(virtual_size, block_size, blocks, Vec::new())
    }

    #[test]
    fn blocks_lie_where_windows_puts_them() {
        // V-30: the first two blocks and the footer of ntfs-dynamic.vhd.
        let placement = Placement::choose(&shape(4 << 20, 2 << 20), 0x800, 2);
        assert!(!placement.packed);
        assert_eq!(placement.footer_behind(0x800), Some(0x1E00));
        assert_eq!(placement.behind(0x800), Some(0x1E00));
        let end = 0x1E00 + placement.slot;
        assert_eq!(end, 0x20_2000);
        assert_eq!(placement.footer_behind(end), Some(0x20_2E00));
        assert_eq!(placement.behind(end), Some(0x20_2E00));
        assert_eq!(placement.within_hole(0x20_2E00), Some(0x20_2E00));
    }

    #[test]
    fn a_disk_that_alignment_would_not_let_fill_is_packed() {
        let large = super::super::layout::LARGEST_DISK;
        let placed = |block: u32| {
            Placement::choose(
                &shape(large, block),
                0x600,
                u32::try_from(large / u64::from(block)).unwrap(),
            )
        };
        assert!(!placed(2 << 20).packed);
        assert!(placed(512 << 10).packed);
        let packed = placed(512 << 10);
        assert!(
            packed
                .end_of_run(0x600, u32::try_from(large / (512 << 10)).unwrap())
                .is_some()
        );
    }
}
