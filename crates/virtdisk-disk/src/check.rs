//! Checking and repairing the image in a file, and undoing a repair.
//!
//! The file comes open; its locks are its owner's business (shared for a check, exclusive for a
//! repair). What a repair overwrites goes to an undo file first, whose layout stands in `undo.rs`.

use std::fs::File;
use std::sync::Arc;

use virtdisk_format::{ErrorKind, Finding, OpenOptions, Store, Summary};

use crate::error::{Error, Result, printable};
use crate::file_store::FileStore;
use crate::undo::{Kept, Recording};

/// What [`restore`] put back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restored {
    /// Bytes that were overwritten with what stood there before the repair.
    pub bytes: u64,
    /// Length of the file, as it was before the repair.
    pub file_length: u64,
}

/// Checks the image in `file`, alone, and tells every finding; `name` is only for messages.
///
/// # Errors
/// As [`virtdisk_format::check`]; `InvalidParameter` for what is no regular file.
pub fn check(
    file: File,
    name: &str,
    options: &OpenOptions,
    report: &mut dyn FnMut(Finding),
) -> Result<Summary> {
    let name = printable(name);
    let named = |error| Error::new(&name, error);
    let store: Arc<dyn Store> = Arc::new(FileStore::new(file, false).map_err(named)?);
    virtdisk_format::check(&store, options, report).map_err(named)
}

/// Repairs the image in `file`, which is open for writing, as [`virtdisk_format::repair`] does,
/// and answers what was repaired. `undo` makes an empty file to keep the old bytes in; it is asked
/// only when something will be written.
///
/// # Errors
/// As [`virtdisk_format::repair`]; `Io` where the undo file cannot be made or written.
pub fn repair(
    file: File,
    name: &str,
    options: &OpenOptions,
    undo: impl FnOnce() -> std::io::Result<File> + Send + 'static,
) -> Result<Vec<Finding>> {
    let name = printable(name);
    let named = |error| Error::new(&name, error);
    let store: Arc<dyn Store> = Arc::new(FileStore::new(file, true).map_err(named)?);
    let len = store.len().map_err(|error| {
        named(virtdisk_format::Error::io(
            "file",
            "does not tell its length",
            error,
        ))
    })?;
    let mut make = Some(undo);
    let mut recording = None;
    let keep = move |offset: u64, old: &[u8]| {
        if let Some(make) = make.take() {
            recording = Some(Recording::begin(make()?, len)?);
        }
        match &mut recording {
            Some(recording) => recording.keep(offset, old),
            None => Err(std::io::Error::other("the undo file could not be made")),
        }
    };
    virtdisk_format::repair(&store, options, Box::new(keep)).map_err(named)
}

/// Puts back what the repair overwrote whose undo file is `undo`, in `file`, open for writing. Safe
/// to do again.
///
/// # Errors
/// `InvalidParameter` where `undo` is no sound undo file, with nothing changed; `Io`.
pub fn restore(file: File, name: &str, undo: &File) -> Result<Restored> {
    let name = printable(name);
    let named = |error| Error::new(&name, error);
    let store = FileStore::new(file, true).map_err(named)?;
    let fault = |error: std::io::Error| {
        named(if error.kind() == std::io::ErrorKind::InvalidData {
            let message = format!("cannot be used: {error}");
            virtdisk_format::Error::new(ErrorKind::InvalidParameter, "undo file", message)
        } else {
            virtdisk_format::Error::io("undo file", "cannot be put back", error)
        })
    };
    let kept = Kept::read(undo).map_err(fault)?;
    let bytes = kept.put_back(undo, &store).map_err(fault)?;
    Ok(Restored {
        bytes,
        file_length: kept.image_len,
    })
}
