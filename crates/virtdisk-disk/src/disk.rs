//! The one handle that transports hold: cheap to clone, shared by any number of threads.
//!
//! A disk is opened over a file or, in tests, over any store. It keeps a gate: I/O passes it
//! shared, from asking the map to the end of the data transfer; trim and close pass it alone, so
//! that no block is freed under a running read or write. Facts never change while it is open.
//!
//! What moves bytes stands in `block.rs`.

use std::fs::File;
use std::io;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use virtdisk_format::{CreateOptions, ErrorKind, Facts, Image, OpenOptions, Store};

use crate::error::{Error, Result};
use crate::file_store::FileStore;

/// Whether a disk still answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Closed,
}

/// The bytes under an image: a file, called directly, or what a test put there.
pub(crate) enum Bytes {
    File(Arc<FileStore>),
    Other(Arc<dyn Store>),
}

pub(crate) struct Inner {
    pub(crate) name: Arc<str>,
    pub(crate) image: Box<dyn Image>,
    pub(crate) bytes: Bytes,
    pub(crate) size: u64,
    pub(crate) writable: bool,
    pub(crate) gate: RwLock<State>,
}

/// An open virtual disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    pub(crate) inner: Arc<Inner>,
}

/// How a disk lies in its file at the moment of asking. Sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhysicalFacts {
    /// The length of the file.
    pub file_length: u64,
    /// What the file takes up on its file system; holes count nothing.
    pub allocated_bytes: u64,
    /// Blocks that have space in the file; 0 where the format has no blocks.
    pub blocks_allocated: u64,
    /// Share of blocks that do not follow their predecessor, in percent; `None` without blocks.
    pub fragmentation_percent: Option<u32>,
    /// Whether all data starts on 4 KiB boundaries of the file.
    pub data_aligned_4k: bool,
}

impl Disk {
    /// Opens the image in `file`; `name` is only for messages.
    ///
    /// # Errors
    /// As the format's `open`; `InvalidParameter` and `ReadOnly` as [`FileStore::new`].
    pub fn open(file: File, name: &str, options: &OpenOptions) -> Result<Self> {
        let name = printable(name);
        let named = |error| Error::new(&name, error);
        let store = Arc::new(FileStore::new(file, options.writable).map_err(named)?);
        let shared: Arc<dyn Store> = Arc::<FileStore>::clone(&store);
        let image = virtdisk_format::open(shared, options).map_err(named)?;
        // Without its parent a differencing disk would be half of what it is (V-8).
        if image.facts().parent.is_some() {
            let (kind, message) = (
                ErrorKind::ParentMissing,
                "is a differencing disk, which cannot be read without its parent",
            );
            return Err(named(virtdisk_format::Error::new(kind, "image", message)));
        }
        Ok(Self::assemble(
            name,
            image,
            Bytes::File(store),
            options.writable,
        ))
    }

    /// Makes an image in `file`, which must be empty; `name` is only for messages.
    ///
    /// # Errors
    /// As the format's `create`, and as [`FileStore::new`]. The file may hold a part of an image
    /// then: whoever made the file removes it.
    pub fn create(file: File, name: &str, options: &CreateOptions) -> Result<()> {
        let name = printable(name);
        let named = |error| Error::new(&name, error);
        let store = FileStore::new(file, true).map_err(named)?;
        virtdisk_format::create(&store, options).map_err(named)
    }

    /// A disk over an image that is already open on `store`. For stores other than files.
    #[must_use]
    pub fn over(image: Box<dyn Image>, store: Arc<dyn Store>, name: &str) -> Self {
        Self::assemble(printable(name), image, Bytes::Other(store), true)
    }

    fn assemble(name: Arc<str>, image: Box<dyn Image>, bytes: Bytes, writable: bool) -> Self {
        let size = image.facts().virtual_size;
        let writable = writable && !image.facts().read_only;
        let gate = RwLock::new(State::Open);
        Self {
            inner: Arc::new(Inner {
                name,
                image,
                bytes,
                size,
                writable,
                gate,
            }),
        }
    }

