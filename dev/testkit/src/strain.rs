//! What every image must bear, sound or not: the oracles of the mutation tests and fuzzers.
//!
//! A panic here is a finding. Read-only: nothing is written to the store, the map covers what was
//! asked, whatever reads, reads the same again. Writable: whatever is answered "done" is there,
//! nothing else changed, and the closed image opens and reads as the model says.
//! The parent of a differencing image is a pattern; the format floor never opens one.

use std::io;
use std::sync::Arc;

use virtdisk_format::{
    Error, Extents, Format, Image, OpenOptions, Place, Result, SizeRule, Store, open,
};

use crate::memory::{MemoryStore, read_pages};
use crate::model::{SectorModel, Verb};
use crate::pages::Pages;
use crate::rng::Rng;

/// Bytes that are mapped and read at a time.
const PIECE: u64 = 1 << 20;
/// A disk of up to this many bytes is read whole, a larger one at five places.
const WHOLE: u64 = 6 << 20;
/// A disk of more bytes is written without a model.
const MODELLED: u64 = 16 << 20;
/// A few writes make no file grow by more bytes than these and their own blocks.
const GROWTH: u64 = 96 << 20;

/// A file that must not change.
struct Untouchable(Pages);

#[allow(clippy::panic)]
impl Store for Untouchable {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        panic!("an image that is open for reading sets the file's length to {len}");
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        read_pages(&self.0, buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let len = buf.len();
        panic!("an image that is open for reading writes {len} bytes at {offset}");
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        panic!("an image that is open for reading zeroes {len} bytes at {offset}");
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        panic!("an image that is open for reading takes {len} bytes of space");
    }
}

/// The options that `choice` stands for, for reading.
#[must_use]
pub fn options(choice: u8, extension: &str) -> OpenOptions {
    let mut options = OpenOptions {
        extension: Some(extension.to_owned()),
        ..OpenOptions::default()
    };
    match choice % 8 {
        4 => options.recover = true,
        5 => options.size_rule = SizeRule::Chs,
        6 => {
            options.size_rule = SizeRule::CurrentSize;
            options.recover = true;
        }
        7 => {
            options.format = match choice / 8 % 4 {
                0 => Some(Format::Vhd),
                1 => Some(Format::Vhdx),
                2 => Some(Format::Iso),
                _ => Some(Format::Raw),
            };
        }
        _ => {}
    }
    options
}

/// What the parent of every image here holds.
fn parent(buf: &mut [u8], offset: u64) {
    for (index, byte) in buf.iter_mut().enumerate() {
        let sector = (offset + index as u64) / 512;
        *byte = (sector % 251 + 3) as u8;
    }
}

/// An open image beside its store.
struct Open {
    image: Box<dyn Image>,
    bytes: Arc<dyn Store>,
}

impl Open {
    fn new(store: Arc<dyn Store>, options: &OpenOptions) -> Result<Open> {
        let image = open(Arc::clone(&store), options)?;
        let facts = image.facts();
        assert!(
            facts.virtual_size > 0 || facts.format == Format::Raw,
            "{facts:?}"
        );
        let printable = |text: &str| !text.contains(char::is_control);
        assert!(
            facts.creator.is_ascii() && printable(&facts.creator),
            "{facts:?}"
        );
        assert!(
            facts.notices.iter().all(|notice| printable(notice)),
            "{facts:?}"
        );
        let bytes = image.bytes().unwrap_or(store);
        Ok(Open { image, bytes })
    }

    fn size(&self) -> u64 {
        self.image.facts().virtual_size
    }

    fn extents(&self, start: u64, len: u64) -> Result<Extents> {
        let mut extents = Extents::new();
        self.image.map(start, len, &mut extents)?;
        covers(&extents, start, len);
        Ok(extents)
    }

    fn read(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        let mut buf = vec![0xA5; len as usize];
        for extent in self.extents(start, len)? {
            let from = (extent.start - start) as usize;
            let part = &mut buf[from..from + extent.len as usize];
            match extent.place {
                Place::Data { file_offset } => self
                    .bytes
                    .read_exact_at(part, file_offset)
                    .map_err(|error| Error::io("data", "cannot be read", error))?,
                Place::Zero => part.fill(0),
                Place::Parent => parent(part, extent.start),
            }
        }
        Ok(buf)
    }

