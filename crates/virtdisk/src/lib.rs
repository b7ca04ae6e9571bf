//! The Windows Virtual Disk API for Linux: create, open, attach, detach and inspect disk images.
//!
//! This crate is the words of the API (names, flags and codes of `virtdisk.h`), the frames that
//! cross the service's socket, and a small synchronous client. It knows no image format, holds no
//! rights and starts no thread of its own but the one that reaps the service's process.
//!
//! A [`VirtualDisk`] is a connection to the service `virtdiskd`, which is started on demand. The
//! last copy of that connection that closes (close, exit, kill) closes the handle, and with it an
//! attachment that was not made with [`AttachFlags::PERMANENT_LIFETIME`].
//!
//! ```no_run
//! use virtdisk::{AccessMask, AttachFlags, AttachOptions};
//! use virtdisk::{DetachFlags, OpenOptions, VirtualDisk};
//!
//! # fn main() -> virtdisk::Result<()> {
//! let disk = VirtualDisk::open("/images/disk.vhd", &OpenOptions::with_access(AccessMask::READ))?;
//! let attached = disk.attach(&AttachOptions {
//!     flags: AttachFlags::READ_ONLY,
//!     ..AttachOptions::default()
//! })?;
//! println!("{}", attached.device.display());
//! let detached = disk.detach(DetachFlags::NONE)?;
//! assert!(detached.gone);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod check;
mod code;
mod disk;
mod error;
mod flags;
pub mod frame;
mod image_file;
mod parameters;
mod parent;
mod path;
mod program;
mod service;
mod storage_type;
mod wire;

pub use code::Code;
pub use disk::{Attached, Detached, VirtualDisk, attached};
pub use error::{Error, Result};
pub use flags::{AccessMask, AttachFlags, CreateFlags, DetachFlags, OpenFlags};
pub use frame::{AttachedDisk, Holder, Information};
pub use parameters::{
    AttachOptions, AttachParameters, CreateOptions, CreateParameters, CreateVersion, DetachOptions,
    InUse, OpenOptions, OpenParameters,
};
pub use parent::ParentPolicy;
pub use service::Service;
pub use storage_type::StorageType;
pub use uuid::Uuid;