    /// The facts, the same for as long as the disk is open.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        self.inner.image.facts()
    }

    /// The file's name for messages, control characters escaped.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Whether writes are refused from the start: opened for reading only, or the format forbids
    /// writing.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        !self.inner.writable
    }

    /// `Some(file offset)` where the whole disk is one run of the file: a loop device can stand
    /// straight on the file, with that offset and the virtual size as its limit.
    #[must_use]
    pub fn direct(&self) -> Option<u64> {
        self.inner.image.whole()
    }

    /// Whether the file is still the image that was opened (R-DET-15): structures and length are
    /// read again.
    ///
    /// # Errors
    /// What opening would say of what is there now.
    pub fn validate(&self) -> Result<()> {
        let _pass = self.inner.pass()?;
        self.inner
            .image
            .validate()
            .map_err(|error| self.inner.error(error))
    }

    /// How the disk lies in its file. Reads the tables: may take a while on a large disk.
    ///
    /// # Errors
    /// `Io`, and what the format says of tables that it reads on demand.
    pub fn physical(&self) -> Result<PhysicalFacts> {
        let inner = &*self.inner;
        let _pass = inner.pass()?;
        let physical = inner.image.physical().map_err(|error| inner.error(error))?;
        let (length, allocated) = match &inner.bytes {
            Bytes::File(file) => (Store::len(&**file), file.allocated_bytes()),
            Bytes::Other(store) => (store.len(), store.len()),
        };
        let unknown = |error| inner.io("file", "cannot be examined", error);
        Ok(PhysicalFacts {
            file_length: length.map_err(unknown)?,
            allocated_bytes: allocated.map_err(unknown)?,
            blocks_allocated: physical.blocks_allocated,
            fragmentation_percent: physical.fragmentation_percent,
            data_aligned_4k: physical.data_aligned_4k,
        })
    }

    /// Gives back space taken ahead of need and makes everything durable. Waits for running I/O;
    /// every later call on the disk or its clones is `WritesRefused`, except another close, which
    /// does nothing.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; the disk is closed all the same and the file is a valid image.
    pub fn close(&self) -> Result<()> {
        let mut state = self.inner.gate.write();
        if *state == State::Closed {
            return Ok(());
        }
        *state = State::Closed;
        self.inner
            .image
            .close()
            .map_err(|error| self.inner.error(error))
    }
}

impl Inner {
    /// Passes the gate shared.
    pub(crate) fn pass(&self) -> Result<RwLockReadGuard<'_, State>> {
        let pass = self.gate.read();
        self.check_open(*pass)?;
        Ok(pass)
    }

    pub(crate) fn check_open(&self, state: State) -> Result<()> {
        match state {
            State::Open => Ok(()),
            State::Closed => Err(self.fail(ErrorKind::WritesRefused, "disk", "was closed")),
        }
    }

    /// Names the file in a format's error.
    #[cold]
    pub(crate) fn error(&self, error: virtdisk_format::Error) -> Error {
        Error::new(&self.name, error)
    }

    /// An error that this floor itself finds.
    #[cold]
    pub(crate) fn fail(&self, kind: ErrorKind, structure: &'static str, message: &str) -> Error {
        self.error(virtdisk_format::Error::new(kind, structure, message))
    }

    /// An error of the file.
    #[cold]
    pub(crate) fn io(
        &self,
        structure: &'static str,
        action: &'static str,
        error: io::Error,
    ) -> Error {
        self.error(virtdisk_format::Error::io(structure, action, error))
    }
}

/// A name as it may stand in a message: terminal escapes and line ends are shown, not sent (S-8).
fn printable(name: &str) -> Arc<str> {
    let mut text = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_control() {
            text.extend(letter.escape_default());
        } else {
            text.push(letter);
        }
    }
    text.into()
}