    fn write(&self, buf: &[u8], start: u64) -> Result<()> {
        let mut extents = Extents::new();
        let ticket = self.image.reserve(start, buf.len() as u64, &mut extents)?;
        covers(&extents, start, buf.len() as u64);
        for extent in extents {
            let from = (extent.start - start) as usize;
            let part = &buf[from..from + extent.len as usize];
            let Place::Data { file_offset } = extent.place else {
                unreachable!("a reserved extent is {:?}", extent.place);
            };
            self.bytes
                .write_all_at(part, file_offset)
                .map_err(|error| Error::io("data", "cannot be written", error))?;
        }
        self.image.complete(ticket)
    }

    fn apply(&self, verb: &Verb) -> Result<()> {
        match *verb {
            Verb::Write { offset, len, seed } => self.write(&Verb::bytes(len, seed), offset),
            Verb::Zero { offset, len, .. } | Verb::Trim { offset, len } => {
                self.image.trim(offset, len)
            }
            Verb::Flush => self.image.flush(),
        }
    }

    /// The places that are read: all of a small disk, five of a large one.
    fn pieces(&self) -> Vec<(u64, u64)> {
        let size = self.size();
        let sector = u64::from(self.image.facts().logical_sector_size).max(512);
        let starts: Vec<u64> = if size <= WHOLE {
            (0..size).step_by(PIECE as usize).collect()
        } else {
            let last = (size - PIECE) / sector * sector;
            [0, PIECE, size / 3, size / 2, last]
                .map(|at| at / sector * sector)
                .to_vec()
        };
        let piece = |at: u64| (at, PIECE.min(size - at));
        starts.into_iter().map(piece).collect()
    }

    /// What stands at those places, or the kind of error.
    fn contents(&self) -> Vec<std::result::Result<Vec<u8>, String>> {
        let read = |(at, len)| self.read(at, len).map_err(|error| error.to_string());
        self.pieces().into_iter().map(read).collect()
    }
}

/// Extents cover the range exactly, in order.
fn covers(extents: &Extents, start: u64, len: u64) {
    let mut at = start;
    for extent in extents {
        assert_eq!(extent.start, at, "{extents:?}");
        assert!(extent.len > 0, "{extents:?}");
        if let Place::Data { file_offset } = extent.place {
            assert!(
                file_offset.checked_add(extent.len).is_some(),
                "{extents:?} wraps"
            );
        }
        at += extent.len;
    }
    assert_eq!(at, start + len, "{extents:?}");
}

/// Opens for reading and reads twice; whether it opened.
pub fn read(file: &Pages, options: &OpenOptions) -> bool {
    let store = Arc::new(Untouchable(file.clone()));
    let disk = match Open::new(store.clone(), options) {
        Ok(disk) => disk,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            return false;
        }
    };
    let contents = disk.contents();
    drop(disk.image.physical());
    drop(disk.image.inherited());
    if let Some(at) = disk.image.whole()
        && disk.size() > 0
    {
        let end = at.checked_add(disk.size());
        assert!(end.is_some_and(|end| end <= file.len()), "whole at {at}");
    }
    if let Err(error) = disk.image.validate() {
        unreachable!("the file is what was opened, and yet: {error:?}");
    }
    assert!(disk.contents() == contents, "read twice, read differently");
    for (start, len) in [(disk.size(), 512), (u64::MAX - 511, 512), (0, u64::MAX)] {
        let beyond = disk.image.map(start, len, &mut Extents::new());
        assert!(beyond.is_err(), "{start} + {len}: outside of the disk");
    }
    drop(disk.image.close());
    let Ok(again) = Open::new(store, options) else {
        unreachable!("opened once and not again");
    };
    assert!(
        again.contents() == contents,
        "opened twice, read differently"
    );
    true
}

