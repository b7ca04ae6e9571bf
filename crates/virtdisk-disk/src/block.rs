//! Reading, writing, zeroing, trimming, flushing: what moves the bytes of a disk.
//!
//! One 4 KiB request costs one pass of the gate, one look at the map and one `pread` or `pwrite`;
//! zero extents are filled without I/O. A write is reserve → data → complete, and its data land
//! inside the file's length only: if somebody cut the file while it was open, that is an error and
//! not a hole. Ranges may have any alignment and are checked here, once.

use std::io;

use virtdisk_format::{ErrorKind, Extents, Place, Store};

use crate::disk::{Bytes, Disk, Inner};
use crate::error::{Error, Result};

/// Zeros to write into stores that are no files.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

impl Disk {
    /// Fills `buf` from the disk's byte `offset` on.
    ///
    /// # Errors
    /// `OutOfRange`; `InvalidFileSize` if the file became shorter; `Io`; what the format says of
    /// tables that it reads on demand. The contents of `buf` mean nothing then.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let inner = &*self.inner;
        let len = inner.check_range(offset, buf.len())?;
        let _pass = inner.pass()?;
        let extents = inner.map(offset, len)?;
        let mut rest = buf;
        for extent in &extents {
            let part = usize::try_from(extent.len).ok();
            let Some((part, tail)) = part.and_then(|part| rest.split_at_mut_checked(part)) else {
                return Err(inner.wrong_map());
            };
            match extent.place {
                Place::Zero => part.fill(0),
                Place::Data { file_offset } => inner
                    .bytes
                    .read(part, file_offset)
                    .map_err(|error| inner.data_error("cannot be read", error, file_offset))?,
                Place::Parent => return Err(inner.needs_parent()),
            }
            rest = tail;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(inner.wrong_map())
        }
    }

    /// Writes `buf` at the disk's byte `offset`. Other handles of the file see it when this
    /// returns; it is durable after the next [`Self::flush`].
    ///
    /// # Errors
    /// `OutOfRange`, `ReadOnly`; `NoSpace`, after which the disk is usable and the range holds old
    /// or new bytes; `InvalidFileSize` if the file became shorter; `WritesRefused` after an earlier
    /// metadata write failed; `Io`.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<()> {
        let inner = &*self.inner;
        if !inner.writable {
            return Err(inner.read_only());
        }
        let len = inner.check_range(offset, buf.len())?;
        let _pass = inner.pass()?;
        let mut extents = Extents::new();
        let reserved = inner.image.reserve(offset, len, &mut extents);
        let ticket = reserved.map_err(|error| inner.error(error))?;
        let mut rest = buf;
        for extent in &extents {
            let part = usize::try_from(extent.len).ok();
            let Some((part, tail)) = part.and_then(|part| rest.split_at_checked(part)) else {
                return Err(inner.wrong_map());
            };
            let Place::Data { file_offset } = extent.place else {
                return Err(inner.wrong_map());
            };
            inner
                .bytes
                .write(part, file_offset)
                .map_err(|error| inner.data_error("cannot be written", error, file_offset))?;
            rest = tail;
        }
        if !rest.is_empty() {
            return Err(inner.wrong_map());
        }
        inner
            .image
            .complete(ticket)
            .map_err(|error| inner.error(error))
    }

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
        let _pass = inner.pass()?;
        for extent in inner.map(offset, len)? {
            match extent.place {
                Place::Zero => {}
                Place::Data { file_offset } => inner
                    .bytes
                    .zero(file_offset, extent.len)
                    .map_err(|error| inner.data_error("cannot be zeroed", error, file_offset))?,
                Place::Parent => return Err(inner.needs_parent()),
            }
        }
        Ok(())
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
            let nothing = inner
                .map(offset, len)?
                .iter()
                .all(|extent| extent.place == Place::Zero);
            if nothing {
                return Ok(());
            }
        }
        let alone = inner.gate.write();
        inner.check_open(*alone)?;
        inner
            .image
            .trim(offset, len)
            .map_err(|error| inner.error(error))
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// `Io`, `NoSpace`: nothing is known of the bytes written since the last flush, and every later
    /// flush fails too, until the disk is opened anew.
    pub fn flush(&self) -> Result<()> {
        let inner = &*self.inner;
        let _pass = inner.pass()?;
        inner.image.flush().map_err(|error| inner.error(error))
    }

    /// Where the bytes of a range lie: extents that cover exactly the range, neighbours merged.
    /// They may change with the next write or trim.
    ///
    /// # Errors
    /// `OutOfRange`; what the format says of tables that it reads on demand.
    pub fn extents(&self, start: u64, len: u64) -> Result<Extents> {
        let inner = &*self.inner;
        inner.check_long_range(start, len)?;
        let _pass = inner.pass()?;
        inner.map(start, len)
    }
}

