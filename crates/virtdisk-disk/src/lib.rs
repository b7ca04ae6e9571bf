//! One virtual disk: the handle that transports hold, and what the host says of its file.
//!
//! A [`Disk`] owns an image file that somebody else opened, asks the format floor where its bytes
//! lie, and moves them. It takes any range, checks it once, and never answers a byte that the image
//! does not say. Beside it: the sharing [`lock`]s that QEMU keeps too, facts about the [`host`]
//! file, and the [`partition`] table inside the disk.
//!
//! No paths are opened here, nothing runs in the background, and no thread is started.
#![forbid(unsafe_code)]

mod block;
mod disk;
mod error;
mod file_store;
pub mod host;
pub mod lock;
pub mod partition;

pub use disk::{Disk, PhysicalFacts};
pub use error::{Error, Result};
pub use file_store::FileStore;
pub use virtdisk_format::{
    CreateOptions, ErrorKind, Extent, Extents, Facts, Format, Image, Kind, OpenOptions, Place,
    SizeRule, Store,
};