/// Opens for writing, does some verbs beside a model, closes, opens again and compares; whether it
/// opened. `seed` chooses the verbs.
pub fn write(file: &Pages, options: &OpenOptions, seed: u64) -> bool {
    let options = OpenOptions {
        writable: true,
        ..options.clone()
    };
    let store = Arc::new(MemoryStore::from_pages(file.clone()));
    let Ok(disk) = Open::new(store.clone(), &options) else {
        return false;
    };
    // A replayed log may have made it longer by what the log says.
    let opened = store.pages().len().max(file.len());
    let size = disk.size();
    let whole = if size <= MODELLED {
        disk.read(0, size).ok()
    } else {
        None
    };
    let mut model = whole.map(|bytes| SectorModel::from_bytes(&bytes));
    let mut rng = Rng::new(seed);
    let sector = u64::from(disk.image.facts().logical_sector_size);
    for _ in 0..1 + rng.below(6) {
        if size < sector {
            break;
        }
        let verb = Verb::random(&mut rng, size / sector * sector, sector, PIECE);
        match (disk.apply(&verb), &mut model) {
            (Ok(()), Some(model)) => model.apply(&verb),
            (Ok(()), None) => done(&disk, &verb),
            // What it has changed of the range is not said.
            (Err(_), _) => {
                model = None;
                break;
            }
        }
    }
    agrees(&disk, model.as_ref());
    let block = u64::from(disk.image.facts().block_size);
    let closed = disk.image.close();
    drop(disk);
    let grown = store.pages().len().saturating_sub(opened);
    assert!(grown < GROWTH + 2 * block, "the file grew by {grown}");
    if closed.is_err() || model.is_none() {
        return true;
    }
    for writable in [false, true] {
        let options = OpenOptions {
            writable,
            ..options.clone()
        };
        match Open::new(store.clone(), &options) {
            Ok(again) => agrees(&again, model.as_ref()),
            Err(error) => unreachable!("closed, and no longer opens: {error:?}"),
        }
    }
    true
}

/// A log that is replayed in memory shows what one shows that is replayed in the file; whether both
/// opened.
pub fn replayed_alike(file: &Pages, options: &OpenOptions) -> bool {
    let writable = OpenOptions {
        writable: true,
        ..options.clone()
    };
    let (there, here) = (
        Arc::new(Untouchable(file.clone())),
        Arc::new(MemoryStore::from_pages(file.clone())),
    );
    let (Ok(memory), Ok(replayed)) = (
        Open::new(there, options),
        Open::new(here.clone(), &writable),
    ) else {
        return false;
    };
    let contents = memory.contents();
    for (memory, replayed) in contents.iter().zip(replayed.contents()) {
        if let (Ok(memory), Ok(replayed)) = (memory, replayed) {
            assert!(*memory == replayed, "replayed differently");
        }
    }
    // Stopped at any time, the file replays again to the same.
    drop(replayed);
    match Open::new(here, options) {
        Ok(again) => assert!(again.contents() == contents, "replayed twice, differently"),
        Err(error) => unreachable!("replayed, and no longer opens: {error:?}"),
    }
    true
}

/// A verb that was done is there.
fn done(disk: &Open, verb: &Verb) {
    let (range, wanted) = match *verb {
        Verb::Write { offset, len, seed } => ((offset, len), Verb::bytes(len, seed)),
        Verb::Zero { offset, len, .. } | Verb::Trim { offset, len } => {
            ((offset, len), vec![0; len as usize])
        }
        Verb::Flush => return,
    };
    let read = disk.read(range.0, range.1);
    assert!(read.is_ok_and(|bytes| bytes == wanted), "{verb:?} was lost");
}

#[allow(clippy::panic)]
fn agrees(disk: &Open, model: Option<&SectorModel>) {
    let Some(model) = model else { return };
    let compared = model.compare(|buf, at| {
        let bytes = disk.read(at, buf.len() as u64)?;
        buf.copy_from_slice(&bytes);
        Ok::<(), Error>(())
    });
    if let Err(difference) = compared {
        panic!("{difference}");
    }
}
