//! Giving blocks their space before data are written to them. A block gets it as zeros first and
//! its data later, as an ordinary overwrite. The order (V-31), each step durable before the next,
//! 1 and 2 for several blocks at once:
//!   1. the footer at its new place behind the new blocks; the old one is still there
//!   2. zeros and a bitmap in each new slot, over the old footer among others: all ones, but in a
//!      differencing disk all zeros (V-9)
//!   3. the block's entry in the table, four bytes (durable with the caller's next flush)
//!
//! Stopped anywhere, the file has a good footer at its end; slots without an entry belong to
//! nobody; an entry only ever names zeros or data that were written for it, or the parent.

use std::sync::atomic::Ordering;

use super::bat::Entry;
use super::layout::{FOOTER, SECTOR, UNALLOCATED};
use super::map::Dynamic;
use super::space::Space;
use crate::error::{Error, ErrorKind, Result};
use zerocopy::IntoBytes;

impl Dynamic {
    /// Makes all blocks from `first` to `last` allocated, and whole if the disk has no parent.
    pub(crate) fn make_ready(&self, space: &mut Space, first: u32, last: u32) -> Result<()> {
        // A thread that waited for the lock may find that another one failed meanwhile.
        self.writable()?;
        let mut wanted = 0;
        for block in first..=last {
            wanted += u32::from(self.bat.look(block)?.sector == UNALLOCATED);
        }
        if wanted > 0 {
            self.provide(space, wanted)?;
        }
        for block in first..=last {
            match self.bat.look(block)? {
                Entry {
                    sector: UNALLOCATED,
                    ..
                } => self.allocate(space, block)?,
                Entry { whole: true, .. } => {}
                _ if self.over_parent() => {}
                Entry {
                    sector,
                    whole: false,
                } => self.fill(block, sector)?,
            }
        }
        Ok(())
    }

    /// Step 3: a ready slot becomes the block's.
    fn allocate(&self, space: &mut Space, block: u32) -> Result<()> {
        let Some(sector) = space.take_ready() else {
            return Err(no_room());
        };
        let whole = !self.over_parent();
        self.bat
            .assign(block, Entry { sector, whole })
            .map_err(|error| self.refuse(error))?;
        space.unallocated = space.unallocated.saturating_sub(1);
        space.changed = true;
        Ok(())
    }

    /// Has at least `wanted` slots ready, or nothing changed.
    fn provide(&self, space: &mut Space, wanted: u32) -> Result<()> {
        if space.ready() >= wanted {
            return Ok(());
        }
        let goal = space.goal(wanted);
        let mut slots = space.take_free(goal - space.ready().min(goal));
        let mut fresh_from = u64::MAX;
        let missing = |slots: &Vec<u32>, space: &Space, wish: u32| {
            wish.saturating_sub(space.ready().saturating_add(count(slots)))
        };
        if missing(&slots, space, wanted) > 0 {
            match self.move_footer(space, missing(&slots, space, goal)) {
                Ok(from) => fresh_from = from,
                Err(error) => {
                    space.add_free(slots);
                    return Err(error);
                }
            }
            slots.extend(space.take_free(missing(&slots, space, goal)));
        }
        if missing(&slots, space, wanted) > 0 {
            space.add_free(slots);
            return Err(no_room());
        }
        if let Err(error) = self.prepare(space, &slots, fresh_from) {
            space.add_free(slots);
            return Err(error);
        }
        space.add_ready(slots);
        Ok(())
    }

    /// Step 1: moves the footer so that `slots` more fit before it. Answers from where on the file
    /// is known to hold zeros. `NoSpace` leaves everything as it was.
    fn move_footer(&self, space: &mut Space, slots: u32) -> Result<u64> {
        let old_len = space.footer_at + FOOTER;
        let Some(to) = space.place_for(slots).filter(|&to| to >= old_len) else {
            return Err(no_room());
        };
        if let Err(error) = self.store.write_all_at(space.footer.as_bytes(), to) {
            let error =
                Error::io("VHD footer", "cannot be written behind new blocks", error).at(to);
            let undone = self.store.set_len(old_len).is_ok();
            return Err(if undone && error.kind() == ErrorKind::NoSpace {
                error
            } else {
                self.refuse(error)
            });
        }
        self.settle()?;
        space.footer_at = to;
        space.changed = true;
        self.data_end.store(to, Ordering::Release);
        Ok(old_len)
    }

    /// Step 2: zeros and bitmap of new slots, durable. The file holds zeros from `fresh_from` on.
    /// Nothing refers to the slots, so running out of room here does no harm.
    fn prepare(&self, space: &Space, slots: &[u32], fresh_from: u64) -> Result<()> {
        let bits = if self.over_parent() { 0 } else { 0xFF };
        let bitmap = vec![bits; usize::try_from(self.shape.bitmap).unwrap_or(0)];
        for &sector in slots {
            let (start, end) = space.data_of(sector);
            let dirty = end.min(fresh_from).saturating_sub(start);
            if dirty > 0 {
                self.store.zero(start, dirty).map_err(|error| {
                    self.judge(Error::io("new VHD block", "cannot be zeroed", error).at(start))
                })?;
            }
            let at = u64::from(sector) * SECTOR;
            self.store.write_all_at(&bitmap, at).map_err(|error| {
                self.judge(Error::io("VHD sector bitmap", "cannot be written", error).at(at))
            })?;
        }
        self.settle()
    }

    /// Makes an allocated block whole (V-11): its absent sectors become zeros in the file, durable,
    /// and then its bitmap all ones. Neither is seen before the other: a sector whose bit is 0 is
    /// zeros whatever it holds. The bitmap is durable with the data that the caller then writes.
    fn fill(&self, block: u32, sector: u32) -> Result<()> {
        let turn = self.bitmaps.turn(block);
        let data_end = self.data_end.load(Ordering::Acquire);
        self.shape
            .check_entry(block, sector, data_end, self.bat.offset_of(block))?;
        let bitmap = self.read_bitmap(block, sector)?;
        if !self.is_whole(block, &bitmap) {
            turn.keep(&bitmap);
            let end = self.shape.sectors(block);
            let mut at = 0;
            while at < end {
                let (sectors, present) = turn.run(at, end);
                if !present {
                    let offset = self.shape.data_at(sector) + at * SECTOR;
                    self.store.zero(offset, sectors * SECTOR).map_err(|error| {
                        let error = Error::io("VHD block", "cannot be zeroed", error).at(offset);
                        self.judge(error)
                    })?;
                }
                at += sectors;
            }
            self.settle()?;
            let ones = vec![0xFF; usize::try_from(self.shape.bitmap).unwrap_or(0)];
            let at = u64::from(sector) * SECTOR;
            self.store.write_all_at(&ones, at).map_err(|error| {
                self.judge(Error::io("VHD sector bitmap", "cannot be written", error).at(at))
            })?;
        }
        turn.forget();
        self.bat.mark_whole(block, sector);
        Ok(())
    }

    /// An error on bytes that nothing refers to yet: only a full file system leaves the image open
    /// for further writes.
    pub(crate) fn judge(&self, error: Error) -> Error {
        if error.kind() == ErrorKind::NoSpace {
            error
        } else {
            self.refuse(error)
        }
    }
}

fn count(slots: &[u32]) -> u32 {
    u32::try_from(slots.len()).unwrap_or(u32::MAX)
}

fn no_room() -> Error {
    Error::new(
        ErrorKind::NoSpace,
        "VHD file",
        "has no room for another block below 2 TiB, where file offsets in a VHD end",
    )
}
