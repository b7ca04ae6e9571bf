//! A disk for tests: an open image and the store below it, read and written through the map alone.

#![allow(dead_code)]

use std::sync::Arc;

use virtdisk_format::{
    Error, ErrorKind, Extents, Finding, Image, OpenOptions, Place, Result, Severity, SizeRule,
    Store, check as check_image, open,
};
use virtdisk_testkit::{MemoryStore, Pages, SectorModel, Verb};

/// An open image and its store.
pub(crate) struct Disk {
    pub(crate) image: Box<dyn Image>,
    pub(crate) store: Arc<dyn Store>,
}

/// Options for reading.
pub(crate) fn reading() -> OpenOptions {
    OpenOptions::default()
}

/// Options for writing.
pub(crate) fn writing() -> OpenOptions {
    OpenOptions {
        writable: true,
        ..OpenOptions::default()
    }
}

/// Options for reading a file with that extension.
pub(crate) fn named(extension: &str) -> OpenOptions {
    OpenOptions {
        extension: Some(extension.to_owned()),
        ..OpenOptions::default()
    }
}

/// Options with a rule for the size.
pub(crate) fn sized(size_rule: SizeRule) -> OpenOptions {
    OpenOptions {
        size_rule,
        ..OpenOptions::default()
    }
}

/// The error that opening must give.
#[track_caller]
pub(crate) fn refused(pages: &Pages, options: &OpenOptions) -> Error {
    match Disk::open_pages(pages, options) {
        Ok(disk) => panic!("opened as {:?}", disk.image.facts()),
        Err(error) => error,
    }
}

/// The kind of the error that opening must give.
#[track_caller]
pub(crate) fn refusal(pages: &Pages, options: &OpenOptions) -> ErrorKind {
    refused(pages, options).kind()
}

/// Requires that a check finds no error.
#[track_caller]
pub(crate) fn must_pass_check(pages: &Pages, what: &str) {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::from_pages(pages.clone()));
    let mut wrong = |finding: Finding| {
        assert!(finding.severity < Severity::Error, "{what}: {finding}");
    };
    check_image(&store, &reading(), &mut wrong)
        .unwrap_or_else(|error| panic!("{what}: cannot be checked: {error}"));
}

impl Disk {
    /// Opens what the store holds.
    pub(crate) fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Disk> {
        Ok(Disk {
            image: open(Arc::clone(&store), options)?,
            store,
        })
    }

    /// Opens a copy of these bytes.
    pub(crate) fn open_pages(pages: &Pages, options: &OpenOptions) -> Result<Disk> {
        Disk::open(Arc::new(MemoryStore::from_pages(pages.clone())), options)
    }

    /// The size of the disk in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.image.facts().virtual_size
    }

    /// The extents of a range, checked: they cover it, in order, merged.
    pub(crate) fn extents(&self, start: u64, len: u64) -> Result<Extents> {
        let mut extents = Extents::new();
        self.image.map(start, len, &mut extents)?;
        check(&extents, start, len);
        Ok(extents)
    }

    /// Reads through the map.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let extents = self.extents(offset, buf.len() as u64)?;
        let bytes = self.image.bytes();
        let store = bytes.as_ref().unwrap_or(&self.store);
        for extent in extents {
            let from = (extent.start - offset) as usize;
            let part = &mut buf[from..from + extent.len as usize];
            match extent.place {
                Place::Data { file_offset } => store
                    .read_exact_at(part, file_offset)
                    .map_err(|error| Error::io("data", "cannot be read", error))?,
                Place::Zero => part.fill(0),
                Place::Parent => panic!("there is no parent"),
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

    /// Writes: reserve, data, complete.
    pub(crate) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut extents = Extents::new();
        let ticket = self.image.reserve(offset, buf.len() as u64, &mut extents)?;
        check(&extents, offset, buf.len() as u64);
        for extent in extents {
            let from = (extent.start - offset) as usize;
            let Place::Data { file_offset } = extent.place else {
                panic!("a reserved extent is {:?}", extent.place);
            };
            self.store
                .write_all_at(&buf[from..from + extent.len as usize], file_offset)
                .map_err(|error| Error::io("data", "cannot be written", error))?;
        }
        self.image.complete(ticket)
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
            Verb::Zero { offset, len, .. } | Verb::Trim { offset, len } => {
                self.image.trim(offset, len)
            }
            Verb::Flush => self.image.flush(),
        }
    }

    /// Requires that the whole disk reads as the model says.
    #[track_caller]
    pub(crate) fn must_be(&self, model: &SectorModel) {
        if let Err(difference) = model.compare(|buf, offset| self.read_at(buf, offset)) {
            panic!("{difference}");
        }
    }

    /// Whether a notice contains these words.
    pub(crate) fn notices(&self, words: &str) -> bool {
        self.image
            .facts()
            .notices
            .iter()
            .any(|notice| notice.contains(words))
    }
}

/// Extents cover exactly the range, none is empty, neighbours are merged.
#[track_caller]
pub(crate) fn check(extents: &Extents, start: u64, len: u64) {
    let mut at = start;
    for extent in extents {
        assert_eq!(extent.start, at, "{extents:?}");
        assert!(extent.len > 0, "{extents:?}");
        at += extent.len;
    }
    assert_eq!(at, start + len, "{extents:?}");
    for pair in extents.windows(2) {
        let apart = match (pair[0].place, pair[1].place) {
            (Place::Data { file_offset: one }, Place::Data { file_offset: next }) => {
                one + pair[0].len != next
            }
            (one, next) => one != next,
        };
        assert!(apart, "not merged: {extents:?}");
    }
}

/// Bytes that tell their place: no two sectors are the same.
pub(crate) fn pattern(len: u64, salt: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len as usize);
    for sector in 0..len.div_ceil(512) {
        let mut one = [salt; 512];
        one[..8].copy_from_slice(&(sector + 1).to_le_bytes());
        bytes.extend_from_slice(&one);
    }
    bytes.truncate(len as usize);
    bytes
}
