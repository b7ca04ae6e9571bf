//! How the Linux kernel sees a virtual disk.
//!
//! The third floor: it turns a disk (a file, or a `virtdisk_disk::Disk`) into a block device and
//! says who uses it. Every transport is cut along the privilege line: a *node* half that needs
//! rights (loop devices, mounts, partition nodes) and holds no image byte, and a *serve* half
//! that needs nothing but a descriptor and the disk.
//!
//! Rooms: [`loop_device`] (and the partition nodes on it), [`holders`], [`fuse`]. Unsafe code
//! stands in the module `kernel` only.

pub mod fuse;
pub mod holders;
mod kernel;
pub mod loop_device;
mod partition_nodes;

use std::io;

/// Marks this process as one that block I/O waits for (`PR_SET_IO_FLUSHER`).
///
/// A worker's own memory allocation then never waits for the disk that it serves. Inherited by
/// threads made later. Needs `CAP_SYS_RESOURCE`: call it before rights are given up.
///
/// # Errors
/// What the kernel says: EPERM without the right, EINVAL before Linux 5.6.
pub fn io_flusher() -> io::Result<()> {
    Ok(rustix::process::configure_io_flusher_behavior(true)?)
}
