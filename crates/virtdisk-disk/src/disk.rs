//! The one handle that transports hold: cheap to clone, shared by any number of threads.
//!
//! A disk is opened over a file or, in tests, over any store. It keeps a gate: I/O passes it
//! shared, from asking the map to the end of the data transfer; trim and close pass it alone, so
//! that no block is freed under a running read or write. Facts never change while it is open.
//!
//! It is one layer, or a leaf with its parents. What moves bytes stands in `block.rs` and
//! `erase.rs`, where they lie in `extent.rs`.

use std::fs::File;
use std::sync::Arc;

use parking_lot::{RwLock, RwLockReadGuard};
use virtdisk_format::{
    CreateOptions, ErrorKind, Facts, Image, Kind, NewParent, OpenOptions, Store,
};

use crate::chain;
use crate::error::{Error, Result, printable};
use crate::file_store::FileStore;
use crate::gate::{Gate, Shut};
use crate::layer::{Bytes, Layer, LayerFacts};

/// Whether a disk still answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Open,
    Closed,
}

pub(crate) struct Inner {
    /// The image that was opened; the only one that is ever written.
    pub(crate) leaf: Layer,
    /// Its parent, the parent's parent and so on.
    pub(crate) parents: Box<[Layer]>,
    pub(crate) size: u64,
    /// Bytes of a logical sector, of which the size is a multiple.
    pub(crate) sector: u64,
    /// Bytes of the leaf may be a parent's.
    pub(crate) differencing: bool,
    pub(crate) writable: bool,
    pub(crate) gate: RwLock<State>,
}

/// An open virtual disk. Clones are the same disk.
#[derive(Clone)]
pub struct Disk {
    pub(crate) inner: Arc<Inner>,
}

