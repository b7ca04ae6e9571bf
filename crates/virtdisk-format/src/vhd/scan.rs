//! The one pass over the table at open: is every block where it may be, do any two share space
//! (S-3), where does the used space end, and which holes are free.
//!
//! Only the sectors of allocated blocks are held, four bytes each and no more of them than the file
//! has room for, and only until the pass is over. For reading, what is found are notices; for
//! writing the first fault is an error.

use super::bat::Bat;
use super::layout::{ALIGNMENT, SECTOR};
use super::shape::Shape;
use super::space::{MOST_FREE, Placement};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Sink;

/// Largest table in entries that is gone through for writing; a disk with a larger one (blocks
/// below 128 KiB on the largest disks) is read only.
pub(crate) const MOST_BLOCKS: u32 = 16 << 20;
/// The same for reading, where the pass only makes notices: 2040 GiB in blocks of 2 MiB.
pub(crate) const MOST_BLOCKS_READING: u32 = 1 << 20;
/// Most faults that become notices.
pub(crate) const MOST_NOTICES: usize = 8;

/// What the pass found.
pub(crate) struct Scan {
    /// Blocks with space.
    pub(crate) allocated: u32,
    /// End of the last block or structure in bytes.
    pub(crate) tail: u64,
    /// Free slots between used ranges.
    pub(crate) free: Vec<u32>,
}

/// Goes over the table. `data_end` is the end of the file's bytes that are not the footer.
pub(crate) fn scan(bat: &Bat, shape: &Shape, data_end: u64, sink: &mut dyn Sink) -> Result<Scan> {
    let mut full = false;
    let mut sectors = Vec::new();
    let room = data_end / shape.slot() + 1;
    bat.stream(|block, sector| {
        if let Err(error) = shape.check_entry(block, sector, data_end, bat.offset_of(block)) {
            return sink.fault(error);
        }
        if (sectors.len() as u64) < room {
            sectors.push(sector);
        } else if !full {
            full = true;
            let at = u64::from(sector) * SECTOR;
            sink.fault(shared(at))?;
        }
        Ok(())
    })?;
    sectors.sort_unstable();
    for pair in sectors.windows(2) {
        let [one, next] = [pair[0], pair[1]].map(|sector| u64::from(sector) * SECTOR);
        if next - one < shape.slot() {
            sink.fault(shared(next))?;
        }
    }
    let allocated = u32::try_from(sectors.len()).unwrap_or(u32::MAX);
    let (free, tail) = holes(shape, &sectors);
    Ok(Scan {
        allocated,
        tail,
        free,
    })
}

fn shared(at: u64) -> Error {
    let message = "is given to two blocks of the disk";
    Error::new(ErrorKind::BatCorrupt, "place of a VHD block", message)
        .at(at)
        .by("S-3")
}

/// The slots that fit between used ranges, and the end of the last of these.
fn holes(shape: &Shape, sectors: &[u32]) -> (Vec<u32>, u64) {
    let aligned = sectors
        .iter()
        .all(|&sector| shape.data_at(sector).is_multiple_of(ALIGNMENT));
    let placement = Placement {
        slot: shape.slot(),
        bitmap: shape.bitmap,
        packed: !aligned,
    };
    let mut blocks = sectors
        .iter()
        .map(|&sector| u64::from(sector) * SECTOR)
        .map(|start| (start, start + shape.slot()))
        .peekable();
    let mut structures = shape
        .owned
        .iter()
        .map(|owned| (owned.start, owned.end))
        .peekable();
    let (mut free, mut tail) = (Vec::new(), 0);
    loop {
        let next = match (blocks.peek(), structures.peek()) {
            (Some(block), Some(structure)) if block.0 < structure.0 => blocks.next(),
            (_, Some(_)) => structures.next(),
            (_, None) => blocks.next(),
        };
        let Some((start, end)) = next else {
            return (free, tail);
        };
        let mut place = placement.within_hole(tail);
        while let Some(at) = place.filter(|at| at.saturating_add(shape.slot()) <= start)
            && free.len() < MOST_FREE
            && let Some(sector) = Placement::sector(at)
        {
            free.push(sector);
            place = placement.within_hole(at + shape.slot());
        }
        tail = tail.max(end);
    }
}
