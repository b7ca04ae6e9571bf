//! Giving ranges of a dynamic disk back.
//!
//! A block that is trimmed as a whole loses its entry, then its bytes are punched. No flush between
//! the two: whichever of them a power cut keeps, the block holds its old bytes or zeros. Its slot
//! goes to another block only after a flush, for `allocate` makes every slot durable before the
//! table names it. A part of a block is zeroed in place. The caller keeps all other I/O away, so
//! nobody holds an extent of what goes.

use super::layout::{SECTOR, UNALLOCATED};
use super::map::Dynamic;
use super::space::Space;
use crate::error::{Error, Result};

impl Dynamic {
    /// Makes the virtual bytes from `start` to `end` zeros and frees whole blocks.
    pub(crate) fn trim_range(&self, space: &mut Space, start: u64, end: u64) -> Result<()> {
        let mut freed = Vec::new();
        let mut at = start;
        while at < end {
            let block = self.shape.block_of(at);
            let block_start = self.shape.start_of(block);
            let block_end = block_start + self.shape.visible(block);
            if at == block_start && block_end <= end {
                let last = self
                    .shape
                    .block_of(end - 1)
                    .min(self.bat.last_of_page(block));
                let last_end = self.shape.start_of(last) + self.shape.visible(last);
                // The last block of the range may be covered in part only.
                let last = if last_end > end { last - 1 } else { last };
                self.release(block, last, &mut freed)?;
                at = self.shape.start_of(last) + self.shape.visible(last);
            } else {
                self.zero_part(block, at, block_end.min(end))?;
                at = block_end.min(end);
            }
        }
        self.recycle(space, freed)
    }

    /// Takes the entries of blocks of one page away, in the fewest writes.
    fn release(&self, first: u32, last: u32, freed: &mut Vec<u32>) -> Result<()> {
        let mut span = None;
        for block in first..=last {
            let sector = self.bat.look(block)?.sector;
            if sector != UNALLOCATED {
                freed.push(sector);
                span = Some((span.map_or(block, |(from, _)| from), block));
            }
        }
        let Some((from, to)) = span else {
            return Ok(());
        };
        self.bat
            .release(from, to - from + 1)
            .map_err(|error| self.refuse(error))?;
        self.bitmaps.forget(from, to);
        Ok(())
    }

    /// Zeros a part of an allocated block.
    fn zero_part(&self, block: u32, start: u64, end: u64) -> Result<()> {
        let sector = self.bat.look(block)?.sector;
        if sector == UNALLOCATED {
            return Ok(());
        }
        let at = self.shape.data_at(sector) + self.shape.within(start);
        self.store
            .zero(at, end - start)
            .map_err(|error| Error::io("VHD block", "cannot be zeroed", error).at(at))
    }

    /// Punches slots that lost their block and remembers them for reuse.
    fn recycle(&self, space: &mut Space, mut freed: Vec<u32>) -> Result<()> {
        if freed.is_empty() {
            return Ok(());
        }
        space.changed = true;
        let count = u32::try_from(freed.len()).unwrap_or(u32::MAX);
        space.unallocated = space.unallocated.saturating_add(count);
        let mut punched = Ok(());
        for &sector in &freed {
            let at = u64::from(sector) * SECTOR;
            let len = self.shape.slot().min(space.footer_at.saturating_sub(at));
            // The range reads as zeros already; only its space is not given back.
            punched = punched.and(self.store.zero(at, len));
        }
        // The last block of a foreign file may have been cut short: no slot for another one.
        freed.retain(|&sector| space.data_of(sector).1 <= space.footer_at);
        space.add_free(freed);
        punched.map_err(|error| Error::io("freed VHD block", "cannot be punched", error))
    }
}
