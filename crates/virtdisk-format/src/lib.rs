//! What the bytes of an image say: VHD, VHDX, ISO and raw.
//!
//! A format here is a map. [`Image::map`] turns a range of the virtual disk into extents of the
//! file, [`Image::reserve`] makes place for a write, and the data itself never passes through
//! this crate. Files are reached only through [`Store`]: no paths, no system calls, no threads.
//! Nothing read from a file can make this crate panic, loop for ever or allocate more than the
//! file's own length justifies; what cannot be trusted is refused with an [`Error`] that names
//! structure, offset, found and wanted.

#![forbid(unsafe_code)]
#![deny(clippy::cast_possible_truncation)]

mod check;
mod commit;
mod create;
mod error;
mod extent;
mod facts;
mod finding;
mod image;
mod iso;
mod open;
mod probe;
mod raw;
mod recorder;
mod run;
mod store;
mod vhd;
mod vhdx;

pub use check::{Summary, check, repair};
pub use create::{CreateOptions, NewParent, create};
pub use error::{Error, ErrorKind, Result};
pub use extent::{Extent, Extents, Place, append};
pub use facts::{Facts, Format, HintKind, Kind, MetadataItem, ParentHint, ParentLink, Physical};
pub use finding::{Finding, Severity};
pub use image::{Image, Ticket};
pub use open::{OpenOptions, SizeRule, open};
pub use probe::probe;
pub use recorder::Undo;
pub use store::Store;
