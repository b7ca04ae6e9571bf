//! A disk copied into a new image of any format: VHD, VHDX or raw, fixed or dynamic.
//!
//! One thread reads and finds what is zero, another writes the rest, in the disk's order. One
//! writer is as many as a file takes: file systems let nobody else write to it meanwhile, and the
//! blocks of the new image lie in order. Where source and target lie on a file system that shares
//! extents, runs are shared instead of copied. A new image reads as zeros wherever nothing was
//! written. When it returns well, the target is durable; otherwise the file holds a part of an
//! image and whoever made it removes it.

use std::fs::File;

use smallvec::SmallVec;
use virtdisk_format::{CreateOptions, ErrorKind, Format, Place};

use super::ahead::{Piece, Work, in_order};
use super::clone::Sharing;
use super::job::{Job, Stopped};
use super::target::Target;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::extent::LayerExtent;
use crate::file_store::FileStore;

/// Bytes that are looked at for zeros together, as by `cp` and `qemu-img`.
const GRAIN: usize = 4096;
/// Bytes that are copied at once where sharing failed.
const PIECE: usize = 256 << 10;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

/// Copies `source` into an image in `target`, which must be empty; `name` is only for messages. A
/// virtual size of 0 is the source's; a larger one ends in zeros. A logical sector of 0 is the
/// source's where the format has it.
///
/// # Errors
/// `InvalidSize` for a size below the source's; those of [`Disk::create`], of reading the source
/// and of writing the target; `Cancelled`.
pub fn convert(
    source: &Disk,
    target: File,
    name: &str,
    options: &CreateOptions,
    job: &Job,
) -> Result<(), Stopped> {
    let create = CreateOptions {
        virtual_size: virtual_size(source, name, options)?,
        logical_sector_size: logical_sector_size(source, options),
        ..options.clone()
    };
    let (target, sharing) = Target::create(target, name, &create, |target| {
        Sharing::between(source, target)
    })?;
    let copying = Copying {
        source,
        target: &target,
        sharing,
    };
    in_order(source, job, &copying, |piece| {
        match piece {
            // A new image reads as zeros.
            Piece::Zeros(_) => {}
            Piece::Bytes(start, bytes, found) => copying.write(start, bytes, &found)?,
            Piece::Unread(run, from) => copying.share(run, from)?,
        }
        Ok(())
    })?;
    target.finish()?;
    Ok(())
}

fn virtual_size(source: &Disk, name: &str, options: &CreateOptions) -> Result<u64> {
    let size = source.facts().virtual_size;
    match options.virtual_size {
        0 => Ok(size),
        asked if asked >= size => Ok(asked),
        asked => {
            let message = format!("of {asked} bytes is too small for the {size} bytes to copy");
            let kind = ErrorKind::InvalidSize;
            Err(Error::about(name, kind, "virtual size", message))
        }
    }
}

fn logical_sector_size(source: &Disk, options: &CreateOptions) -> u32 {
    match (
        options.logical_sector_size,
        source.facts().logical_sector_size,
    ) {
        (0, 4096) if options.format == Format::Vhdx => 4096,
        (asked, _) => asked,
    }
}

/// One conversion, as its threads see it.
struct Copying<'a> {
    source: &'a Disk,
    target: &'a Target,
    sharing: Sharing,
}

impl<'a> Work for Copying<'a> {
    /// Stretches that are not zero: where and how long.
    type Found = SmallVec<[(usize, usize); 4]>;
    /// The file to share extents with.
    type Unread = &'a FileStore;

    fn unread(&self, layer: u32) -> Option<&'a FileStore> {
        let file = self.source.file(layer)?;
        self.sharing.with(layer).then_some(file)
    }

    fn look(&self, bytes: &[u8]) -> Self::Found {
        let mut found = Self::Found::new();
        let mut from = 0;
        while let Some((at, len)) = next_data(bytes, from) {
            found.push((at, len));
            from = at + len;
        }
        found
    }
}

impl Copying<'_> {
    /// Writes what is not zero.
    fn write(&self, start: u64, bytes: &[u8], found: &[(usize, usize)]) -> Result<()> {
        for &(at, len) in found {
            self.target.write(&bytes[at..at + len], start + at as u64)?;
        }
        Ok(())
    }

    /// Shares as much of a run as can be shared, from its beginning on, and copies the rest.
    fn share(&self, run: LayerExtent, from: &FileStore) -> Result<()> {
        let mut shared = 0;
        if let Place::Data { file_offset } = run.place {
            self.target
                .place(run.start, run.len, |file, to, start, len| {
                    // Only what follows on the last shared byte: the rest has to be one run.
                    if start - run.start == shared {
                        let at = file_offset + shared;
                        shared += self.sharing.share(from, at, file, to, len);
                    }
                    Ok(())
                })?;
        }
        let mut buffer = Vec::new();
        while shared < run.len {
            let left = usize::try_from(run.len - shared).unwrap_or(PIECE);
            buffer.resize(left.min(PIECE), 0);
            let bytes = buffer.as_mut_slice();
            let start = run.start + shared;
            self.source.read_at(bytes, start)?;
            self.write(start, bytes, &self.look(bytes))?;
            shared += bytes.len() as u64;
        }
        Ok(())
    }
}

/// The next stretch of whole grains in `bytes[from..]` that are not zero: where and how long.
fn next_data(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let is_data = |grain: &&[u8]| **grain != ZEROS[..grain.len()];
    let mut grains = bytes.get(from..)?.chunks(GRAIN);
    let skipped = grains.clone().take_while(|grain| !is_data(grain)).count();
    let first = grains.nth(skipped)?;
    let more: usize = grains.take_while(is_data).map(<[u8]>::len).sum();
    Some((from + skipped * GRAIN, first.len() + more))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_left_out_by_grains() {
        let mut bytes = vec![0; 10 * GRAIN + 100];
        assert_eq!(next_data(&bytes, 0), None);
        bytes[2 * GRAIN] = 1;
        bytes[3 * GRAIN + 17] = 1;
        bytes[10 * GRAIN + 99] = 1;
        assert_eq!(next_data(&bytes, 0), Some((2 * GRAIN, 2 * GRAIN)));
        assert_eq!(next_data(&bytes, 4 * GRAIN), Some((10 * GRAIN, 100)));
        assert_eq!(next_data(&bytes, bytes.len()), None);
    }
}
