//! The map that every format offers.
//!
//! All methods take `&self` and may run on any number of threads, except where a method says that
//! its caller keeps others away. A write is: [`Image::reserve`], then the caller writes the data at
//! the extents, then [`Image::complete`]. Ranges are virtual bytes; a range outside the disk is
//! `OutOfRange`, one that is empty answers no extents.

use std::sync::Arc;

use crate::error::Result;
use crate::extent::Extents;
use crate::facts::{Facts, MetadataItem, Physical};
use crate::store::Store;

/// What an [`Image::reserve`] still has to do once its data are written. Give it to
/// [`Image::complete`]; one that is dropped instead leaves the reserved space reading as before.
#[derive(Debug, Default)]
#[must_use]
pub struct Ticket {
    start: u64,
    len: u64,
}

impl Ticket {
    /// A ticket behind which there is nothing left to do.
    pub fn done() -> Ticket {
        Ticket::default()
    }

    /// A ticket for virtual bytes that become the image's own once their data are written.
    pub fn pending(start: u64, len: u64) -> Ticket {
        Ticket { start, len }
    }

    /// The range given to [`Ticket::pending`]; `None` where nothing is left to do.
    #[must_use]
    pub fn range(&self) -> Option<(u64, u64)> {
        (self.len > 0).then_some((self.start, self.len))
    }
}

/// An open image.
pub trait Image: Send + Sync {
    /// The facts, unchanged for as long as the image is open.
    fn facts(&self) -> &Facts;

    /// `Some(file offset)` where the disk is one run of the file, from virtual byte 0 to
    /// `virtual_size`, all of it inside the file: then nothing but that offset is needed to read
    /// and write it.
    fn whole(&self) -> Option<u64>;

    /// `Some` where the disk's bytes must be read through another store than the file: a log that
    /// was replayed in memory.
    fn bytes(&self) -> Option<Arc<dyn Store>> {
        None
    }

    /// Appends extents that cover exactly `start..start + len` to `out`, neighbours merged.
    ///
    /// # Errors
    /// `OutOfRange`; `BatCorrupt`, `BitmapMismatch` or `Io` from tables that are read on demand.
    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()>;

    /// Makes place for a write to `start..start + len` and appends its extents, all of them data.
    /// Crash-safe: stopped at any instant, the image opens and its old bytes are unchanged.
    /// Where bytes are the parent's, the range must begin and end on logical sectors.
    ///
    /// # Errors
    /// `ReadOnly`, `OutOfRange`; `InvalidParameter` where the range cuts a sector of the parent's;
    /// `NoSpace` with nothing changed; `WritesRefused` after an earlier metadata write failed;
    /// otherwise as [`Image::map`].
    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket>;

    /// Says that the data of a reservation are written, not yet durable.
    ///
    /// # Errors
    /// As [`Image::reserve`].
    fn complete(&self, ticket: Ticket) -> Result<()>;

    /// Says that the disk's bytes will be written around the image, straight in the file at
    /// [`Image::whole`]: what tells others that the data changed is renewed first.
    ///
    /// # Errors
    /// As [`Image::reserve`].
    fn touch(&self) -> Result<()> {
        Ok(())
    }

    /// The metadata items that a child of this image takes over.
    ///
    /// # Errors
    /// As [`Image::map`].
    fn inherited(&self) -> Result<Vec<MetadataItem>> {
        Ok(Vec::new())
    }

    /// Makes the range read as zeros, also where it was the parent's, and frees what the format
    /// can free of it. The caller keeps every other I/O on the image away meanwhile. Where bytes
    /// are the parent's, the range must begin and end on logical sectors.
    ///
    /// # Errors
    /// As [`Image::reserve`].
    fn trim(&self, start: u64, len: u64) -> Result<()>;

    /// Makes data and metadata durable.
    ///
    /// # Errors
    /// `Io`.
    fn flush(&self) -> Result<()>;

    /// Reads the structures and the length again: is the file still what `open` saw? (R-DET-15)
    ///
    /// # Errors
    /// The kind that `open` would give for what is there now; `FooterCorrupt`, `HeaderCorrupt`,
    /// `InvalidFileSize` where it is sound but another image than was opened.
    fn validate(&self) -> Result<()>;

    /// How the image lies in its file. Reads the tables; may take a while on a large disk.
    ///
    /// # Errors
    /// As [`Image::map`].
    fn physical(&self) -> Result<Physical>;

    /// Gives back space taken ahead of need and makes everything durable. The caller keeps every
    /// other I/O away; the image refuses writes afterwards.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; the file is a valid image either way.
    fn close(&self) -> Result<()>;
}