/// An image that is open on a store, and a name for messages.
pub type Stored<'a> = (Box<dyn Image>, Arc<dyn Store>, &'a str);

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
    /// Opens the image in `file`; `name` is only for messages. A differencing image is refused:
    /// see [`Self::open_with`].
    ///
    /// # Errors
    /// As the format's `open`; `InvalidParameter` and `ReadOnly` as [`FileStore::new`];
    /// `ParentMissing` for a differencing image.
    pub fn open(file: File, name: &str, options: &OpenOptions) -> Result<Self> {
        Self::open_with(file, name, options, &mut Shut)
    }

    /// Opens the image in `file` and, where it is a differencing one, its parents, which `gate`
    /// opens. `options` are for the image; parents are opened for reading.
    ///
    /// # Errors
    /// As [`Self::open`]; `ParentMissing` when the gate has no more candidates, `ParentMismatch` if
    /// all of them were other disks, `ChainCycle`; what the gate says.
    pub fn open_with(
        file: File,
        name: &str,
        options: &OpenOptions,
        gate: &mut dyn Gate,
    ) -> Result<Self> {
        let mut leaf = Layer::open(file, name, options)?;
        let parents = chain::parents(&mut leaf, name, gate)?;
        Ok(Self::assemble(leaf, parents, options.writable))
    }

    /// Opens the image in `file` and never its parents: what a differencing image has itself can
    /// be read, the rest is `ParentMissing`.
    ///
    /// # Errors
    /// As the format's `open`; `InvalidParameter` and `ReadOnly` as [`FileStore::new`].
    pub fn open_alone(file: File, name: &str, options: &OpenOptions) -> Result<Self> {
        let leaf = Layer::open(file, name, options)?;
        Ok(Self::assemble(leaf, Vec::new(), options.writable))
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

    /// A disk over an image that is already open on `store`, alone. For stores other than files.
    #[must_use]
    pub fn over(image: Box<dyn Image>, store: Arc<dyn Store>, name: &str) -> Self {
        Self::assemble(Layer::over(image, store, name), Vec::new(), true)
    }

    /// The same with parents, nearest first, that nobody compares with what their children say.
    #[must_use]
    pub fn over_parents(leaf: Stored<'_>, parents: Vec<Stored<'_>>) -> Self {
        let layer = |(image, store, name)| Layer::over(image, store, name);
        let parents = parents.into_iter().map(layer).collect();
        Self::assemble(layer(leaf), parents, true)
    }

    fn assemble(leaf: Layer, parents: Vec<Layer>, writable: bool) -> Self {
        let facts = leaf.image.facts();
        Self {
            inner: Arc::new(Inner {
                size: leaf.size,
                sector: u64::from(facts.logical_sector_size.max(1)),
                differencing: facts.kind == Kind::Differencing,
                writable: writable && !facts.read_only,
                leaf,
                parents: parents.into(),
                gate: RwLock::new(State::Open),
            }),
        }
    }

    /// The facts of the image that was opened, the same for as long as the disk is open.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        self.inner.leaf.image.facts()
    }

    /// The facts of every layer: the image that was opened, its parent, and so on.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerFacts> {
        self.inner.layers().map(Layer::facts).collect()
    }

    /// The file of a layer, which must not be written to; `None` where there is no such layer, no
    /// file under it, or its bytes are right only with a log that was replayed in memory.
    #[must_use]
    pub fn file(&self, layer: u32) -> Option<&FileStore> {
        let layer = self.inner.layer(layer)?;
        match layer.bytes {
            Bytes::Replayed { .. } => None,
            Bytes::File(_) | Bytes::Other(_) => layer.file(),
        }
    }

    /// Whether it is a differencing image without its parents: see [`Self::open_alone`].
    #[must_use]
    pub fn lacks_parent(&self) -> bool {
        let last = self.inner.parents.last().unwrap_or(&self.inner.leaf);
        last.image.facts().kind == Kind::Differencing
    }

    /// The file's name for messages, control characters escaped.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.leaf.name
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
        self.inner.leaf.image.whole()
    }

    /// Whether the files are still the images that were opened (R-DET-15): structures and length
    /// are read again, of every layer.
    ///
    /// # Errors
    /// What opening would say of what is there now.
    pub fn validate(&self) -> Result<()> {
        let _pass = self.inner.pass()?;
        self.inner
            .layers()
            .try_for_each(|layer| layer.image.validate().map_err(|error| layer.error(error)))
    }

    /// Says that the disk's bytes will be written around this handle, straight in the file at
    /// [`Self::direct`]: what tells others that the data changed is renewed first.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    pub fn touch(&self) -> Result<()> {
        let inner = &*self.inner;
        inner.check_writable()?;
        let _pass = inner.pass()?;
        let touched = inner.leaf.image.touch();
        touched.map_err(|error| inner.leaf.error(error))
    }

    /// What a new child of this image records: the identity, and what it takes over. The
    /// paths are those of Windows, from the child's folder and from a drive; empty ones are not
    /// written.
    ///
    /// # Errors
    /// As [`Self::read_at`]; `InvalidParameter` for an image that can have no children.
    pub fn as_parent(&self, relative_path: &str, absolute_path: &str) -> Result<NewParent> {
        let _pass = self.inner.pass()?;
        let leaf = &self.inner.leaf;
        let content_id = leaf.image.facts().content_id;
        if content_id.is_nil() {
            let message = "has no identity that a child could record";
            return Err(leaf.fail(ErrorKind::InvalidParameter, "image", message));
        }
        let inherited = leaf.image.inherited();
        Ok(NewParent {
            content_id,
            // Windows writes no time either (V-14).
            modified_unix: 0,
            relative_path: relative_path.to_owned(),
            absolute_path: absolute_path.to_owned(),
            inherited: inherited.map_err(|error| leaf.error(error))?,
        })
    }

    /// How the image that was opened lies in its file, without its parents. Reads the tables: may
    /// take a while on a large disk.
    ///
    /// # Errors
    /// `Io`, and what the format says of tables that it reads on demand.
    pub fn physical(&self) -> Result<PhysicalFacts> {
        let _pass = self.inner.pass()?;
        let leaf = &self.inner.leaf;
        let physical = leaf.image.physical().map_err(|error| leaf.error(error))?;
        let unknown = |error| virtdisk_format::Error::io("file", "cannot be examined", error);
        let lengths = leaf.lengths().map_err(|error| leaf.error(unknown(error)));
        let (file_length, allocated_bytes) = lengths?;
        Ok(PhysicalFacts {
            file_length,
            allocated_bytes,
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
        let leaf = &self.inner.leaf;
        leaf.image.close().map_err(|error| leaf.error(error))
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
            State::Closed => {
                let kind = ErrorKind::WritesRefused;
                Err(self.leaf.fail(kind, "disk", "was closed"))
            }
        }
    }

    /// All layers, the leaf first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.leaf).chain(&self.parents)
    }

    /// The layer of that number; 0 is the leaf.
    pub(crate) fn layer(&self, number: u32) -> Option<&Layer> {
        match number.checked_sub(1) {
            None => Some(&self.leaf),
            Some(parent) => self.parents.get(usize::try_from(parent).ok()?),
        }
    }
}
