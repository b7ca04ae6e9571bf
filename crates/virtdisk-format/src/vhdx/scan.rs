//! The one pass over the table at open: is every entry one that may be, and do any two share space
//! (X-43 to X-46, S-3).
//!
//! What is kept of it is a bit per MiB of the file. For reading, what is found are notices, and a
//! large table is not gone through at all; for writing the first fault is an error.

use super::bat::{Bat, Entry};
use super::layout::{
    BITMAP_BLOCK, DRAFT_UNMAPPED, FULLY_PRESENT, MIB, NOT_PRESENT, PARTIALLY_PRESENT, UNDEFINED,
    UNMAPPED, ZERO,
};
use super::shape::Subject;
use super::territory::Territory;
use super::usage::{MOST_MIBS, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::{Severity, Sink};

/// Largest table in entries that is gone through for reading, where the pass only makes notices:
/// 8 TiB in blocks of 32 MiB.
pub(crate) const MOST_ENTRIES_READING: u32 = 1 << 18;
/// Most findings that become notices.
pub(crate) const MOST_NOTICES: usize = 8;

/// Most notes that are made of odd entries.
const MOST_NOTES: u32 = 2000;

/// What the pass found.
pub(crate) struct Scan {
    /// Who owns what: structures, blocks, bitmaps, anchors.
    pub(crate) usage: Usage,
    /// Blocks of the disk with data.
    pub(crate) allocated: u64,
    /// The length in bytes that the file needs for its blocks to be all inside.
    pub(crate) needed_len: u64,
}

/// Goes over the table.
pub(crate) fn scan(bat: &Bat, territory: &Territory, sink: &mut dyn Sink) -> Result<Scan> {
    let mut pass = Pass {
        bat,
        territory,
        sink,
        notes: 0,
        partial: None,
        scan: Scan {
            usage: Usage::default(),
            allocated: 0,
            needed_len: territory.file_len(),
        },
    };
    for owned in territory.owned() {
        let (first, end) = (owned.start / MIB, owned.end.div_ceil(MIB));
        pass.scan.usage.set(first, end, true);
    }
    bat.stream(|index, raw| {
        let judged = pass.visit(index, raw);
        judged.or_else(|error| pass.sink.fault(error))
    })?;
    if let Err(error) = pass.no_partial_before(u32::MAX) {
        pass.sink.fault(error)?;
    }
    Ok(pass.scan)
}

struct Pass<'a> {
    bat: &'a Bat,
    territory: &'a Territory,
    sink: &'a mut dyn Sink,
    notes: u32,
    /// A partially present block, whose chunk's bitmap was not met yet.
    partial: Option<u32>,
    scan: Scan,
}

