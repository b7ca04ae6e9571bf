//! The map of a VHDX.
//!
//! Most requests end in [`Bat::look`]: the block was judged to be whole, and its data lie in one
//! run; no lock is taken. All other entries are judged each time they are met, against the rules
//! and against the file as it is. Everything that changes the file is [`Writer`]'s.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bat::{Bat, Entry};
use super::bitmap::{Bitmap, Bitmaps};
use super::header::Headers;
use super::layout::{BITMAP_BLOCK, DRAFT_UNMAPPED, FULLY_PRESENT, NOT_PRESENT, PARTIALLY_PRESENT};
use super::metadata::Metadata;
use super::overlay::Overlay;
use super::region::Regions;
use super::scan::{check_bitmap_entry, check_entry, cut_bitmap, no_bitmap};
use super::shape::{Shape, Subject};
use super::territory::Territory;
use super::writer::Writer;
use crate::error::{Error, ErrorKind, Result};
use crate::extent::{Extent, Extents, Place, append};
use crate::facts::{Facts, MetadataItem, Physical};
use crate::image::{Image, Ticket};
use crate::store::Store;

/// Most blocks of a disk that may be found to be one run.
const MOST_BLOCKS_WHOLE: u32 = 64 << 10;

/// An open VHDX.
pub(crate) struct Vhdx {
    pub(crate) facts: Facts,
    /// The file.
    pub(crate) store: Arc<dyn Store>,
    /// The tables as they are to be read: the file, with what is in the log over it.
    pub(crate) tables: Arc<dyn Store>,
    /// The same for data too, where the log was replayed in memory.
    pub(crate) overlay: Option<Arc<Overlay>>,
    pub(crate) shape: Shape,
    pub(crate) territory: Arc<Territory>,
    pub(crate) bat: Bat,
    pub(crate) bitmaps: Bitmaps,
    pub(crate) headers: Mutex<Headers>,
    pub(crate) regions: Regions,
    pub(crate) metadata: Metadata,
    /// Accept what only recovery accepts.
    pub(crate) recover: bool,
    /// `None` where the image is not open for writing.
    pub(crate) writer: Option<Writer>,
}

/// How a block lies in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    Zero,
    Parent,
    /// All in one run, of which the file has the first `inside` bytes and zeros follow.
    Data {
        offset: u64,
        inside: u64,
    },
    /// The sectors that the bitmap says; the others are the parent's.
    Partial {
        offset: u64,
        bitmap: Bitmap,
    },
}

impl Vhdx {
    /// How a block lies in the file now.
    #[inline]
    pub(crate) fn block(&self, block: u32) -> Result<Block> {
        let index = self.shape.index_of(block);
        let entry = self.bat.look(index)?;
        if entry.is_whole() {
            return Ok(Block::Data {
                offset: entry.offset(),
                inside: self.shape.block_size,
            });
        }
        self.meet(block, index, entry)
    }

    /// A block that is not known to be whole.
    #[cold]
    fn meet(&self, block: u32, index: u32, entry: Entry) -> Result<Block> {
        let at = self.bat.offset_of(index);
        //
        let spared = self.recover
            && !entry.is_odd()
            && matches!(entry.state(), PARTIALLY_PRESENT | DRAFT_UNMAPPED);
        if !spared {
            check_entry(block, entry, self.shape.differencing, at)?;
        }
        let data = || {
            let (name, size) = (format!("block {block}"), self.shape.block_size);
            self.territory.check(entry.offset(), size, &name, at)
        };
        match entry.state() {
            NOT_PRESENT if self.shape.differencing => Ok(Block::Parent),
            PARTIALLY_PRESENT if self.shape.differencing => {
                // A bitmap says nothing about bytes that a cut took away.
                if data()? < self.shape.visible(block) {
                    return Err(Error::new(
                        ErrorKind::InvalidFileSize,
                        "VHDX block allocation table",
                        format!("puts block {block} across the end of the file, which was cut"),
                    )
                    .at(at));
                }
                Ok(Block::Partial {
                    offset: entry.offset(),
                    bitmap: self.bitmap(block, at)?,
                })
            }
            FULLY_PRESENT | PARTIALLY_PRESENT => Ok(Block::Data {
                offset: entry.offset(),
                inside: data()?,
            }),
            //
            _ => Ok(Block::Zero),
        }
    }

    /// The bitmap of a partially present block, whose entry is at `at`.
    fn bitmap(&self, block: u32, at: u64) -> Result<Bitmap> {
        let chunk = self.shape.chunk_of(block);
        let index = self.shape.bitmap_index(chunk);
        let (entry, bitmap_at) = (self.bat.look(index)?, self.bat.offset_of(index));
        check_bitmap_entry(chunk, entry, bitmap_at)?;
        if entry.state() == NOT_PRESENT {
            return Err(no_bitmap(block, at));
        }
        let name = format!("the bitmap of chunk {chunk}");
        let offset = entry.offset();
        let inside = self
            .territory
            .check(offset, BITMAP_BLOCK, &name, bitmap_at)?;
        if inside < BITMAP_BLOCK {
            return Err(cut_bitmap(chunk, bitmap_at));
        }
        Ok(Bitmap { chunk, offset })
    }

