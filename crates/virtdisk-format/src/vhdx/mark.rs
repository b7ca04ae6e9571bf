//! Sectors of a differencing disk become its own.
//!
//! The order: the data that were written durable, in a flush that others share; then the bits in
//! the log; then everybody sees them. Stopped before the log entry is there, the sectors are the
//! parent's as they were. A block that was written as a whole, or whose last missing sector was,
//! becomes fully present, and its bitmap is not asked any more.

use super::bitmap::Bitmap;
use super::change::Change;
use super::layout::FULLY_PRESENT;
use super::map::{Block, Vhdx};
use super::writer::{Session, Writer};
use crate::error::Result;

/// Pages that one block can change: its entry, and the largest part of a bitmap.
const BLOCK_PAGES: usize = 17;

impl Vhdx {
    /// Makes the sectors of a range whose data are written the image's own.
    pub(crate) fn mark_written(&self, writer: &Writer, start: u64, end: u64) -> Result<()> {
        writer.settle()?;
        let mut session = writer.session()?;
        self.mark_present(writer, &mut session, start, end)?;
        let settle = writer.wants_settling(&session);
        drop(session);
        if settle { writer.settle() } else { Ok(()) }
    }

    /// The same for data that are durable. Only sectors that lie wholly in the range are marked.
    pub(crate) fn mark_present(
        &self,
        writer: &Writer,
        session: &mut Session,
        start: u64,
        end: u64,
    ) -> Result<()> {
        let most = writer.most_pages.saturating_sub(BLOCK_PAGES);
        let mut change = Change::new(&writer.tables);
        for block in self.shape.block_of(start)..=self.shape.block_of(end - 1) {
            if change.len() > most {
                let full = std::mem::replace(&mut change, Change::new(&writer.tables));
                self.publish(writer, session, full)?;
            }
            let Block::Partial { offset, bitmap } = self.block(block)? else {
                continue;
            };
            let block_start = self.shape.start_of(block);
            let block_end = block_start + self.shape.visible(block);
            let (from, to) = (start.max(block_start), end.min(block_end));
            if (from, to) != (block_start, block_end)
                && !self.mark_part(&mut change, block, bitmap, (from, to))?
            {
                continue;
            }
            let index = self.shape.index_of(block);
            change.put_entry(index, self.bat.offset_of(index), offset | FULLY_PRESENT)?;
        }
        self.publish(writer, session, change)
    }

    /// Sets the bits of a part of a block; answers whether all of the block is there now.
    fn mark_part(
        &self,
        change: &mut Change<'_>,
        block: u32,
        bitmap: Bitmap,
        (from, to): (u64, u64),
    ) -> Result<bool> {
        let sector = self.shape.sector_size;
        let (first, last) = (from.next_multiple_of(sector), to - to % sector);
        if first < last {
            let bit = self.shape.bit_of(first);
            let count = (last - first) / sector;
            change.put_bits(bitmap, bit, bit + count, true)?;
        }
        let bit = self.shape.bit_of(self.shape.start_of(block));
        let count = self.shape.visible(block) / sector;
        change.all_set(bitmap, bit, bit + count)
    }
}
