//! Making place for a write.
//!
//! A block gets space that reads as zeros, now and after a power cut, and its table entry in one
//! log entry; the data come later as an ordinary overwrite. A dynamic block is all there at once.
//! One of a differencing disk shows its parent until `mark` says which sectors were written: it
//! begins partially present with no bit set, its chunk's bitmap block allocated in the same entry.
//! Where the parent must not show (ZERO and its kin) it is fully present with zeros around.
//!
//! The order of a change: space zeroed, durable, where it held anything; then the log entry; then
//! everybody sees it. Nothing waits for a flush but space that is used again.

use std::collections::BTreeSet;

use super::bitmap::Bitmap;
use super::change::Change;
use super::layout::{FULLY_PRESENT, MIB, PARTIALLY_PRESENT};
use super::map::{Block, Vhdx};
use super::space::Run;
use super::usage::MOST_MIBS;
use super::writer::{Session, Writer};
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Extents, Place, append};
use crate::image::Ticket;

/// By how much the file grows at least, in MiBs.
const STEP: u64 = 32;
/// Most blocks of one log entry.
const MOST_BLOCKS: usize = 64;
/// Pages that the table entries of that many blocks and of their bitmap blocks can be in.
const TABLE_PAGES: usize = 8;

/// What is to be done for a block.
struct Want {
    block: u32,
    /// FULLY_PRESENT or PARTIALLY_PRESENT.
    state: u64,
    /// Its bits are to be cleared.
    clear: bool,
}

impl Vhdx {
    /// Makes place for a write and appends its extents.
    pub(crate) fn reserve_range(
        &self,
        writer: &Writer,
        (start, end): (u64, u64),
        out: &mut Extents,
    ) -> Result<Ticket> {
        let (first, last) = (self.shape.block_of(start), self.shape.block_of(end - 1));
        for block in first..=last {
            if matches!(self.block(block)?, Block::Zero | Block::Parent) {
                self.allocate(writer, block, last)?;
                break;
            }
        }
        self.say_touched(writer)?;
        let mut pending = false;
        for block in first..=last {
            let from = start.max(self.shape.start_of(block));
            let to = end.min(self.shape.start_of(block) + self.shape.visible(block));
            let offset = match self.block(block)? {
                Block::Data { offset, .. } => offset,
                Block::Partial { offset, bitmap } => {
                    pending |= self.lacks_sectors(bitmap, from, to)?;
                    offset
                }
                Block::Zero | Block::Parent => return Err(lost(block)),
            };
            let place = Place::Data {
                file_offset: offset + self.shape.within(from),
            };
            append(
                out,
                Extent {
                    start: from,
                    len: to - from,
                    place,
                },
            );
        }
        if pending {
            Ok(Ticket::pending(start, end - start))
        } else {
            Ok(Ticket::done())
        }
    }

    /// Whether sectors of a part of a partial block are the parent's. Those must lie wholly in it.
    pub(crate) fn lacks_sectors(&self, bitmap: Bitmap, from: u64, to: u64) -> Result<bool> {
        let sector = self.shape.sector_size;
        let (first, last) = (self.shape.bit_of(from), self.shape.bit_of(to - 1));
        for (edge, bit) in [(from, first), (to, last)] {
            if !edge.is_multiple_of(sector) && !self.bitmaps.run(bitmap, bit, bit + 1)?.1 {
                return Err(self.splits_sector(edge));
            }
        }
        let (alike, present) = self.bitmaps.run(bitmap, first, last + 1)?;
        Ok(!present || first + alike <= last)
    }

    /// The error of a range that begins or ends within a sector of the parent.
    pub(crate) fn splits_sector(&self, edge: u64) -> Error {
        Error::new(
            ErrorKind::InvalidParameter,
            "range",
            "covers a sector of the parent in part",
        )
        .with_found(edge)
        .with_wanted(format_args!("a multiple of {}", self.shape.sector_size))
    }

    /// Gives space to all blocks from `first` to `last` that have none.
    pub(crate) fn allocate(&self, writer: &Writer, first: u32, last: u32) -> Result<()> {
        let mut session = writer.session()?;
        let mut next = first;
        while next <= last {
            next = self.allocate_some(writer, &mut session, next, last)?;
        }
        let settle = writer.wants_settling(&session);
        drop(session);
        if settle { writer.settle() } else { Ok(()) }
    }

