//! Reading, writing, flushing: what moves the bytes of a disk.
//!
//! One 4 KiB request costs one pass of the gate, one look at the map and one `pread` or `pwrite`;
//! zero extents are filled without I/O. A write is reserve → data → complete, and its data land
//! inside the file's length only: if somebody cut the file while it was open, that is an error and
//! not a hole. Ranges may have any alignment and are checked here, once; a write that shares a
//! sector with bytes of the parent takes these along, while no other I/O runs.

use std::ops::ControlFlow;

use virtdisk_format::{ErrorKind, Extents, Place};

use crate::disk::{Disk, Inner};
use crate::erase::LONGEST_SECTOR;
use crate::error::{Error, Result};
use crate::extent::{LayerExtent, LayerExtents, Looks};

impl Disk {
    /// Fills `buf` from the disk's byte `offset` on.
    ///
    /// # Errors
    /// `OutOfRange`; `InvalidFileSize` if a file became shorter; `ParentMissing` where the bytes
    /// are those of a parent that is not open; `Io`; what the format says of tables that it reads
    /// on demand. The contents of `buf` mean nothing then.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let inner = &*self.inner;
        inner.check_range(offset, buf.len())?;
        let _pass = inner.pass()?;
        inner.read(buf, offset)
    }

    /// Writes `buf` at the disk's byte `offset`. Other handles of the file see it when this
    /// returns; it is durable after the next [`Self::flush`].
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`; `NoSpace`, after which the disk is usable and the range holds old
    /// or new bytes; `InvalidFileSize` if the file became shorter; `WritesRefused` after an earlier
    /// metadata write failed; `ParentMissing` where the write shares a sector with bytes of a
    /// parent that is not open; `Io`.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let inner = &*self.inner;
        if !inner.writable {
            return Err(inner.read_only());
        }
        let len = inner.check_range(offset, buf.len())?;
        let pass = inner.pass()?;
        if !inner.shares_sectors(offset, len)? {
            return inner.put(&[buf], offset, len);
        }
        drop(pass);
        let alone = inner.gate.write();
        inner.check_open(*alone)?;
        inner.rewrite(buf, offset)
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: nothing is known of the bytes written since the last flush, and every later
    /// flush fails too, until the disk is opened anew.
    pub fn flush(&self) -> Result<()> {
        let inner = &*self.inner;
        let _pass = inner.pass()?;
        let flushed = inner.leaf.image.flush();
        flushed.map_err(|error| inner.leaf.error(error))
    }

    /// Where the bytes of a range lie: extents that cover exactly the range, neighbours merged.
    /// They may change with the next write or trim. The list of a long range may be long too.
    ///
    /// # Errors
    /// `OutOfRange`; what the format says of tables that it reads on demand.
    pub fn extents(&self, start: u64, len: u64) -> Result<LayerExtents> {
        let inner = &*self.inner;
        inner.check_long_range(start, len)?;
        let _pass = inner.pass()?;
        inner.resolve(0, start, len)
    }

    /// Goes through the extents of a range in order, until `visit` breaks off. A long range is
    /// looked at in pieces, so that it takes little memory: neighbours may continue each other, and
    /// what is written meanwhile may show or not. `visit` may use the disk.
    ///
    /// # Errors
    /// As [`Self::extents`].
    pub fn walk(
        &self,
        start: u64,
        len: u64,
        visit: &mut dyn FnMut(LayerExtent) -> ControlFlow<()>,
    ) -> Result<()> {
        let inner = &*self.inner;
        inner.check_long_range(start, len)?;
        let mut looks = Looks::over(start, len);
        while let Some((start, len)) = looks.next() {
            let extents = {
                let _pass = inner.pass()?;
                inner.resolve(0, start, len)?
            };
            looks.had(extents.len());
            if extents.into_iter().try_for_each(&mut *visit).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Reads a range that was checked; the caller has passed the gate.
    #[inline]
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let extents = self.leaf.map(offset, buf.len() as u64)?;
        let mut rest = buf;
        for extent in &extents {
            let part = usize::try_from(extent.len).ok();
            let Some((part, tail)) = part.and_then(|part| rest.split_at_mut_checked(part)) else {
                return Err(self.leaf.wrong_map());
            };
            match extent.place {
                Place::Zero => part.fill(0),
                Place::Data { file_offset } => self.leaf.read(part, file_offset)?,
                Place::Parent => self.read_parents(part, extent.start)?,
            }
            rest = tail;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(self.leaf.wrong_map())
        }
    }

    /// Reads a range that is the parent's.
    #[inline(never)]
    fn read_parents(&self, buf: &mut [u8], start: u64) -> Result<()> {
        let mut rest = buf;
        for extent in &self.resolve(1, start, rest.len() as u64)? {
            let layer = self.layer(extent.layer).unwrap_or(&self.leaf);
            let part = usize::try_from(extent.len).ok();
            let Some((part, tail)) = part.and_then(|part| rest.split_at_mut_checked(part)) else {
                return Err(layer.wrong_map());
            };
            match extent.place {
                Place::Zero => part.fill(0),
                Place::Data { file_offset } => layer.read(part, file_offset)?,
                Place::Parent => return Err(self.needs_parent()),
            }
            rest = tail;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(self.leaf.wrong_map())
        }
    }

    /// Writes `pieces`, one behind the other and `len` bytes together, at `offset`: reserve, data,
    /// complete. The caller has passed the gate.
    #[inline]
    fn put(&self, pieces: &[&[u8]], offset: u64, len: u64) -> Result<()> {
        let leaf = &self.leaf;
        let mut extents = Extents::new();
        let reserved = leaf.image.reserve(offset, len, &mut extents);
        let ticket = reserved.map_err(|error| leaf.error(error))?;
        let mut pieces = pieces.iter().copied();
        let mut piece: &[u8] = &[];
        for extent in &extents {
            let Place::Data { mut file_offset } = extent.place else {
                return Err(leaf.wrong_map());
            };
            let mut left = extent.len;
            while left > 0 {
                if piece.is_empty() {
                    piece = pieces.next().ok_or_else(|| leaf.wrong_map())?;
                }
                let most = usize::try_from(left).unwrap_or(usize::MAX);
                let (part, tail) = piece.split_at(piece.len().min(most));
                leaf.write(part, file_offset)?;
                file_offset += part.len() as u64;
                left -= part.len() as u64;
                piece = tail;
            }
        }
        if !piece.is_empty() || pieces.any(|piece| !piece.is_empty()) {
            return Err(leaf.wrong_map());
        }
        let completed = leaf.image.complete(ticket);
        completed.map_err(|error| leaf.error(error))
    }

    /// Writes `buf` with the rest of the sectors at its ends, which may be a parent's. The caller
    /// has the gate alone.
    pub(crate) fn rewrite(&self, buf: &[u8], offset: u64) -> Result<()> {
        let sector = self.sector;
        let end = offset + buf.len() as u64;
        let before = (offset % sector) as usize;
        let behind = (end.next_multiple_of(sector) - end) as usize;
        let (mut head, mut tail) = ([0; LONGEST_SECTOR], [0; LONGEST_SECTOR]);
        let (Some(head), Some(tail)) = (head.get_mut(..before), tail.get_mut(..behind)) else {
            return Err(self.leaf.wrong_map());
        };
        let start = offset - before as u64;
        self.read(head, start)?;
        self.read(tail, end)?;
        let len = end + behind as u64 - start;
        self.put(&[head, buf, tail], start, len)
    }

    /// Whether a range begins or ends inside a logical sector that is the parent's.
    #[inline]
    fn shares_sectors(&self, offset: u64, len: u64) -> Result<bool> {
        if !self.differencing || len == 0 {
            return Ok(false);
        }
        let sector = self.sector;
        let end = offset + len;
        let parents = |start: u64| {
            let extents = self.leaf.map(start, sector)?;
            Ok(extents.iter().any(|extent| extent.place == Place::Parent))
        };
        let (first, last) = (offset - offset % sector, end - end % sector);
        Ok((first != offset && parents(first)?) || (last != end && parents(last)?))
    }

    #[inline]
    fn check_range(&self, offset: u64, len: usize) -> Result<u64> {
        let len = len as u64;
        self.check_long_range(offset, len)?;
        Ok(len)
    }

    #[inline]
    pub(crate) fn check_long_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.out_of_range(offset, len)),
        }
    }

    /// Whether anything may be written at all; the format knows of earlier failures.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let image = &self.leaf.image;
        let reserved = image.reserve(0, 0, &mut Extents::new());
        let completed = reserved.and_then(|ticket| image.complete(ticket));
        completed.map_err(|error| self.leaf.error(error))
    }

    #[cold]
    fn out_of_range(&self, offset: u64, len: u64) -> Error {
        let message = format!(
            "of {len} bytes from byte {offset} on is not inside the virtual disk of {} bytes",
            self.size
        );
        self.leaf.fail(ErrorKind::OutOfRange, "range", message)
    }

    #[cold]
    fn read_only(&self) -> Error {
        let kind = ErrorKind::ReadOnly;
        self.leaf.fail(kind, "disk", "is open for reading only")
    }

    #[cold]
    fn needs_parent(&self) -> Error {
        let message = "is in the parent of the image, which is not open";
        self.leaf.fail(ErrorKind::ParentMissing, "range", message)
    }
}
