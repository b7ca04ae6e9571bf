//! One image file of a disk, and the bytes in it.
//!
//! A disk is a leaf and, where that is a differencing image, its parents, each of them a layer. A
//! layer moves bytes of its file at offsets that its own map answered; a range that ends past the
//! file is an error and never a hole, for it means that somebody cut the file. Errors name the file
//! of the layer that they are about, not the leaf.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use virtdisk_format::{ErrorKind, Extents, Facts, Image, OpenOptions, Store};

use crate::error::{Error, Result, printable};
use crate::file_store::FileStore;

/// Zeros to write into stores that are no files.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// The bytes under an image: a file, called directly, or what a test put there.
pub(crate) enum Bytes {
    /// The file.
    File(Arc<FileStore>),
    /// The file, whose bytes are right only with a log that was replayed in memory. Never written.
    Replayed {
        file: Arc<FileStore>,
        store: Arc<dyn Store>,
    },
    /// A store that is no file.
    Other(Arc<dyn Store>),
}

/// An open image.
pub(crate) struct Layer {
    pub(crate) name: Arc<str>,
    pub(crate) image: Box<dyn Image>,
    pub(crate) bytes: Bytes,
    pub(crate) size: u64,
    /// Device and inode of the file; `None` for stores that are no files.
    pub(crate) identity: Option<(u64, u64)>,
    /// What is odd about this layer beside its neighbours, a sentence each.
    pub(crate) notices: Vec<String>,
}

/// What is known of one layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerFacts {
    /// The file's name for messages, control characters escaped.
    pub name: String,
    /// The facts of the image alone; its notices and those of its place in the chain.
    pub facts: Facts,
}

impl Layer {
    /// Opens the image in `file`, alone.
    pub(crate) fn open(file: File, name: &str, options: &OpenOptions) -> Result<Self> {
        let name = printable(name);
        let named = |error| Error::new(&name, error);
        let store = FileStore::new(file, options.writable).map_err(named)?;
        let unknown = |error| virtdisk_format::Error::io("file", "cannot be examined", error);
        let identity = store.identity().map_err(|error| named(unknown(error)))?;
        let file = Arc::new(store);
        let shared: Arc<dyn Store> = Arc::<FileStore>::clone(&file);
        let image = virtdisk_format::open(shared, options).map_err(named)?;
        let bytes = match image.bytes() {
            Some(store) => Bytes::Replayed { file, store },
            None => Bytes::File(file),
        };
        Ok(Self {
            size: image.facts().virtual_size,
            name,
            image,
            bytes,
            identity: Some(identity),
            notices: Vec::new(),
        })
    }

    /// A layer over an image that is already open on `store`.
    pub(crate) fn over(image: Box<dyn Image>, store: Arc<dyn Store>, name: &str) -> Self {
        Self {
            name: printable(name),
            size: image.facts().virtual_size,
            bytes: Bytes::Other(image.bytes().unwrap_or(store)),
            image,
            identity: None,
            notices: Vec::new(),
        }
    }

    /// What the caller may know of it.
    pub(crate) fn facts(&self) -> LayerFacts {
        let mut facts = self.image.facts().clone();
        facts.notices.extend(self.notices.iter().cloned());
        LayerFacts {
            name: self.name.as_ref().to_owned(),
            facts,
        }
    }

    /// The file; `None` for stores that are no files.
    pub(crate) fn file(&self) -> Option<&FileStore> {
        match &self.bytes {
            Bytes::File(file) | Bytes::Replayed { file, .. } => Some(file),
            Bytes::Other(_) => None,
        }
    }

    /// When the file was changed last, in seconds since 1970.
    pub(crate) fn modified_unix(&self) -> Option<u64> {
        let modified = self.file()?.modified().ok()?;
        let since = modified.duration_since(UNIX_EPOCH).ok()?;
        Some(since.as_secs())
    }

    /// Length of the file, and what it takes up on its file system.
    pub(crate) fn lengths(&self) -> io::Result<(u64, u64)> {
        match &self.bytes {
            Bytes::File(file) | Bytes::Replayed { file, .. } => {
                Ok((Store::len(&**file)?, file.allocated_bytes()?))
            }
            Bytes::Other(store) => {
                let len = store.len()?;
                Ok((len, len))
            }
        }
    }

    #[inline]
    pub(crate) fn map(&self, start: u64, len: u64) -> Result<Extents> {
        let mut extents = Extents::new();
        match self.image.map(start, len, &mut extents) {
            Ok(()) => Ok(extents),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Reads data at an offset of the file.
    #[inline]
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let read = match &self.bytes {
            Bytes::File(file) => file.read_exact_at(buf, offset),
            Bytes::Replayed { store, .. } | Bytes::Other(store) => store.read_exact_at(buf, offset),
        };
        read.map_err(|error| self.data_error("cannot be read", error, offset))
    }

    /// Writes data at an offset of the file, inside its length.
    #[inline]
    pub(crate) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let written = match &self.bytes {
            Bytes::File(file) => file.write_inside(buf, offset),
            Bytes::Replayed { .. } => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Bytes::Other(store) => check_inside(&**store, offset, buf.len() as u64)
                .and_then(|()| store.write_all_at(buf, offset)),
        };
        written.map_err(|error| self.data_error("cannot be written", error, offset))
    }

    /// Makes data at an offset of the file zeros and keeps its space.
    pub(crate) fn zero(&self, offset: u64, len: u64) -> Result<()> {
        let zeroed = match &self.bytes {
            Bytes::File(file) => file.zero_keeping_space(offset, len),
            Bytes::Replayed { .. } => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Bytes::Other(store) => write_zeros(&**store, offset, len),
        };
        zeroed.map_err(|error| self.data_error("cannot be zeroed", error, offset))
    }

    /// Names the file in a format's error.
    #[cold]
    pub(crate) fn error(&self, error: virtdisk_format::Error) -> Error {
        Error::new(&self.name, error)
    }

    /// An error that this floor itself finds.
    #[cold]
    pub(crate) fn fail(
        &self,
        kind: ErrorKind,
        structure: &'static str,
        message: impl Into<String>,
    ) -> Error {
        self.error(virtdisk_format::Error::new(kind, structure, message))
    }

    /// The map of a format answered what no map may.
    #[cold]
    pub(crate) fn wrong_map(&self) -> Error {
        self.fail(
            ErrorKind::Io,
            "map of the image",
            "does not cover the range that was asked for",
        )
    }

    /// An error while data moved. A range that ends past the file means that somebody cut it.
    #[cold]
    fn data_error(&self, action: &'static str, error: io::Error, file_offset: u64) -> Error {
        let action = match error.kind() {
            io::ErrorKind::UnexpectedEof => "ends past the file, which was cut while it was open",
            _ => action,
        };
        self.error(virtdisk_format::Error::io("data", action, error).at(file_offset))
    }
}

fn write_zeros(store: &dyn Store, offset: u64, len: u64) -> io::Result<()> {
    check_inside(store, offset, len)?;
    let (mut position, mut left) = (offset, len);
    while left > 0 {
        let part = usize::try_from(left)
            .unwrap_or(ZEROS.len())
            .min(ZEROS.len());
        store.write_all_at(&ZEROS[..part], position)?;
        position += part as u64;
        left -= part as u64;
    }
    Ok(())
}

fn check_inside(store: &dyn Store, offset: u64, len: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= store.len()? => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
