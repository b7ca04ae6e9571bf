//! What a disk must read: a model beside the real thing.
//!
//! The same verbs go to the disk and to the model; afterwards every byte must agree. After a power
//! cut a sector (512 bytes) may hold what the last answered flush left, or what any later verb
//! would have put there, and nothing else.

use crate::pages::Pages;
use crate::rng::Rng;

/// Bytes that a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// One operation on a disk. Offsets and lengths are bytes inside the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Write the bytes that [`Verb::bytes`] makes of `seed`.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
        /// What the bytes are made of.
        seed: u64,
    },
    /// Make a range read as zeros.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
        /// Whether the space may be given back.
        unmap: bool,
    },
    /// Give a range back; it reads as zeros.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes, not 0.
        len: u64,
    },
    /// Make everything so far durable.
    Flush,
}

impl Verb {
    /// A verb for a disk of `size` bytes, on ranges that are multiples of `align` bytes and at most
    /// `longest` bytes long. Writes are half of the verbs, flushes an eighth.
    pub fn random(rng: &mut Rng, size: u64, align: u64, longest: u64) -> Self {
        let units = (size / align).max(1);
        let most = (longest / align).clamp(1, units);
        // Short ranges are as likely as long ones: halve the limit at random.
        let limit = (most >> rng.below(8)).max(1);
        let len_units = 1 + rng.below(limit);
        let offset = rng.below(units - len_units.min(units) + 1) * align;
        let len = (len_units * align).min(size - offset);
        match rng.below(8) {
            0 => Self::Flush,
            1 => Self::Zero {
                offset,
                len,
                unmap: rng.one_in(2),
            },
            2 | 3 => Self::Trim { offset, len },
            _ => Self::Write {
                offset,
                len,
                seed: rng.number(),
            },
        }
    }

    /// The bytes that a write brings; never all zeros in a whole sector.
    #[must_use]
    pub fn bytes(len: u64, seed: u64) -> Vec<u8> {
        Rng::new(seed).bytes(len as usize)
    }

    /// The range it changes; empty for a flush.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        match *self {
            Self::Write { offset, len, .. }
            | Self::Zero { offset, len, .. }
            | Self::Trim { offset, len } => offset..offset + len,
            Self::Flush => 0..0,
        }
    }
}

/// The sectors of a disk as they must read.
#[derive(Clone)]
pub struct SectorModel {
    pages: Pages,
}

impl SectorModel {
    /// A disk of `size` zero bytes.
    #[must_use]
    pub fn new(size: u64) -> Self {
        Self {
            pages: Pages::zeroed(size),
        }
    }