impl Pass<'_> {
    /// An entry that is odd and harmless. A table may be full of them: the text is made only
    /// while somebody may want it.
    fn note(&mut self, make: impl FnOnce() -> Error) {
        if self.notes < MOST_NOTES {
            self.notes += 1;
            self.sink.oddity(Severity::Note, make());
        }
    }

    fn visit(&mut self, index: u32, raw: u64) -> Result<()> {
        let (entry, at) = (Entry::of_file(raw), self.bat.offset_of(index));
        match self.bat.shape().subject(index) {
            Subject::Padding => {
                if raw != 0 {
                    let message = "has an entry behind the end of the disk that is not 0";
                    self.note(|| {
                        wrong(message.to_owned(), at)
                            .with_found(format_args!("{raw:#x}"))
                            .by("X-7")
                    });
                }
                Ok(())
            }
            Subject::Payload(block) => {
                self.no_partial_before(self.bat.shape().chunk_of(block))?;
                self.payload(block, entry, at)
            }
            Subject::Bitmap(chunk) => self.bitmap(chunk, entry, at),
        }
    }

    fn payload(&mut self, block: u32, entry: Entry, at: u64) -> Result<()> {
        let shape = *self.bat.shape();
        check_entry(block, entry, shape.differencing, at)?;
        let name = || format!("block {block}");
        match entry.state() {
            FULLY_PRESENT | PARTIALLY_PRESENT => {
                self.scan.allocated += 1;
                let size = shape.block_size;
                let inside = self.territory.check(entry.offset(), size, &name(), at)?;
                self.claim(entry, size, at)?;
                if inside < shape.visible(block) {
                    let message =
                        format!("ends inside block {block}, whose missing bytes are zeros");
                    let error = Error::new(ErrorKind::InvalidFileSize, "file", message)
                        .at(self.territory.file_len())
                        .with_wanted(entry.offset().saturating_add(size));
                    self.sink.mendable(error.by("X-11"));
                }
                if entry.state() == PARTIALLY_PRESENT {
                    self.partial = Some(block);
                }
                Ok(())
            }
            // An anchor behind the end of the file owns nothing.
            UNDEFINED | UNMAPPED
                if entry.offset() != 0 && entry.offset() < self.territory.file_len() =>
            {
                self.territory
                    .check(entry.offset(), shape.block_size, &name(), at)?;
                self.claim(entry, shape.block_size, at)
            }
            NOT_PRESENT | ZERO if entry.offset() != 0 => {
                self.note(|| {
                    let message = format!("gives block {block} an offset in a state that has none");
                    wrong(message, at)
                        .with_found(format_args!("byte {}", entry.offset()))
                        .with_wanted(0)
                        .by("X-47")
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn bitmap(&mut self, chunk: u32, entry: Entry, at: u64) -> Result<()> {
        self.no_partial_before(chunk)?;
        check_bitmap_entry(chunk, entry, at)?;
        if entry.state() == NOT_PRESENT {
            return Ok(());
        }
        let chunk_of = |block| self.bat.shape().chunk_of(block);
        if self.partial.map(chunk_of) == Some(chunk) {
            self.partial = None;
        }
        let name = format!("the bitmap of chunk {chunk}");
        let inside = self
            .territory
            .check(entry.offset(), BITMAP_BLOCK, &name, at)?;
        if inside < BITMAP_BLOCK {
            return Err(cut_bitmap(chunk, at));
        }
        self.claim(entry, BITMAP_BLOCK, at)?;
        if !self.bat.shape().differencing {
            let message = format!("has a bitmap of chunk {chunk}, though the disk has no parent");
            self.sink
                .oddity(Severity::Warning, wrong(message, at).by("X-43"));
        }
        Ok(())
    }

    /// Every partially present block before this chunk had its bitmap.
    fn no_partial_before(&mut self, chunk: u32) -> Result<()> {
        let shape = self.bat.shape();
        match self.partial {
            Some(block) if shape.chunk_of(block) < chunk => {
                self.partial = None;
                let at = self.bat.offset_of(shape.index_of(block));
                Err(no_bitmap(block, at))
            }
            _ => Ok(()),
        }
    }

    fn claim(&mut self, entry: Entry, len: u64, at: u64) -> Result<()> {
        let end = entry.offset().saturating_add(len);
        self.scan.needed_len = self.scan.needed_len.max(end);
        let claimed = self.scan.usage.claim(entry.offset(), len);
        claimed.map_err(|shared| {
            let message = if end.div_ceil(MIB) > MOST_MIBS {
                "puts a block behind the first 256 TiB of the file".to_owned()
            } else {
                format!("gives the bytes at {shared} of the file to two blocks")
            };
            wrong(message, at)
                .with_found(format_args!("{len} bytes at {}", entry.offset()))
                .by("S-3")
        })
    }
}

fn wrong(message: String, at: u64) -> Error {
    Error::new(
        ErrorKind::BatCorrupt,
        "VHDX block allocation table",
        message,
    )
    .at(at)
    .by("X-44")
}

/// Whether a block may be in this state.
pub(crate) fn check_entry(block: u32, entry: Entry, differencing: bool, at: u64) -> Result<()> {
    if entry.is_odd() {
        return Err(wrong(
            format!("has reserved bits in the entry of block {block}"),
            at,
        ));
    }
    match entry.state() {
        NOT_PRESENT | UNDEFINED | ZERO | UNMAPPED | FULLY_PRESENT => Ok(()),
        PARTIALLY_PRESENT if differencing => Ok(()),
        PARTIALLY_PRESENT => Err(wrong(
            format!("has block {block} partially present, though the disk has no parent"),
            at,
        )
        .by("X-43")),
        state => Err(wrong(
            format!("has block {block} in a state that is not known"),
            at,
        )
        .with_found(state)
        .with_wanted(if state == DRAFT_UNMAPPED {
            "0 to 3, 6 or 7 (5 was UNMAPPED in a draft)"
        } else {
            "0 to 3, 6 or 7"
        })),
    }
}

/// Whether a bitmap may be in this state.
pub(crate) fn check_bitmap_entry(chunk: u32, entry: Entry, at: u64) -> Result<()> {
    if !entry.is_odd() && matches!(entry.state(), NOT_PRESENT | FULLY_PRESENT) {
        return Ok(());
    }
    let message = format!("has the bitmap of chunk {chunk} in a state that is not known");
    Err(wrong(message, at)
        .with_found(entry.state())
        .with_wanted("0 or 6, no reserved bits"))
}

/// A block needs its bitmap, and there is none.
pub(crate) fn no_bitmap(block: u32, at: u64) -> Error {
    Error::new(
        ErrorKind::BitmapMismatch,
        "VHDX block allocation table",
        format!("has block {block} partially present and no sector bitmap for it"),
    )
    .at(at)
    .by("X-43")
}

/// A bitmap that is not all in the file.
pub(crate) fn cut_bitmap(chunk: u32, at: u64) -> Error {
    Error::new(
        ErrorKind::InvalidFileSize,
        "VHDX block allocation table",
        format!("puts the bitmap of chunk {chunk} across the end of the file, which was cut"),
    )
    .at(at)
    .by("X-45")
}