    /// Does the same for as many blocks as one log entry takes; answers the next one.
    fn allocate_some(
        &self,
        writer: &Writer,
        session: &mut Session,
        first: u32,
        last: u32,
    ) -> Result<u32> {
        let (wants, next) = self.wants(writer, first, last)?;
        let mut chunks = BTreeSet::new();
        for want in wants.iter().filter(|want| want.state == PARTIALLY_PRESENT) {
            let chunk = self.shape.chunk_of(want.block);
            if self.bitmap_of(chunk)?.is_none() {
                chunks.insert(chunk);
            }
        }
        if wants.is_empty() {
            return Ok(next);
        }
        self.begin(writer, session)?;
        let block_mibs = self.shape.block_size / MIB;
        self.provide(writer, session, (block_mibs, wants.len()), chunks.len())?;
        let mut taken = Vec::new();
        let done = self.give(writer, session, &wants, &chunks, &mut taken);
        if done.is_err() {
            for run in taken {
                session.space.put_back(run);
            }
        }
        done.map(|()| next)
    }

    /// The blocks from `first` on that need space, and the block behind them.
    fn wants(&self, writer: &Writer, first: u32, last: u32) -> Result<(Vec<Want>, u32)> {
        let part_pages = usize::try_from(self.shape.bitmap_part().div_ceil(4096)).unwrap_or(0) + 1;
        let (mut wants, mut pages) = (Vec::new(), TABLE_PAGES);
        for block in first..=last {
            let partial = match self.block(block)? {
                Block::Data { .. } | Block::Partial { .. } => continue,
                Block::Parent => true,
                Block::Zero => false,
            };
            let clear = partial && self.has_bits(block)?;
            let needed = if clear { part_pages } else { 0 };
            if wants.len() >= MOST_BLOCKS
                || (pages + needed > writer.most_pages && !wants.is_empty())
            {
                return Ok((wants, block));
            }
            pages += needed;
            wants.push(Want {
                block,
                state: if partial {
                    PARTIALLY_PRESENT
                } else {
                    FULLY_PRESENT
                },
                clear,
            });
        }
        Ok((wants, last.saturating_add(1)))
    }

    /// The bitmap of a chunk, if it has one.
    fn bitmap_of(&self, chunk: u32) -> Result<Option<Bitmap>> {
        let entry = self.bat.look(self.shape.bitmap_index(chunk))?;
        let offset = entry.offset();
        Ok(entry.has_data().then_some(Bitmap { chunk, offset }))
    }

    /// Whether any bit of a block is set in its chunk's bitmap.
    fn has_bits(&self, block: u32) -> Result<bool> {
        let Some(bitmap) = self.bitmap_of(self.shape.chunk_of(block))? else {
            return Ok(false);
        };
        let (from, to) = self.bits_of(block);
        let (alike, present) = self.bitmaps.run(bitmap, from, to)?;
        Ok(present || alike < to - from)
    }

    /// The bits of a whole block, with those behind the end of the disk.
    fn bits_of(&self, block: u32) -> (u64, u64) {
        let from = self.shape.bit_of(self.shape.start_of(block));
        (from, from + self.shape.block_size / self.shape.sector_size)
    }

    /// Takes space and writes the log entry; then everybody sees it.
    fn give(
        &self,
        writer: &Writer,
        session: &mut Session,
        wants: &[Want],
        chunks: &BTreeSet<u32>,
        taken: &mut Vec<Run>,
    ) -> Result<()> {
        let block_mibs = self.shape.block_size / MIB;
        let mut take = |count: u64| -> Result<u64> {
            let first = session.space.take(count).ok_or_else(no_room)?;
            taken.push((first, count));
            Ok(first * MIB)
        };
        let mut entries = Vec::new();
        for want in wants {
            entries.push((
                self.shape.index_of(want.block),
                take(block_mibs)? | want.state,
            ));
        }
        for &chunk in chunks {
            entries.push((self.shape.bitmap_index(chunk), take(1)? | FULLY_PRESENT));
        }
        let mut change = Change::new(&writer.tables);
        for &(index, entry) in &entries {
            change.put_entry(index, self.bat.offset_of(index), entry)?;
        }
        for want in wants.iter().filter(|want| want.clear) {
            if let Some(bitmap) = self.bitmap_of(self.shape.chunk_of(want.block))? {
                let (from, to) = self.bits_of(want.block);
                change.put_bits(bitmap, from, to, false)?;
            }
        }
        self.publish(writer, session, change)
    }