    /// The runs of a partially present block in `range`, which is inside it.
    fn map_partial(
        &self,
        offset: u64,
        bitmap: Bitmap,
        range: (u64, u64),
        out: &mut Extents,
    ) -> Result<()> {
        let (mut start, end) = range;
        let sector = self.shape.sector_size;
        while start < end {
            let sectors = (end - start / sector * sector).div_ceil(sector);
            let first = self.shape.bit_of(start);
            let (alike, present) = self.bitmaps.run(bitmap, first, first + sectors)?;
            let next = ((start / sector + alike) * sector).min(end);
            let place = if present {
                Place::Data {
                    file_offset: offset + self.shape.within(start),
                }
            } else {
                Place::Parent
            };
            append(
                out,
                Extent {
                    start,
                    len: next - start,
                    place,
                },
            );
            start = next;
        }
        Ok(())
    }

    /// Whether the disk's bytes lie in one run, and where it starts.
    fn one_run(&self) -> Result<Option<u64>> {
        if self.shape.differencing
            || self.overlay.is_some()
            || self.shape.blocks > MOST_BLOCKS_WHOLE
        {
            return Ok(None);
        }
        let (mut start, mut met) = (None, 0);
        self.bat.stream(|index, raw| {
            let Subject::Payload(block) = self.shape.subject(index) else {
                return Ok(());
            };
            let entry = Entry::of_file(raw);
            let full = !entry.is_odd() && entry.state() == FULLY_PRESENT;
            let room = self.territory.room(entry.offset(), self.shape.block_size);
            let inside = room.is_some_and(|inside| inside >= self.shape.visible(block));
            let first = *start.get_or_insert(entry.offset());
            let follows = first.checked_add(self.shape.start_of(block)) == Some(entry.offset());
            met += u32::from(full && inside && follows);
            Ok(())
        })?;
        Ok(start.filter(|_| met == self.shape.blocks))
    }

    /// The writer of an image that is open for writing.
    pub(crate) fn writer(&self) -> Result<&Writer> {
        self.writer
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::ReadOnly, "image", "is not open for writing"))
    }
}

impl Image for Vhdx {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn whole(&self) -> Option<u64> {
        self.one_run().unwrap_or_default()
    }

    fn bytes(&self) -> Option<Arc<dyn Store>> {
        let overlay = self.overlay.as_ref()?;
        Some(Arc::clone(overlay) as Arc<dyn Store>)
    }

    fn map(&self, start: u64, len: u64, out: &mut Extents) -> Result<()> {
        let end = self.shape.end_of_range(start, len)?;
        let mut at = start;
        while at < end {
            let within = self.shape.within(at);
            let len = (self.shape.block_size - within).min(end - at);
            let mut put = |start, len, place| append(out, Extent { start, len, place });
            match self.block(self.shape.block_of(at))? {
                Block::Zero => put(at, len, Place::Zero),
                Block::Parent => put(at, len, Place::Parent),
                Block::Data { offset, inside } => {
                    let there = inside.saturating_sub(within).min(len);
                    let file_offset = offset + within;
                    put(at, there, Place::Data { file_offset });
                    put(at + there, len - there, Place::Zero);
                }
                Block::Partial { offset, bitmap } => {
                    self.map_partial(offset, bitmap, (at, at + len), out)?;
                }
            }
            at += len;
        }
        Ok(())
    }

    fn reserve(&self, start: u64, len: u64, out: &mut Extents) -> Result<Ticket> {
        self.writer()?.reserve(self, start, len, out)
    }

    fn complete(&self, ticket: Ticket) -> Result<()> {
        self.writer()?.complete(self, ticket)
    }

    fn touch(&self) -> Result<()> {
        self.writer()?.touch(self)
    }

    fn inherited(&self) -> Result<Vec<MetadataItem>> {
        self.metadata.inherited(&*self.tables)
    }

    fn trim(&self, start: u64, len: u64) -> Result<()> {
        self.writer()?.trim(self, start, len)
    }

    fn flush(&self) -> Result<()> {
        match &self.writer {
            Some(writer) => writer.flush(),
            None => Ok(()),
        }
    }

    fn validate(&self) -> Result<()> {
        self.compare_with_file()
    }

    fn physical(&self) -> Result<Physical> {
        let (mut allocated, mut scattered) = (0_u64, 0_u64);
        let mut expected = None;
        self.bat.stream(|index, raw| {
            let entry = Entry::of_file(raw);
            let is_block = matches!(self.shape.subject(index), Subject::Payload(_));
            if !is_block || !entry.has_data() {
                return Ok(());
            }
            let offset = entry.offset();
            allocated += 1;
            scattered += u64::from(expected.is_some_and(|end| end != offset));
            expected = offset.checked_add(self.shape.block_size);
            Ok(())
        })?;
        let percent = (scattered * 100).checked_div(allocated).unwrap_or(0);
        Ok(Physical {
            blocks_allocated: allocated,
            fragmentation_percent: Some(u32::try_from(percent).unwrap_or(100)),
            data_aligned_4k: true,
        })
    }

    fn close(&self) -> Result<()> {
        match &self.writer {
            Some(writer) => writer.close(self),
            None => Ok(()),
        }
    }
}
