//! The image that a conversion writes.
//!
//! Nobody else knows the file yet, and what a conversion leaves behind when it stops early is
//! thrown away. So nothing is flushed on the way, whatever order the format asks for, and all is
//! made durable once, at the end. Writes may come from several threads, for ranges apart.

use std::fs::File;
use std::io;
use std::sync::Arc;

use virtdisk_format::{Extents, Image, OpenOptions, Place, Store};

use crate::error::{Error, Result, printable};
use crate::file_store::FileStore;
use crate::{CreateOptions, ErrorKind};

/// A file whose flushes wait for the end.
struct Unflushed(FileStore);

/// A new image, open for writing.
pub(super) struct Target {
    name: Arc<str>,
    image: Box<dyn Image>,
    store: Arc<Unflushed>,
}

impl Target {
    /// Makes an image in `file`, which must be empty. `before` may use the empty file first.
    pub(super) fn create<T>(
        file: File,
        name: &str,
        options: &CreateOptions,
        before: impl FnOnce(&FileStore) -> T,
    ) -> Result<(Self, T)> {
        let name = printable(name);
        let named = |error| Error::new(&name, error);
        let file = FileStore::new(file, true).map_err(named)?;
        let len = Store::len(&file).unwrap_or(u64::MAX);
        if len != 0 {
            let error = virtdisk_format::Error::new(
                ErrorKind::InvalidParameter,
                "file",
                "to convert into is not empty",
            );
            return Err(named(error.with_found(format_args!("{len} bytes"))));
        }
        let before = before(&file);
        let store = Arc::new(Unflushed(file));
        virtdisk_format::create(&*store, options).map_err(named)?;
        let open = OpenOptions {
            writable: true,
            format: Some(options.format),
            ..OpenOptions::default()
        };
        let shared: Arc<dyn Store> = Arc::<Unflushed>::clone(&store);
        let image = virtdisk_format::open(shared, &open).map_err(named)?;
        Ok((Self { name, image, store }, before))
    }

    /// Writes `buf` at the disk's byte `offset`.
    pub(super) fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut rest = buf;
        self.place(offset, buf.len() as u64, |file, to, start, len| {
            let part = usize::try_from(len).ok();
            let Some((part, tail)) = part.and_then(|part| rest.split_at_checked(part)) else {
                return Err(self.wrong_map(start));
            };
            rest = tail;
            file.write_inside(part, to).map_err(|error| {
                self.error(virtdisk_format::Error::io("data", "cannot be written", error).at(to))
            })
        })
    }

    /// Makes place for `len` bytes of the disk from `offset` on and has `fill` put them there, for
    /// each stretch of the file: file, file offset, the disk's byte, length.
    pub(super) fn place(
        &self,
        offset: u64,
        len: u64,
        mut fill: impl FnMut(&FileStore, u64, u64, u64) -> Result<()>,
    ) -> Result<()> {
        let mut extents = Extents::new();
        let reserved = self.image.reserve(offset, len, &mut extents);
        let ticket = reserved.map_err(|error| self.error(error))?;
        for extent in &extents {
            let Place::Data { file_offset } = extent.place else {
                return Err(self.wrong_map(extent.start));
            };
            fill(&self.store.0, file_offset, extent.start, extent.len)?;
        }
        self.image
            .complete(ticket)
            .map_err(|error| self.error(error))
    }

    /// Closes the image and makes all of it durable.
    pub(super) fn finish(self) -> Result<()> {
        self.image.close().map_err(|error| self.error(error))?;
        Store::flush(&self.store.0).map_err(|error| {
            self.error(virtdisk_format::Error::io(
                "image",
                "cannot be made durable",
                error,
            ))
        })
    }

    #[cold]
    fn error(&self, error: virtdisk_format::Error) -> Error {
        Error::new(&self.name, error)
    }

    #[cold]
    fn wrong_map(&self, at: u64) -> Error {
        let message = format!("does not say where byte {at} of the disk is to go");
        self.error(virtdisk_format::Error::new(
            ErrorKind::Io,
            "map of the image",
            message,
        ))
    }
}

impl Store for Unflushed {
    fn len(&self) -> io::Result<u64> {
        Store::len(&self.0)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(buf, offset)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.zero(offset, len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }
}
