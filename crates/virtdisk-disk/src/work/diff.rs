//! Which bytes of two disks differ.
//!
//! Both are walked side by side. What is zero in both, or lies in the same place of the same file
//! (two children of one parent), is equal without being read. Promises: differences come in order,
//! in whole sectors of 512 bytes, neighbours as one; where one disk is larger, what it has more is
//! one difference at the end, whatever is in it.

use virtdisk_format::Place;

use super::job::{Job, Stopped};
use super::runs::{Known, files};
use crate::disk::Disk;
use crate::error::Result;
use crate::extent::LayerExtent;

/// Bytes that are compared at once.
const PIECE: usize = 256 << 10;
/// Longest stretch of equal zeros between two looks at the job.
const LONGEST: u64 = 64 << 20;
/// Smallest difference.
const SECTOR: usize = 512;

static ZEROS: [u8; SECTOR] = [0; SECTOR];

/// A stretch of bytes that differ; in each sector of it at least one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// First byte of the disk.
    pub start: u64,
    /// Bytes, not 0.
    pub len: u64,
}

/// Compares two disks and tells `found` each difference as it is known.
///
/// # Errors
/// Those of [`Disk::read_at`]; what `found` says, as `Stream`; `Cancelled`.
pub fn diff(
    left: &Disk,
    right: &Disk,
    job: &Job,
    found: &mut dyn FnMut(Difference) -> std::io::Result<()>,
) -> Result<(), Stopped> {
    let (shorter, longer) = {
        let (left, right) = (left.facts().virtual_size, right.facts().virtual_size);
        (left.min(right), left.max(right))
    };
    job.begin(longer);
    let mut report = Report { open: None, found };
    let (mut left, mut right) = (Side::of(left), Side::of(right));
    let mut at = 0;
    while at < shorter {
        let (one, other) = (left.at(at)?, right.at(at)?);
        let len = one.len.min(other.len).min(shorter - at).min(LONGEST);
        if !left.same_place(&one, &right, &other) {
            compare(&mut left, &mut right, at, len, &mut report)?;
        }
        at += len;
        job.advance(len)?;
    }
    report.differs(shorter, longer - shorter)?;
    report.close()
}

/// One disk, as far as it is walked.
struct Side<'a> {
    disk: &'a Disk,
    known: Known<'a>,
    /// Device and inode of each layer's file; `None` where bytes are not simply the file's.
    files: Vec<Option<(u64, u64)>>,
    run: Option<LayerExtent>,
    buffer: Vec<u8>,
}

impl<'a> Side<'a> {
    fn of(disk: &'a Disk) -> Self {
        Self {
            disk,
            known: Known::of(disk),
            files: files(disk).map(|file| file?.identity().ok()).collect(),
            run: None,
            buffer: Vec::new(),
        }
    }

    /// The run from byte `at` on, which is where the last look ended or later.
    fn at(&mut self, at: u64) -> Result<LayerExtent> {
        loop {
            let run = match self.run.take() {
                Some(run) => run,
                None => self.known.next(|_| PIECE as u64)?.unwrap_or(LayerExtent {
                    start: at,
                    len: u64::MAX - at,
                    layer: 0,
                    place: Place::Zero,
                }),
            };
            let gone = at.saturating_sub(run.start);
            if gone < run.len {
                let run = run.split(gone).1.unwrap_or(run);
                self.run = Some(run);
                return Ok(run);
            }
        }
    }

    /// Whether two runs at the same byte are the same bytes without a look at them.
    fn same_place(&self, run: &LayerExtent, other: &Side<'_>, theirs: &LayerExtent) -> bool {
        match (run.place, theirs.place) {
            (Place::Zero, Place::Zero) => true,
            (Place::Data { file_offset: here }, Place::Data { file_offset: there }) => {
                let (file, theirs) = (self.file(run.layer), other.file(theirs.layer));
                here == there && file.is_some() && file == theirs
            }
            _ => false,
        }
    }

    fn file(&self, layer: u32) -> Option<(u64, u64)> {
        let layer = usize::try_from(layer).ok()?;
        self.files.get(layer).copied().flatten()
    }

    /// The bytes of a stretch in which the current run does not end; `None` for zeros.
    fn read(&mut self, at: u64, len: usize) -> Result<Option<&[u8]>> {
        if self.run.is_none_or(|run| run.place == Place::Zero) {
            return Ok(None);
        }
        self.buffer.resize(PIECE.max(len), 0);
        let bytes = &mut self.buffer[..len];
        self.disk.read_at(bytes, at)?;
        Ok(Some(bytes))
    }
}

/// Compares bytes. Data runs are no longer than a piece, so at least one side bounds `len`.
fn compare(
    left: &mut Side<'_>,
    right: &mut Side<'_>,
    at: u64,
    len: u64,
    report: &mut Report<'_>,
) -> Result<(), Stopped> {
    let len = usize::try_from(len).unwrap_or(PIECE).min(PIECE);
    let (left, right) = (left.read(at, len)?, right.read(at, len)?);
    if left.is_some() && left == right {
        return Ok(());
    }
    for start in (0..len).step_by(SECTOR) {
        let end = (start + SECTOR).min(len);
        let zeros = &ZEROS[..end - start];
        let one = left.map_or(zeros, |bytes| &bytes[start..end]);
        let other = right.map_or(zeros, |bytes| &bytes[start..end]);
        if one != other {
            report.differs(at + start as u64, (end - start) as u64)?;
        }
    }
    Ok(())
}

/// Joins neighbours before they are told.
struct Report<'a> {
    open: Option<Difference>,
    found: &'a mut dyn FnMut(Difference) -> std::io::Result<()>,
}

impl Report<'_> {
    fn differs(&mut self, start: u64, len: u64) -> Result<(), Stopped> {
        if len == 0 {
            return Ok(());
        }
        if let Some(open) = &mut self.open
            && open.start + open.len == start
        {
            open.len += len;
            return Ok(());
        }
        if let Some(known) = self.open.replace(Difference { start, len }) {
            (self.found)(known).map_err(Stopped::Stream)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Stopped> {
        match self.open.take() {
            Some(known) => (self.found)(known).map_err(Stopped::Stream),
            None => Ok(()),
        }
    }
}
