//! A disk copied into a new image of any format: VHD, VHDX or raw, fixed or dynamic.
//!
//! Pieces of the disk go round between a few threads: each takes the next piece, reads it, leaves
//! out what is zero and writes the rest, so reading and writing overlap. Where source and target
//! lie on a file system that shares extents, pieces are shared instead of copied. A new image
//! reads as zeros wherever nothing was written. When it returns well, the target is durable;
//! otherwise the file holds a part of an image and whoever made it removes it.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use virtdisk_format::{CreateOptions, Format, Kind, Place};

use super::clone::Sharing;
use super::job::{Job, Stopped};
use super::runs::{Known, files};
use super::target::Target;
use crate::disk::Disk;
use crate::error::Result;
use crate::extent::LayerExtent;
use crate::file_store::FileStore;

/// Bytes that are copied at once: they stay in the processor's cache between reading and writing.
const PIECE: usize = 256 << 10;
/// Bytes that are shared at once.
const SHARED_PIECE: u64 = 64 << 20;
/// Bytes that are looked at for zeros together, as by `cp` and `qemu-img`.
const GRAIN: usize = 4096;
/// Threads at most; one file takes no more writes at a time than this keeps coming.
const MOST_THREADS: usize = 8;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

/// What to make of a disk.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// VHD, VHDX or raw.
    pub format: Format,
    /// Fixed or dynamic; raw is fixed.
    pub kind: Kind,
    /// Block size in bytes of a dynamic image; 0 is the default.
    pub block_size: u32,
    /// Logical sector in bytes; 0 is the source's where the format has it, else 512.
    pub logical_sector_size: u32,
    /// Physical sector in bytes; 0 is the default.
    pub physical_sector_size: u32,
    /// Creation time in seconds since 1970.
    pub created_unix: u64,
    /// Reserve the space of a fixed image in the file system; otherwise zeros are holes.
    pub preallocate: bool,
}

/// Copies `source` into an image in `target`, which must be empty; `name` is only for messages.
///
/// # Errors
/// Those of [`Disk::create`], of reading the source and of writing the target; `Cancelled`.
pub fn convert(
    source: &Disk,
    target: File,
    name: &str,
    options: &ConvertOptions,
    job: &Job,
) -> Result<(), Stopped> {
    let create = create_options(source, options);
    let (target, sharing) = Target::create(target, name, &create, |target| {
        Sharing::between(source, target)
    })?;
    let work = Work {
        source,
        files: files(source).collect(),
        pieces: Mutex::new(Known::of(source)),
        target: &target,
        sharing,
        ended: AtomicBool::new(false),
        job,
    };
    job.begin(source.facts().virtual_size);
    work.run()?;
    target.finish()?;
    Ok(())
}

fn create_options(source: &Disk, options: &ConvertOptions) -> CreateOptions {
    let facts = source.facts();
    let logical_sector_size = match (options.logical_sector_size, facts.logical_sector_size) {
        (0, 4096) if options.format == Format::Vhdx => 4096,
        (asked, _) => asked,
    };
    CreateOptions {
        format: options.format,
        kind: options.kind,
        virtual_size: facts.virtual_size,
        block_size: options.block_size,
        logical_sector_size,
        physical_sector_size: options.physical_sector_size,
        identifier: None,
        parent: None,
        created_unix: options.created_unix,
        sparse: !options.preallocate,
    }
}

/// One conversion, as its threads see it.
struct Work<'a> {
    source: &'a Disk,
    /// The source's files by layer.
    files: Vec<Option<&'a FileStore>>,
    pieces: Mutex<Known<'a>>,
    target: &'a Target,
    sharing: Sharing,
    /// A thread failed, or there are no more pieces.
    ended: AtomicBool,
    job: &'a Job,
}

impl Work<'_> {
    /// Copies with all threads, this one among them.
    fn run(&self) -> Result<(), Stopped> {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let others = threads.clamp(2, MOST_THREADS) - 1;
        std::thread::scope(|scope| {
            let helpers: Vec<_> = (0..others)
                // A thread that can't be had is missed by nobody: this one does its work.
                .filter_map(|_| {
                    std::thread::Builder::new()
                        .spawn_scoped(scope, || self.copy())
                        .ok()
                })
                .collect();
            let mut result = self.copy();
            for helper in helpers {
                match helper.join() {
                    Ok(helped) => result = result.and(helped),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            result
        })
    }

    /// One thread's work.
    fn copy(&self) -> Result<(), Stopped> {
        let mut buffer = vec![0; PIECE];
        let mut step = || -> Result<bool, Stopped> {
            let Some(run) = self.take()? else {
                return Ok(false);
            };
            self.copy_run(run, &mut buffer)?;
            Ok(true)
        };
        loop {
            match step() {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(stopped) => {
                    self.ended.store(true, Ordering::Relaxed);
                    return Err(stopped);
                }
            }
        }
    }

    /// The next piece; `None` when there is none, or another thread failed.
    fn take(&self) -> Result<Option<LayerExtent>> {
        if self.ended.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let longest = |layer| {
            if self.sharing.with(layer) {
                SHARED_PIECE
            } else {
                PIECE as u64
            }
        };
        self.pieces.lock().next(longest)
    }

    fn copy_run(&self, run: LayerExtent, buffer: &mut [u8]) -> Result<(), Stopped> {
        let mut left = match run.place {
            Place::Zero => return self.job.advance(run.len),
            Place::Data { .. } if self.sharing.with(run.layer) => self.share(run)?,
            Place::Data { .. } | Place::Parent => Some(run),
        };
        while let Some(run) = left {
            let (piece, rest) = run.split(buffer.len() as u64);
            let len = usize::try_from(piece.len).unwrap_or(buffer.len());
            let bytes = &mut buffer[..len];
            self.source.read_at(bytes, piece.start)?;
            self.write(bytes, piece.start)?;
            self.job.advance(piece.len)?;
            left = rest;
        }
        Ok(())
    }

    /// Shares as much of a run as can be shared, from its beginning on; the rest of it.
    fn share(&self, run: LayerExtent) -> Result<Option<LayerExtent>, Stopped> {
        let layer = usize::try_from(run.layer).ok();
        let from = layer.and_then(|layer| self.files.get(layer).copied().flatten());
        let (Some(from), Place::Data { file_offset }) = (from, run.place) else {
            return Ok(Some(run));
        };
        let mut shared = 0;
        self.target
            .place(run.start, run.len, |file, to, start, len| {
                // Only what follows on the last shared byte: the rest has to be one run.
                if start - run.start == shared {
                    let at = file_offset + shared;
                    shared += self.sharing.share(from, at, file, to, len);
                }
                Ok(())
            })?;
        self.job.advance(shared)?;
        if shared == run.len {
            return Ok(None);
        }
        let (_, rest) = run.split(shared);
        Ok(rest)
    }

    /// Writes what is not zero of `bytes`.
    fn write(&self, bytes: &[u8], start: u64) -> Result<()> {
        let mut from = 0;
        while let Some((at, len)) = next_data(bytes, from) {
            let offset = start + at as u64;
            self.target.write(&bytes[at..at + len], offset)?;
            from = at + len;
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
