//! Zeroing and trimming: what makes a range read as zeros.
//!
//! What reads as zeros already is left out, through all layers. A differencing image must store its
//! zeros where the parent has something else (V-35, X-42): its format is asked for that by whole
//! logical sectors, and a sector that is only partly in the range is rewritten. Blocks are freed,
//! and parents hidden, only while no other I/O runs.

use virtdisk_format::Place;

use crate::disk::{Disk, Inner};
use crate::error::Result;
use crate::extent::{LayerExtent, Looks};

/// The longest logical sector of any format, in bytes.
pub(crate) const LONGEST_SECTOR: usize = 4096;

impl Disk {
    /// Makes a range read as zeros. With `unmap` its space may be given back, as by
    /// [`Self::trim`]; without, what has space keeps it.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    pub fn zero(&self, offset: u64, len: u64, unmap: bool) -> Result<()> {
        if unmap {
            return self.trim(offset, len);
        }
        let inner = &*self.inner;
        inner.check_writable()?;
        inner.check_long_range(offset, len)?;
        let mut hidden = false;
        {
            let _pass = inner.pass()?;
            inner.each(offset, len, &mut |extent| {
                match (extent.layer, extent.place) {
                    (_, Place::Zero) => {}
                    (0, Place::Data { file_offset }) => inner.leaf.zero(file_offset, extent.len)?,
                    _ => hidden = true,
                }
                Ok(())
            })?;
        }
        if !hidden {
            return Ok(());
        }
        let alone = inner.gate.write();
        inner.check_open(*alone)?;
        inner.each(
            offset,
            len,
            &mut |extent| match (extent.layer, extent.place) {
                (_, Place::Zero) | (0, Place::Data { .. }) => Ok(()),
                _ => inner.erase(extent.start, extent.len, 1),
            },
        )
    }

    /// Gives a range back: it reads as zeros, and what the format can free of it is freed. Waits
    /// for all running I/O on the disk.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    pub fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let inner = &*self.inner;
        inner.check_writable()?;
        inner.check_long_range(offset, len)?;
        {
            let _pass = inner.pass()?;
            if inner.is_zero(offset, len)? {
                return Ok(());
            }
        }
        let alone = inner.gate.write();
        inner.check_open(*alone)?;
        if inner.differencing {
            let block = u64::from(inner.leaf.image.facts().block_size).max(1);
            return inner.erase(offset, len, block);
        }
        inner
            .leaf
            .image
            .trim(offset, len)
            .map_err(|error| inner.leaf.error(error))
    }
}

impl Inner {
    /// Calls `visit` with the extents of a range, piece by piece: what one call changes the pieces
    /// behind it may already show.
    fn each(
        &self,
        offset: u64,
        len: u64,
        visit: &mut dyn FnMut(&LayerExtent) -> Result<()>,
    ) -> Result<()> {
        let mut looks = Looks::over(offset, len);
        while let Some((start, len)) = looks.next() {
            let extents = self.resolve(0, start, len)?;
            looks.had(extents.len());
            extents.iter().try_for_each(&mut *visit)?;
        }
        Ok(())
    }

    /// Whether a range reads as zeros without a look at any data.
    fn is_zero(&self, offset: u64, len: u64) -> Result<bool> {
        let mut looks = Looks::over(offset, len);
        while let Some((start, len)) = looks.next() {
            let extents = self.resolve(0, start, len)?;
            looks.had(extents.len());
            if !extents.iter().all(LayerExtent::is_zero) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes a range of a differencing leaf zeros. Whole units of `unit` bytes that are not zero
    /// already are given to the format, which frees what it can of them; the caller has the gate
    /// alone.
    fn erase(&self, offset: u64, len: u64, unit: u64) -> Result<()> {
        let sector = self.sector;
        let end = offset + len;
        let from = offset.next_multiple_of(sector).min(end);
        let to = (end - end % sector).max(from);
        self.blank(offset, from)?;
        self.blank(to, end)?;
        let trim = |(from, to): (u64, u64)| {
            let done = self.leaf.image.trim(from, to - from);
            done.map_err(|error| self.leaf.error(error))
        };
        let mut waiting: Option<(u64, u64)> = None;
        self.each(from, to - from, &mut |extent| {
            if extent.is_zero() {
                return Ok(());
            }
            let start = (extent.start - extent.start % unit).max(from);
            let end = extent
                .end()
                .checked_next_multiple_of(unit)
                .unwrap_or(to)
                .min(to);
            waiting = match waiting.take() {
                Some((first, last)) if start <= last => Some((first, last.max(end))),
                Some(range) => {
                    trim(range)?;
                    Some((start, end))
                }
                None => Some((start, end)),
            };
            Ok(())
        })?;
        waiting.map_or(Ok(()), trim)
    }

    /// Makes a part of one sector zeros, unless it is.
    fn blank(&self, from: u64, to: u64) -> Result<()> {
        if from == to || self.is_zero(from, to - from)? {
            return Ok(());
        }
        let zeros = [0; LONGEST_SECTOR];
        let len = usize::try_from(to - from).unwrap_or(LONGEST_SECTOR);
        let zeros = zeros.get(..len).ok_or_else(|| self.leaf.wrong_map())?;
        self.rewrite(zeros, from)
    }
}
