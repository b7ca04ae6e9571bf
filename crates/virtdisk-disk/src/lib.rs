//! One virtual disk: the handle that transports hold, and what the host says of its file.
//!
//! A [`Disk`] owns an image file that somebody else opened, asks the format floor where its bytes
//! lie, and moves them. It takes any range, checks it once, and never answers a byte that the image
//! does not say. Beside it: the sharing [`lock`]s that QEMU keeps too, facts about the [`host`]
//! file, and the [`partition`] table inside the disk.
//!
//! A differencing image is opened with its parents, which the caller's [`Gate`] opens. Long work on
//! whole disks (hash, compare, convert) stands in [`work`].
//!
//! No paths are opened here, nothing runs in the background, and no thread is started but by the
//! long work, where it ends before the call returns.
#![forbid(unsafe_code)]

mod block;
mod chain;
pub mod check;
mod disk;
mod erase;
mod error;
mod extent;
mod file_store;
mod gate;
pub mod host;
mod layer;
pub mod lock;
pub mod partition;
mod undo;
pub mod work;

pub use disk::{Disk, PhysicalFacts, Stored};
pub use error::{Error, Result};
pub use extent::{LayerExtent, LayerExtents};
pub use file_store::FileStore;
pub use gate::{Candidate, Gate, Need, Rejected};
pub use layer::LayerFacts;
pub use virtdisk_format::{
    CreateOptions, ErrorKind, Facts, Finding, Format, HintKind, Image, Kind, MetadataItem,
    NewParent, OpenOptions, ParentHint, ParentLink, Place, Severity, SizeRule, Store, Summary,
};