impl Inner {
    #[inline]
    fn map(&self, start: u64, len: u64) -> Result<Extents> {
        let mut extents = Extents::new();
        match self.image.map(start, len, &mut extents) {
            Ok(()) => Ok(extents),
            Err(error) => Err(self.error(error)),
        }
    }

    #[inline]
    fn check_range(&self, offset: u64, len: usize) -> Result<u64> {
        let len = len as u64;
        self.check_long_range(offset, len)?;
        Ok(len)
    }

    #[inline]
    fn check_long_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(self.out_of_range(offset, len)),
        }
    }

    /// Whether anything may be written at all; the format knows of earlier failures.
    fn check_writable(&self) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let mut none = Extents::new();
        match self.image.reserve(0, 0, &mut none) {
            Ok(ticket) => self
                .image
                .complete(ticket)
                .map_err(|error| self.error(error)),
            Err(error) => Err(self.error(error)),
        }
    }

    #[cold]
    fn out_of_range(&self, offset: u64, len: u64) -> Error {
        let message = format!(
            "of {len} bytes from byte {offset} on is not inside the virtual disk of {} bytes",
            self.size
        );
        self.fail(ErrorKind::OutOfRange, "range", &message)
    }

    #[cold]
    fn read_only(&self) -> Error {
        self.fail(ErrorKind::ReadOnly, "disk", "is open for reading only")
    }

    #[cold]
    fn wrong_map(&self) -> Error {
        self.fail(
            ErrorKind::Io,
            "map of the image",
            "does not cover the range that was asked for",
        )
    }

    #[cold]
    fn needs_parent(&self) -> Error {
        let kind = ErrorKind::ParentMissing;
        self.fail(
            kind,
            "range",
            "is in the parent of the image, which is not open",
        )
    }

    /// An error while data moved. A range that ends past the file means that somebody cut it.
    #[cold]
    fn data_error(&self, action: &'static str, error: io::Error, file_offset: u64) -> Error {
        let action = match error.kind() {
            io::ErrorKind::UnexpectedEof => "ends past the file, which was cut while it was open",
            _ => action,
        };
        self.error(virtdisk_format::Error::io("data", action, error).at(file_offset))
    }
}

impl Bytes {
    #[inline]
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.read_exact_at(buf, offset),
            Self::Other(store) => store.read_exact_at(buf, offset),
        }
    }

    #[inline]
    fn write(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_inside(buf, offset),
            Self::Other(store) => {
                check_inside(&**store, offset, buf.len() as u64)?;
                store.write_all_at(buf, offset)
            }
        }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        match self {
            Self::File(file) => file.zero_keeping_space(offset, len),
            Self::Other(store) => {
                check_inside(&**store, offset, len)?;
                let (mut position, mut left) = (offset, len);
                while left > 0 {
                    let part = usize::try_from(left)
                        .unwrap_or(ZEROS.len())
                        .min(ZEROS.len());
                    store.write_all_at(&ZEROS[..part], position)?;
                    position += part as u64;
                    left -= part as u64;
                }
                Ok(())
            }
        }
    }
}

fn check_inside(store: &dyn Store, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= store.len()? => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
