//! The map of a dynamic or differencing disk.
//!
//! Most requests end in [`Bat::look`]: the block is known to be whole, and its data lie in one run;
//! no lock is taken. A block that is met for the first time has its entry and bitmap checked; the
//! bits of one that is in the file in part are in `bitmaps`. Writes to a dynamic disk's blocks that
//! are not whole go through `allocate`, one at a time, those over a parent through `differencing`.
//!
//! Once a write of metadata failed, [`Dynamic::refuse`] holds: no write and no flush succeeds until
//! the image is opened again. Reads go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::bat::{Bat, Entry};
use super::bitmaps::{Bitmaps, Turn};
use super::layout::{ALIGNMENT, RawFooter, RawHeader, SECTOR, UNALLOCATED};
use super::shape::Shape;
use super::space::Space;
use crate::commit::Commit;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Extents, Place, append};
use crate::facts::{Facts, Kind, Physical};
use crate::image::{Image, Ticket};
use crate::store::Store;

/// An open dynamic or differencing disk.
pub(crate) struct Dynamic {
    pub(crate) facts: Facts,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) shape: Shape,
    pub(crate) bat: Bat,
    pub(crate) bitmaps: Bitmaps,
    /// Bytes of the file that can hold blocks: everything before the trailing footer. Grows before
    /// the table names anything behind its old value.
    pub(crate) data_end: AtomicU64,
    /// `None` where the image is not open for writing. Held while space is taken or freed.
    pub(crate) space: Option<Mutex<Space>>,
    pub(crate) refused: AtomicBool,
    /// All flushes while the image is open.
    pub(crate) commit: Commit,
    pub(crate) seen: Seen,
}

/// What open saw and `validate` compares.
pub(crate) struct Seen {
    /// The footer that counts; where the trailing one was bad and nothing was repaired, the copy.
    pub(crate) footer: RawFooter,
    /// Whether the trailing footer and the copy at 0 are that one.
    pub(crate) at_end: bool,
    pub(crate) at_start: bool,
    pub(crate) header: RawHeader,
    pub(crate) header_at: u64,
    /// The length of a file that is not open for writing.
    pub(crate) len: u64,
}

/// How a block lies in the file.
#[derive(Clone, Copy)]
pub(crate) enum Block {
    Unallocated,
    /// All in one run; the sector of its bitmap.
    Whole(u32),
    /// Some sectors may not be in the file; the sector of its bitmap.
    Partial(u32),
}

impl Dynamic {
    /// Where the bytes are that are not in the file: in no block, or of a 0 bit (1.8).
    pub(crate) fn absent(&self) -> Place {
        if self.over_parent() {
            Place::Parent
        } else {
            Place::Zero
        }
    }

    /// Whether the disk is a differencing one.
    #[inline]
    pub(crate) fn over_parent(&self) -> bool {
        self.facts.kind == Kind::Differencing
    }

    /// How a block lies in the file now.
    #[inline]
    pub(crate) fn block(&self, block: u32) -> Result<Block> {
        match self.bat.look(block)? {
            Entry {
                sector: UNALLOCATED,
                ..
            } => Ok(Block::Unallocated),
            Entry {
                sector,
                whole: true,
            } => Ok(Block::Whole(sector)),
            Entry {
                sector,
                whole: false,
            } if self.bitmaps.holds(block) => Ok(Block::Partial(sector)),
            Entry { sector, .. } => self.meet(block, sector),
        }
    }

    /// A block whose entry or bitmap was not looked at yet.
    #[cold]
    fn meet(&self, block: u32, sector: u32) -> Result<Block> {
        let data_end = self.data_end.load(Ordering::Acquire);
        self.shape
            .check_entry(block, sector, data_end, self.bat.offset_of(block))?;
        if self.is_whole(block, &self.read_bitmap(block, sector)?) {
            self.bat.mark_whole(block, sector);
            return Ok(Block::Whole(sector));
        }
        // Read again in its turn: what is kept must be what the file holds.
        self.load(&self.bitmaps.turn(block), block, sector)?;
        Ok(Block::Partial(sector))
    }

    /// Whether a block with this bitmap is in the file with all of its sectors that count.
    pub(crate) fn is_whole(&self, block: u32, bitmap: &[u8]) -> bool {
        let sectors = self.shape.sectors(block);
        self.bitmaps.order.all_present(bitmap, sectors)
    }

    /// Has a block's bitmap in its slot.
    pub(crate) fn load(&self, turn: &Turn<'_>, block: u32, sector: u32) -> Result<()> {
        if !turn.holds() {
            turn.keep(&self.read_bitmap(block, sector)?);
        }
        Ok(())
    }

    /// A block's bitmap from the file.
    pub(crate) fn read_bitmap(&self, block: u32, sector: u32) -> Result<Vec<u8>> {
        let at = u64::from(sector) * SECTOR;
        let bytes = self.shape.sectors(block).div_ceil(8);
        let mut bytes = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.store
            .read_exact_at(&mut bytes, at)
            .map_err(|error| Error::io("VHD sector bitmap", "cannot be read", error).at(at))?;
        Ok(bytes)
    }

    /// The run of equal bits of a block from `first` on, up to `end`: sectors, and the bit.
    #[inline]
    pub(crate) fn run(&self, block: u32, sector: u32, first: u64, end: u64) -> Result<(u64, bool)> {
        if let Some(run) = self.bitmaps.run(block, first, end) {
            return Ok(run);
        }
        let turn = self.bitmaps.turn(block);
        self.load(&turn, block, sector)?;
        Ok(turn.run(first, end))
    }

