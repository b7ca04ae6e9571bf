//! Giving ranges back.
//!
//! A block that is trimmed as a whole becomes ZERO with offset 0, in the log, and its space is
//! punched; other blocks get that space after a flush made the loss durable. A part of a block is
//! zeroed in place. Of a differencing disk, what was the parent's becomes zeros of the image's own:
//! whole blocks ZERO, parts zeroed data whose sectors are marked once the zeros are durable.
//! A fixed disk keeps all its blocks. The caller keeps all other I/O away, so nobody holds an
//! extent of what goes.

use super::change::Change;
use super::layout::{MIB, ZERO};
use super::map::{Block, Vhdx};
use super::space::Run;
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::facts::Kind;

/// Blocks that are to lose their data, in one log entry.
struct Release<'a> {
    change: Change<'a>,
    /// The space of those that had some.
    runs: Vec<Run>,
}

impl<'a> Release<'a> {
    fn new(writer: &'a Writer) -> Release<'a> {
        Release {
            change: Change::new(&writer.tables),
            runs: Vec::new(),
        }
    }
}

impl Vhdx {
    /// Makes the virtual bytes from `start` to `end`, at least one, zeros and frees whole blocks.
    pub(crate) fn trim_range(&self, writer: &Writer, start: u64, end: u64) -> Result<()> {
        let mut release = Release::new(writer);
        for block in self.shape.block_of(start)..=self.shape.block_of(end - 1) {
            let block_start = self.shape.start_of(block);
            let block_end = block_start + self.shape.visible(block);
            let (from, to) = (start.max(block_start), end.min(block_end));
            if (from, to) != (block_start, block_end) || self.facts.kind == Kind::Fixed {
                // Its own change may be of the pages that the one begun before holds copies of.
                let begun = std::mem::replace(&mut release, Release::new(writer));
                self.release(writer, begun)?;
                self.zero_part(writer, block, from, to)?;
                continue;
            }
            if release.change.len() >= writer.most_pages {
                let full = std::mem::replace(&mut release, Release::new(writer));
                self.release(writer, full)?;
            }
            self.add_block(block, &mut release)?;
        }
        self.release(writer, release)?;
        let settle = writer.wants_settling(&*writer.session()?);
        if settle { writer.settle() } else { Ok(()) }
    }

    /// Adds a block that is trimmed as a whole, unless it reads as zeros already.
    fn add_block(&self, block: u32, release: &mut Release<'_>) -> Result<()> {
        match self.block(block)? {
            Block::Data { offset, .. } | Block::Partial { offset, .. } => {
                let run = (offset / MIB, self.shape.block_size / MIB);
                release.runs.push(run);
            }
            Block::Parent => {}
            // UNDEFINED among others stays what it is: backup tools skip it.
            Block::Zero => return Ok(()),
        }
        let index = self.shape.index_of(block);
        let change = &mut release.change;
        change.put_entry(index, self.bat.offset_of(index), ZERO)
    }

    /// Writes the log entry, then punches the space.
    fn release(&self, writer: &Writer, release: Release<'_>) -> Result<()> {
        let mut session = writer.session()?;
        self.publish(writer, &mut session, release.change)?;
        let mut punched = Ok(());
        for run in release.runs {
            let (start, end) = (run.0 * MIB, ((run.0 + run.1) * MIB).min(session.len));
            let one = writer.file.zero(start, end.saturating_sub(start));
            session.space.lose(run, one.is_ok());
            // The range reads as zeros already; only its space is not given back.
            punched = punched.and(one);
        }
        punched.map_err(|error| Error::io("freed VHDX block", "cannot be punched", error))
    }

    /// Zeroes a part of a block.
    fn zero_part(&self, writer: &Writer, block: u32, from: u64, to: u64) -> Result<()> {
        match self.block(block)? {
            Block::Data { offset, .. } => self.zero_data(writer, offset, from, to),
            Block::Partial { offset, bitmap } => {
                let lacks = self.lacks_sectors(bitmap, from, to)?;
                self.zero_data(writer, offset, from, to)?;
                if lacks {
                    self.mark_written(writer, from, to)?;
                }
                Ok(())
            }
            Block::Parent => {
                let sector = self.shape.sector_size;
                if !from.is_multiple_of(sector) || !to.is_multiple_of(sector) {
                    return Err(self.splits_sector(from));
                }
                self.allocate(writer, block, block)?;
                // New space reads as zeros, durably.
                self.mark_present(writer, &mut *writer.session()?, from, to)
            }
            Block::Zero => Ok(()),
        }
    }

    fn zero_data(&self, writer: &Writer, data: u64, from: u64, to: u64) -> Result<()> {
        self.say_touched(writer)?;
        let at = data + self.shape.within(from);
        let zeroed = writer.file.zero(at, to - from);
        zeroed.map_err(|error| Error::io("VHDX block", "cannot be zeroed", error).at(at))
    }
}