    /// Commits a change and lets the caches know.
    pub(crate) fn publish(
        &self,
        writer: &Writer,
        session: &mut Session,
        change: Change<'_>,
    ) -> Result<()> {
        if change.len() == 0 {
            return Ok(());
        }
        self.begin(writer, session)?;
        let news = change.news();
        writer.commit(session, change)?;
        for (chunk, bit, words) in news.bitmaps {
            self.bitmaps.put(chunk, bit, &words);
        }
        for (index, entry) in news.entries {
            self.bat.put(index, &[entry]);
        }
        Ok(())
    }

    /// Has space ready for `blocks` runs of `block_mibs` and for `singles` of one MiB, or nothing
    /// changed but the length of the file.
    fn provide(
        &self,
        writer: &Writer,
        session: &mut Session,
        (block_mibs, blocks): (u64, usize),
        singles: usize,
    ) -> Result<()> {
        let mut counts = vec![block_mibs; blocks];
        counts.resize(blocks + singles, 1);
        if session.space.can_take(&counts) {
            return Ok(());
        }
        self.clean(writer, session, &counts)?;
        if session.space.can_take(&counts) {
            return Ok(());
        }
        let needed: u64 = counts.iter().sum();
        let end = session.space.end();
        let goals = [needed.max(STEP), needed].map(|mibs| end.saturating_add(mibs) * MIB);
        let mut grown = self.grow(writer, session, goals[0]);
        if grown
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::NoSpace)
        {
            grown = self.grow(writer, session, goals[1]);
        }
        grown
    }

    /// Makes the file `len` bytes long, a multiple of 1 MiB.
    pub(crate) fn grow(&self, writer: &Writer, session: &mut Session, len: u64) -> Result<()> {
        if len / MIB > MOST_MIBS {
            return Err(no_room());
        }
        writer.file.set_len(len).map_err(|error| {
            let error = Error::io("VHDX file", "cannot be made longer", error);
            writer.judge(error.with_wanted(len))
        })?;
        session.len = len;
        self.territory.set_file_len(len);
        if let Some(journal) = &mut session.journal {
            journal.set_len(len);
        }
        session.space.extended(len / MIB);
        Ok(())
    }

    /// Zeroes space inside the file that nobody owns, durably (S-10): enough for `counts` and some
    /// more, so that not every block costs a flush, or as much as there is.
    fn clean(&self, writer: &Writer, session: &mut Session, counts: &[u64]) -> Result<()> {
        let block = self.shape.block_size / MIB;
        let ahead = std::iter::repeat_n(block, usize::try_from(STEP / block).unwrap_or(0));
        let mut runs = Vec::new();
        let mut cleaned = Ok(());
        let wished = counts.iter().copied().chain(ahead.skip(counts.len()));
        for count in wished {
            let Some(run) = session.space.take_unclean(count) else {
                continue;
            };
            runs.push(run);
            let (start, end) = (run.0 * MIB, ((run.0 + run.1) * MIB).min(session.len));
            if start < end {
                cleaned = writer.file.zero(start, end - start).map_err(|error| {
                    writer.judge(Error::io("new VHDX block", "cannot be zeroed", error).at(start))
                });
            }
            if cleaned.is_err() {
                break;
            }
        }
        if cleaned.is_ok() && !runs.is_empty() {
            cleaned = writer.settle_session(session);
        }
        for run in runs {
            if cleaned.is_ok() {
                session.space.put_back(run);
            } else {
                session.space.put_back_unclean(run);
            }
        }
        cleaned
    }
}

/// A block lost its space between two looks: somebody trimmed it meanwhile.
fn lost(block: u32) -> Error {
    let message = format!("took block {block} away while it was being written");
    Error::new(ErrorKind::Io, "VHDX block allocation table", message)
}

fn no_room() -> Error {
    Error::new(
        ErrorKind::NoSpace,
        "VHDX file",
        "has no room for another block",
    )
}