    /// The runs of a block that is not whole.
    fn map_partial(
        &self,
        block: u32,
        sector: u32,
        range: (u64, u64),
        out: &mut Extents,
    ) -> Result<()> {
        let (mut start, end) = range;
        let block_start = self.shape.start_of(block);
        while start < end {
            let first = self.shape.within(start) / SECTOR;
            let last = (end - block_start).div_ceil(SECTOR);
            let (sectors, present) = self.run(block, sector, first, last)?;
            let next = (block_start + (first + sectors) * SECTOR).min(end);
            let file_offset = self.shape.data_at(sector) + self.shape.within(start);
            let place = if present {
                Place::Data { file_offset }
            } else {
                self.absent()
            };
            append(
                out,
                Extent {
                    start,
                    len: next - start,
                    place,
                },
            );
            start = next;
        }
        Ok(())
    }

    /// The image may be written, as far as is known.
    pub(crate) fn writable(&self) -> Result<&Mutex<Space>> {
        let Some(space) = &self.space else {
            return Err(Error::new(
                ErrorKind::ReadOnly,
                "image",
                "is not open for writing",
            ));
        };
        if self.refused.load(Ordering::Acquire) {
            return Err(Error::refused());
        }
        Ok(space)
    }

    /// Refuses all writes from now on, because of `cause`. That is never `NoSpace`, which says that
    /// nothing was changed and that more room helps.
    pub(crate) fn refuse(&self, cause: Error) -> Error {
        self.refused.store(true, Ordering::Release);
        if cause.kind() == ErrorKind::NoSpace {
            cause.acted_on_as(ErrorKind::Io)
        } else {
            cause
        }
    }

    /// Makes everything durable, together with all who ask meanwhile. A failure says that nothing
    /// is known of what was written; it is told once, so no flush may succeed behind it.
    pub(crate) fn settle(&self) -> Result<()> {
        self.commit.join(|| {
            let cause = |error| Error::io("image", "cannot be made durable", error);
            self.store
                .flush()
                .map_err(|error| self.refuse(cause(error)))
        })
    }
}

impl Image for Dynamic {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn whole(&self) -> Option<u64> {
        None
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        let end = self.shape.end_of_range(start, len)?;
        let mut at = start;
        while at < end {
            let within = self.shape.within(at);
            let len = (self.shape.block_size - within).min(end - at);
            let block = self.shape.block_of(at);
            let place = match self.block(block)? {
                Block::Unallocated => self.absent(),
                Block::Whole(sector) => Place::Data {
                    file_offset: self.shape.data_at(sector) + within,
                },
                Block::Partial(sector) => {
                    self.map_partial(block, sector, (at, at + len), out)?;
                    at += len;
                    continue;
                }
            };
            append(
                out,
                Extent {
                    start: at,
                    len,
                    place,
                },
            );
            at += len;
        }
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        let space = self.writable()?;
        let end = self.shape.end_of_range(start, len)?;
        if len == 0 {
            return Ok(Ticket::done());
        }
        if self.over_parent() {
            return self.reserve_over_parent(space, (start, end), out);
        }
        let (first, last) = (self.shape.block_of(start), self.shape.block_of(end - 1));
        for block in first..=last {
            if !matches!(self.block(block)?, Block::Whole(_)) {
                self.make_ready(&mut space.lock(), block, last)?;
                break;
            }
        }
        self.map(start, len, out)?;
        Ok(Ticket::done())
    }

    fn complete(&self, ticket: Ticket) -> Result<()> {
        if self.refused.load(Ordering::Acquire) {
            return Err(Error::refused());
        }
        match ticket.range() {
            Some((start, len)) => self.take_over(start, len),
            None => Ok(()),
        }
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        let space = self.writable()?;
        let end = self.shape.end_of_range(start, len)?;
        if self.over_parent() {
            self.zero_over_parent(space, start, end)
        } else {
            self.trim_range(&mut space.lock(), start, end)
        }
    }

    fn flush(&self) -> Result<()> {
        match self.writable() {
            Ok(_) => self.settle(),
            Err(error) if error.kind() == ErrorKind::ReadOnly => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn validate(&self) -> Result<()> {
        self.compare_with_file()
    }

    fn physical(&self) -> Result<Physical> {
        let (mut allocated, mut scattered) = (0_u64, 0_u64);
        let mut aligned = true;
        let mut expected = None;
        self.bat.stream(|_, sector| {
            let start = u64::from(sector) * SECTOR;
            // Alignment leaves gaps that are no fragmentation.
            let follows = expected.is_none_or(|end| start >= end && start - end < 2 * ALIGNMENT);
            allocated += 1;
            scattered += u64::from(!follows);
            aligned &= self.shape.data_at(sector).is_multiple_of(ALIGNMENT);
            expected = Some(start + self.shape.slot());
            Ok(())
        })?;
        let percent = (scattered * 100).checked_div(allocated).unwrap_or(0);
        Ok(Physical {
            blocks_allocated: allocated,
            fragmentation_percent: Some(u32::try_from(percent).unwrap_or(100)),
            data_aligned_4k: aligned,
        })
    }

    fn close(&self) -> Result<()> {
        match self.writable() {
            Ok(space) => {
                let closed = self.give_back(&mut space.lock());
                self.refused.store(true, Ordering::Release);
                closed
            }
            Err(error) if error.kind() == ErrorKind::ReadOnly => Ok(()),
            Err(error) => Err(error),
        }
    }
}
