//! A differencing disk for tests: an image that was opened alone, read and written through its map
//! alone, over a parent that is a model. The floor above does in earnest what this does plainly.

#![allow(dead_code)]

use std::sync::Arc;

use virtdisk_format::{Error, OpenOptions, Place, Result, Store};
use virtdisk_testkit::{MemoryStore, Pages, SectorModel, Verb};

use crate::disk::Disk;

/// An open image and its parent.
pub(crate) struct Layered {
    pub(crate) disk: Disk,
    parent: SectorModel,
}

/// What a child of `size` bytes shows while it is empty: the parent, zeros past its end.
pub(crate) fn inherited(parent: &SectorModel, size: u64) -> SectorModel {
    let mut model = SectorModel::new(size);
    let len = size.min(parent.size());
    model.write(&parent.read(0, len), 0);
    model
}

impl Layered {
    /// Opens what the store holds.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        options: &OpenOptions,
        parent: &SectorModel,
    ) -> Result<Layered> {
        Ok(Layered {
            disk: Disk::open(store, options)?,
            parent: parent.clone(),
        })
    }

    /// Opens a copy of these bytes.
    pub(crate) fn open_pages(
        pages: &Pages,
        options: &OpenOptions,
        parent: &SectorModel,
    ) -> Result<Layered> {
        let store = Arc::new(MemoryStore::from_pages(pages.clone()));
        Layered::open(store, options, parent)
    }

    /// The size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.disk.size()
    }

    /// The bytes of a logical sector.
    fn sector(&self) -> u64 {
        self.disk.image.facts().logical_sector_size.into()
    }

    /// Reads through the map.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let bytes = self.disk.image.bytes();
        let store = bytes.as_ref().unwrap_or(&self.disk.store);
        for extent in self.disk.extents(offset, buf.len() as u64)? {
            let from = (extent.start - offset) as usize;
            let part = &mut buf[from..from + extent.len as usize];
            match extent.place {
                Place::Data { file_offset } => store
                    .read_exact_at(part, file_offset)
                    .map_err(|error| Error::io("data", "cannot be read", error))?,
                Place::Zero => part.fill(0),
                Place::Parent => {
                    part.fill(0);
                    let len = self.parent.size().saturating_sub(extent.start);
                    let len = len.min(extent.len);
                    if len > 0 {
                        part[..len as usize].copy_from_slice(&self.parent.read(extent.start, len));
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads a range into a new buffer.
    pub(crate) fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        let mut buf = vec![0xA5; len as usize];
        self.read_at(&mut buf, offset)?;
        Ok(buf)
    }

    /// Writes whole sectors, filled up with what is there.
    pub(crate) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let sector = self.sector();
        let end = offset + buf.len() as u64;
        let (from, to) = (offset / sector * sector, end.next_multiple_of(sector));
        if (from, to) == (offset, end) {
            return self.disk.write(buf, offset);
        }
        let mut whole = self.read(from, to - from)?;
        let start = (offset - from) as usize;
        whole[start..start + buf.len()].copy_from_slice(buf);
        self.disk.write(&whole, from)
    }

    /// Trims whole sectors, and writes zeros at the edges.
    pub(crate) fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let (sector, end) = (self.sector(), offset + len);
        let from = offset.next_multiple_of(sector);
        let to = end / sector * sector;
        if from >= to {
            return self.write(&vec![0; len as usize], offset);
        }
        if from > offset {
            self.write(&vec![0; (from - offset) as usize], offset)?;
        }
        if end > to {
            self.write(&vec![0; (end - to) as usize], to)?;
        }
        self.disk.image.trim(from, to - from)
    }

    /// Does a verb.
    pub(crate) fn apply(&self, verb: &Verb) -> Result<()> {
        match *verb {
            Verb::Write { offset, len, seed } => self.write(&Verb::bytes(len, seed), offset),
            Verb::Zero {
                offset,
                len,
                unmap: false,
            } => self.write(&vec![0; len as usize], offset),
            Verb::Zero { offset, len, .. } | Verb::Trim { offset, len } => self.trim(offset, len),
            Verb::Flush => self.disk.image.flush(),
        }
    }

    /// Requires that the whole disk reads as the model says.
    #[track_caller]
    pub(crate) fn must_be(&self, model: &SectorModel) {
        if let Err(difference) = model.compare(|buf, offset| self.read_at(buf, offset)) {
            panic!("{difference}");
        }
    }
}