    /// A disk with these contents.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            pages: Pages::from_bytes(bytes),
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages.len()
    }

    /// Does to the model what the verb does to the disk.
    pub fn apply(&mut self, verb: &Verb) {
        match *verb {
            Verb::Write { offset, len, seed } => self.write(&Verb::bytes(len, seed), offset),
            Verb::Zero { offset, len, .. } | Verb::Trim { offset, len } => self.zero(offset, len),
            Verb::Flush => {}
        }
    }

    /// Puts bytes into the model.
    ///
    /// # Panics
    /// If the range ends past the disk.
    pub fn write(&mut self, buf: &[u8], offset: u64) {
        assert!(
            offset + buf.len() as u64 <= self.size(),
            "the model has no such range"
        );
        self.pages.write(buf, offset);
    }

    /// Puts zeros into the model.
    pub fn zero(&mut self, offset: u64, len: u64) {
        self.pages.zero(offset, len);
    }

    /// What a range must read.
    ///
    /// # Panics
    /// If the range ends past the disk.
    #[must_use]
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        assert!(
            self.pages.read(&mut bytes, offset),
            "the model has no such range"
        );
        bytes
    }

    /// Reads the whole disk in pieces and compares.
    ///
    /// # Errors
    /// A sentence that names the first byte that differs, or what `read` answered.
    pub fn compare<E: std::fmt::Display>(
        &self,
        read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<(), String> {
        self.compare_after_crash(&[], read)
    }

    /// As [`Self::compare`], but each sector may also hold what one of the `later` verbs puts
    /// there: those that were begun and not known to be durable when the power went.
    ///
    /// # Errors
    /// As [`Self::compare`].
    pub fn compare_after_crash<E: std::fmt::Display>(
        &self,
        later: &[Verb],
        mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<(), String> {
        const PIECE: u64 = 64 * 1024;
        let mut offset = 0;
        while offset < self.size() {
            let len = PIECE.min(self.size() - offset);
            self.compare_part(offset, len, later, &mut read)?;
            offset += len;
        }
        Ok(())
    }

    /// As [`Self::compare_after_crash`], for a part of the disk: whole sectors.
    ///
    /// # Errors
    /// As [`Self::compare`].
    pub fn compare_part<E: std::fmt::Display>(
        &self,
        offset: u64,
        len: u64,
        later: &[Verb],
        mut read: impl FnMut(&mut [u8], u64) -> Result<(), E>,
    ) -> Result<(), String> {
        let mut found = vec![0xA5; len as usize];
        read(&mut found, offset).map_err(|error| format!("read at {offset}: {error}"))?;
        let wanted = self.read(offset, len);
        if found != wanted {
            self.explain(&found, &wanted, offset, later)?;
        }
        Ok(())
    }

    /// Goes through the sectors of a piece that is not as the model has it.
    fn explain(
        &self,
        found: &[u8],
        wanted: &[u8],
        offset: u64,
        later: &[Verb],
    ) -> Result<(), String> {
        let sectors = found
            .chunks(SECTOR_BYTES as usize)
            .zip(wanted.chunks(SECTOR_BYTES as usize));
        for (index, (found, wanted)) in sectors.enumerate() {
            let start = offset + index as u64 * SECTOR_BYTES;
            if found == wanted || allowed(found, wanted, start, later) {
                continue;
            }
            let differs = found
                .iter()
                .zip(wanted)
                .position(|(found, wanted)| found != wanted);
            let byte = differs.unwrap_or(0);
            return Err(format!(
                "byte {}: found {:#04x}, wanted {:#04x} (the sector {}; {} verbs could have \
                 changed it)",
                start + byte as u64,
                found[byte],
                wanted[byte],
                if found.iter().all(|&byte| byte == 0) {
                    "reads zeros"
                } else {
                    "holds data"
                },
                later.iter().filter(|verb| overlaps(verb, start)).count()
            ));
        }
        Ok(())
    }
}

fn overlaps(verb: &Verb, start: u64) -> bool {
    let range = verb.range();
    range.start < start + SECTOR_BYTES && start < range.end
}

/// Whether a sector is what the settled one becomes when some of the later verbs reach it. They
/// may each have arrived or not, in their order; up to 1,024 states are tried.
fn allowed(found: &[u8], settled: &[u8], start: u64, later: &[Verb]) -> bool {
    let touching: Vec<&Verb> = later.iter().filter(|verb| overlaps(verb, start)).collect();
    let mut states: Vec<Vec<u8>> = vec![settled.to_vec()];
    for verb in touching {
        let known = states.len().min(1024);
        for index in 0..known {
            let mut next = states[index].clone();
            overlay(&mut next, verb, start);
            if !states.contains(&next) {
                states.push(next);
            }
        }
    }
    states.iter().any(|state| state == found)
}

/// Puts the part of a verb that lies in the sector at `start` into `sector`.
fn overlay(sector: &mut [u8], verb: &Verb, start: u64) {
    let range = verb.range();
    let from = range.start.max(start);
    let to = range.end.min(start + sector.len() as u64);
    let target = &mut sector[(from - start) as usize..(to - start) as usize];
    match *verb {
        Verb::Write { offset, seed, .. } => {
            // Numbers of 8 bytes, of which only those are made that the sector needs.
            let skipped = (from - offset) / 8;
            let mut rng = Rng::new(seed);
            rng.skip(skipped);
            let start = (from - offset - skipped * 8) as usize;
            let bytes = rng.bytes(start + target.len());
            target.copy_from_slice(&bytes[start..]);
        }
        _ => target.fill(0),
    }
}
