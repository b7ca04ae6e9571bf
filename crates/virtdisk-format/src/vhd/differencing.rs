//! Writing over a parent: how a sector becomes the image's own, in this order (V-9, V-32).
//!   1. the block has space with an all-zeros bitmap, and its entry in the table (`allocate`):
//!      it shows the parent everywhere
//!   2. the data, where a 0 bit hides them
//!   3. a flush, one for all writes that wait for one
//!   4. the sector's bit, in the file before the write is answered
//!
//! Stopped anywhere, a sector is the parent's or has all of its data. Sectors that are the image's
//! own already are overwritten in place, without lock and flush. Zeros are stored like data, for a
//! block without space is the parent's and not zeros (V-35); no block ever loses its space.

use parking_lot::Mutex;

use super::layout::SECTOR;
use super::map::{Block, Dynamic};
use super::space::Space;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Extents, Place, append};
use crate::image::Ticket;

/// Bytes of the disk that are zeroed between two flushes, if blocks are not larger.
const ZEROED_AT_ONCE: u64 = 128 << 20;

/// A part of one block: its number, the sector of its bitmap, and virtual bytes from start to end.
struct Part {
    block: u32,
    sector: u32,
    /// All of its sectors that count are in the file.
    whole: bool,
    start: u64,
    end: u64,
}

impl Dynamic {
    /// Makes place for a write to a range that is not empty.
    pub(crate) fn reserve_over_parent(
        &self,
        space: &Mutex<Space>,
        (start, end): (u64, u64),
        out: &mut Extents,
    ) -> Result<Ticket> {
        self.check_edges(start, end)?;
        let (first, last) = (self.shape.block_of(start), self.shape.block_of(end - 1));
        for block in first..=last {
            if matches!(self.block(block)?, Block::Unallocated) {
                self.make_ready(&mut space.lock(), block, last)?;
                break;
            }
        }
        let mut own = true;
        self.parts(start, end, |part| {
            own = own && self.is_own(&part)?;
            append(
                out,
                Extent {
                    start: part.start,
                    len: part.end - part.start,
                    place: Place::Data {
                        file_offset: self.data_of(&part),
                    },
                },
            );
            Ok(())
        })?;
        Ok(if own {
            Ticket::done()
        } else {
            Ticket::pending(start, end - start)
        })
    }

    /// Steps 3 and 4, for data that were written.
    pub(crate) fn take_over(&self, start: u64, len: u64) -> Result<()> {
        let end = self.shape.end_of_range(start, len)?;
        self.settle()?;
        self.parts(start, end, |part| self.set_bits(&part))
    }

    /// Makes the virtual bytes from `start` to `end` zeros that are the image's own.
    pub(crate) fn zero_over_parent(
        &self,
        space: &Mutex<Space>,
        start: u64,
        end: u64,
    ) -> Result<()> {
        self.check_edges(start, end)?;
        let step = self.shape.block_size.max(ZEROED_AT_ONCE);
        let mut at = start;
        while at < end {
            // Whole steps from the disk's start on, so that most pieces are whole blocks.
            let next = (at - at % step).saturating_add(step).min(end);
            let (first, last) = (self.shape.block_of(at), self.shape.block_of(next - 1));
            self.make_ready(&mut space.lock(), first, last)?;
            let mut own = true;
            self.parts(at, next, |part| {
                own = own && self.is_own(&part)?;
                let file_offset = self.data_of(&part);
                self.store
                    .zero(file_offset, part.end - part.start)
                    .map_err(|error| {
                        Error::io("VHD block", "cannot be zeroed", error).at(file_offset)
                    })
            })?;
            if !own {
                self.take_over(at, next - at)?;
            }
            at = next;
        }
        Ok(())
    }

    /// A range may begin and end within a sector only if that is the image's own.
    fn check_edges(&self, start: u64, end: u64) -> Result<()> {
        for edge in [start, end] {
            let within = edge % SECTOR;
            if within == 0 {
                continue;
            }
            let own = match self.block(self.shape.block_of(edge))? {
                Block::Unallocated => false,
                Block::Whole(_) => true,
                Block::Partial(sector) => {
                    let block = self.shape.block_of(edge);
                    let at = self.shape.within(edge) / SECTOR;
                    self.run(block, sector, at, at + 1)?.1
                }
            };
            if !own {
                return Err(Error::new(
                    ErrorKind::InvalidParameter,
                    "range",
                    "begins or ends within a sector that is the parent's",
                )
                .with_found(format_args!("bytes {start} to {end}"))
                .with_wanted("multiples of 512"));
            }
        }
        Ok(())
    }

    /// Goes through a range block by block; every block has space.
    fn parts(&self, start: u64, end: u64, mut visit: impl FnMut(Part) -> Result<()>) -> Result<()> {
        let mut at = start;
        while at < end {
            let block = self.shape.block_of(at);
            let next = self
                .shape
                .start_of(block)
                .saturating_add(self.shape.block_size)
                .min(end);
            let (sector, whole) = match self.block(block)? {
                Block::Whole(sector) => (sector, true),
                Block::Partial(sector) => (sector, false),
                Block::Unallocated => return Err(self.lost(block)),
            };
            visit(Part {
                block,
                sector,
                whole,
                start: at,
                end: next,
            })?;
            at = next;
        }
        Ok(())
    }

    /// The file offset of a part's first byte.
    fn data_of(&self, part: &Part) -> u64 {
        self.shape.data_at(part.sector) + self.shape.within(part.start)
    }

    /// The sectors of its block that a part touches: the first, and the one behind the last.
    fn sectors_of(&self, part: &Part) -> (u64, u64) {
        let block_start = self.shape.start_of(part.block);
        (
            self.shape.within(part.start) / SECTOR,
            (part.end - block_start).div_ceil(SECTOR),
        )
    }

    /// Whether all sectors of a part are the image's own.
    fn is_own(&self, part: &Part) -> Result<bool> {
        if part.whole {
            return Ok(true);
        }
        let (first, end) = self.sectors_of(part);
        let run = self.run(part.block, part.sector, first, end)?;
        Ok(run == (end - first, true))
    }

    /// Sets the bits of a part whose data are durable. Only these: what else is being written to
    /// the block is not durable yet.
    fn set_bits(&self, part: &Part) -> Result<()> {
        if part.whole {
            return Ok(());
        }
        let (first, end) = self.sectors_of(part);
        let turn = self.bitmaps.turn(part.block);
        self.load(&turn, part.block, part.sector)?;
        if turn.run(first, end) == (end - first, true) {
            return Ok(());
        }
        let (byte, bytes) = turn.with(first, end);
        let at = u64::from(part.sector) * SECTOR + byte;
        if let Err(error) = self.store.write_all_at(&bytes, at) {
            // Some bits may have arrived, all of them of durable data: the file is asked again.
            turn.forget();
            return Err(
                self.judge(Error::io("VHD sector bitmap", "cannot be written", error).at(at))
            );
        }
        turn.set(first, end);
        let sectors = self.shape.sectors(part.block);
        if turn.run(0, sectors) == (sectors, true) {
            turn.forget();
            self.bat.mark_whole(part.block, part.sector);
        }
        Ok(())
    }

    #[cold]
    fn lost(&self, block: u32) -> Error {
        Error::new(
            ErrorKind::BatCorrupt,
            "VHD block allocation table",
            format!("has no space for block {block}, to which it was given"),
        )
        .at(self.bat.offset_of(block))
    }
}
