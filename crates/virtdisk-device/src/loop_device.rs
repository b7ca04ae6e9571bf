//! Loop devices: a file, or a part of it, as a block device.
//!
//! The node half that every attachment ends in; needs `CAP_SYS_ADMIN`. A [`LoopDevice`] is a name
//! with proof: index and disk sequence number, which no other attachment of that index shares, so
//! it can be stored, and nothing here ever touches a device that was freed and reused meanwhile.
//! It owns nothing: dropping it frees nothing.
//!
//! Freeing asks the kernel, in one atomic step, whether anybody else has the device open. Either
//! it is gone on return, or nothing has changed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use linux_raw_sys::loop_device::{LO_FLAGS_AUTOCLEAR, LO_FLAGS_DIRECT_IO, LO_FLAGS_PARTSCAN};
use linux_raw_sys::loop_device::{LO_FLAGS_READ_ONLY, loop_config, loop_info64};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::kernel;

/// Sector size that every file and every kernel takes, bytes.
const SECTOR_SIZE_BYTES: u32 = 512;
/// How often a free device may be snatched away by somebody else before we stop trying.
const ATTEMPTS: u32 = 64;
/// After so many a new device is made instead of asking for a free one: somebody may hold a free
/// device exclusively, and the kernel would offer that one again and again.
const TAKEN_BEFORE_ADDING: u32 = 8;
/// Pause between two tries to free a device that somebody has open.
const RELEASE_PAUSE: Duration = Duration::from_millis(5);
/// There while udev runs.
const UDEV_CONTROL: &str = "/run/udev/control";
/// How long the kernel may take to show in sysfs what it did.
const SYSFS_PATIENCE: Duration = Duration::from_secs(2);
/// Owner-only access: what a node has while no attachment says otherwise.
const PRIVATE_MODE: u32 = 0o600;

/// What to put on a loop device, and how.
#[derive(Debug, Clone, Copy)]
pub struct LoopOptions<'a> {
    /// The file; opened for writing unless the device is to be read-only.
    pub backing: BorrowedFd<'a>,
    /// First byte of the file to show, a multiple of the block size.
    pub offset: u64,
    /// Bytes to show, 0 = up to the end of the file.
    pub size_limit: u64,
    /// Refuse writes.
    pub read_only: bool,
    /// Logical sector size, bytes; a power of two from 512 on.
    pub block_size: u32,
    /// Bypass the file's own page cache, where the file can.
    pub direct_io: bool,
    /// File name that `losetup` shows, cut to 63 bytes.
    pub name: &'a str,
}

/// A loop device that [`attach`] made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopDevice {
    /// N of `/dev/loopN`.
    pub index: u32,
    /// Disk sequence number of this attachment.
    pub diskseq: u64,
}

/// What became of an attempt to free a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The device is free.
    Gone,
    /// Somebody has it open.
    Busy,
}

/// Puts a file on a free loop device. Its node belongs to root until [`LoopDevice::set_owner`]
/// says otherwise; partition nodes can be added to it.
///
/// Where the file or the kernel refuses direct I/O or the block size, the device has buffered
/// I/O or 512-byte sectors: ask [`LoopDevice::direct_io`] and [`LoopDevice::block_size`].
///
/// # Errors
/// What the kernel says; EBUSY when others took every free device in between, ENOENT when the
/// node of a device does not appear in `/dev`.
pub fn attach(options: &LoopOptions<'_>) -> io::Result<LoopDevice> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let control = rustix::fs::open("/dev/loop-control", flags, Mode::empty())?;
    let mut refused = Errno::BUSY;
    let mut taken = 0;
    for attempt in 0..ATTEMPTS {
        let index = if taken < TAKEN_BEFORE_ADDING {
            kernel::loop_get_free(control.as_fd())?
        } else {
            kernel::loop_add(control.as_fd())?
        };
        match bind(index, options) {
            Ok(device) => return Ok(device),
            Err(Errno::BUSY) => taken += 1,
            // Being torn down by somebody else; not in /dev yet.
            Err(error @ (Errno::NXIO | Errno::NOENT)) => refused = error,
            Err(error) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(u64::from(attempt)));
    }
    Err(refused.into())
}

/// Puts the file on device `index`, if it is still free.
fn bind(index: u32, options: &LoopOptions<'_>) -> rustix::io::Result<LoopDevice> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let device = rustix::fs::open(node_path(index), flags, Mode::empty())?;
    configure(device.as_fd(), options)?;
    // Whoever had this index before may have given the node away and died.
    let found = own(device.as_fd(), 0, 0, PRIVATE_MODE)
        .and_then(|()| kernel::disk_sequence(device.as_fd()))
        .map(|diskseq| LoopDevice { index, diskseq });
    if found.is_err() {
        kernel::loop_clear(device.as_fd())?;
    }
    found
}

/// Binds the file; gives up direct I/O, then the block size, when they are what is refused.
fn configure(device: BorrowedFd<'_>, options: &LoopOptions<'_>) -> rustix::io::Result<()> {
    let ways = [
        (options.direct_io, options.block_size),
        (false, options.block_size),
        (options.direct_io, SECTOR_SIZE_BYTES),
        (false, SECTOR_SIZE_BYTES),
    ];
    let mut answer = Err(Errno::INVAL);
    for (direct_io, block_size) in ways {
        answer = kernel::loop_configure(device, &config(options, direct_io, block_size));
        if answer != Err(Errno::INVAL) {
            break;
        }
    }
    answer
}

/// The kernel's words for the options.
fn config(options: &LoopOptions<'_>, direct_io: bool, block_size: u32) -> loop_config {
    let mut flags = LO_FLAGS_PARTSCAN as u32;
    if options.read_only {
        flags |= LO_FLAGS_READ_ONLY as u32;
    }
    if direct_io {
        flags |= LO_FLAGS_DIRECT_IO as u32;
    }
    let mut file_name = [0; 64];
    for (to, from) in file_name.iter_mut().take(63).zip(options.name.bytes()) {
        *to = from;
    }
    loop_config {
        fd: options.backing.as_raw_fd().unsigned_abs(),
        block_size,
        info: loop_info64 {
            lo_device: 0,
            lo_inode: 0,
            lo_rdevice: 0,
            lo_offset: options.offset,
            lo_sizelimit: options.size_limit,
            lo_number: 0,
            lo_encrypt_type: 0,
            lo_encrypt_key_size: 0,
            lo_flags: flags,
            lo_file_name: file_name,
            lo_crypt_name: [0; 64],
            lo_encrypt_key: [0; 32],
            lo_init: [0; 2],
        },
        __reserved: [0; 8],
    }
}

impl LoopDevice {
    /// `/dev/loopN`.
    pub fn path(&self) -> PathBuf {
        node_path(self.index)
    }

    /// Is the device still the one that [`attach`] made: bound, and the same disk sequence number?
    /// Does not open it.
    pub fn is_ours(&self) -> bool {
        let folder = self.sysfs();
        folder.join("loop/backing_file").exists()
            && number(&folder.join("diskseq")) == Some(self.diskseq)
    }

    /// Logical sector size, bytes.
    ///
    /// # Errors
    /// When sysfs has no such device.
    pub fn block_size(&self) -> io::Result<u32> {
        let size = number(&self.sysfs().join("queue/logical_block_size"));
        size.and_then(|n| u32::try_from(n).ok())
            .ok_or_else(|| Errno::NXIO.into())
    }

    /// Does the device bypass the page cache of its file?
    ///
    /// # Errors
    /// When sysfs has no such device, or it is not bound.
    pub fn direct_io(&self) -> io::Result<bool> {
        number(&self.sysfs().join("loop/dio"))
            .map(|n| n != 0)
            .ok_or_else(|| Errno::NXIO.into())
    }

    /// Frees the device if nobody else has it, or a partition of it, open.
    ///
    /// Tries again for as long as `patience` says: udev and blkid open a new device for some
    /// milliseconds. [`Release::Gone`] says that the device is free now, by us or before us; its
    /// nodes belong to root again. [`Release::Busy`] says that nothing changed.
    ///
    /// # Errors
    /// What the kernel says. The device is then as it was, unless it is only its nodes that could
    /// not be given back to root ([`Self::is_ours`] tells).
    pub fn release(&self, patience: Duration) -> io::Result<Release> {
        let deadline = Instant::now() + patience;
        loop {
            if self.release_now()? == Release::Gone {
                return Ok(Release::Gone);
            }
            if Instant::now() >= deadline {
                return Ok(Release::Busy);
            }
            thread::sleep(RELEASE_PAUSE);
        }
    }

    /// One try of [`Self::release`].
    fn release_now(&self) -> io::Result<Release> {
        let Some((device, before)) = self.open_bound()? else {
            return Ok(Release::Gone);
        };
        // Marks the device to be freed at the last close; and, if this is the only opener, takes
        // it out of the bound state at once, so that nobody can come in any more.
        match kernel::loop_clear(device.as_fd()) {
            Ok(()) | Err(Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        match kernel::loop_status(device.as_fd()) {
            Err(Errno::NXIO) => {
                let owned = own(device.as_fd(), 0, 0, PRIVATE_MODE);
                drop(device);
                self.wait_gone()?;
                owned?;
                Ok(Release::Gone)
            }
            Ok(_) => {
                // We hold the device open, so nobody's close can have been the last one.
                kernel::loop_set_status(device.as_fd(), &before)?;
                Ok(Release::Busy)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets the kernel free the device when the last holder closes it; at once, if there is none.
    /// From now on its nodes belong to root.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn release_when_free(&self) -> io::Result<Release> {
        self.reset_owner()?;
        let Some((device, _)) = self.open_bound()? else {
            return Ok(Release::Gone);
        };
        match kernel::loop_clear(device.as_fd()) {
            Ok(()) | Err(Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        drop(device);
        Ok(if self.is_ours() {
            Release::Busy
        } else {
            Release::Gone
        })
    }

    /// Gives the nodes of the device and of its partitions an owner and access bits.
    ///
    /// Where udev runs, its rules put their own owner back with the next event, unless a rule says
    /// otherwise: see [`Self::announce`].
    ///
    /// # Errors
    /// ENXIO when the device is gone, else what the kernel says.
    pub fn set_owner(&self, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
        let Some((device, _)) = self.open_bound()? else {
            return Err(Errno::NXIO.into());
        };
        own(device.as_fd(), uid, gid, mode)?;
        for node in self.partition_paths()? {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            let partition = rustix::fs::open(&node, flags, Mode::empty())?;
            own(partition.as_fd(), uid, gid, mode)?;
        }
        Ok(())
    }

    /// Has udev, where it runs, look at the nodes again: at an event that came before their owner
    /// was known, its rules gave them another.
    ///
    /// # Errors
    /// ENXIO when the device is gone, else what the kernel says.
    pub fn announce(&self) -> io::Result<()> {
        if !Path::new(UDEV_CONTROL).exists() {
            return Ok(());
        }
        if !self.is_ours() {
            return Err(Errno::NXIO.into());
        }
        std::fs::write(self.sysfs().join("uevent"), "change")?;
        for node in self.partition_paths()? {
            if let Some(name) = node.file_name() {
                std::fs::write(self.sysfs().join(name).join("uevent"), "change")?;
            }
        }
        Ok(())
    }

    /// Gives the nodes back to root, access for the owner only, as the kernel makes them.
    ///
    /// # Errors
    /// As [`Self::set_owner`], but a device that is gone is none.
    pub fn reset_owner(&self) -> io::Result<()> {
        match self.set_owner(0, 0, PRIVATE_MODE) {
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(()),
            other => other,
        }
    }

    /// Writes what the page caches of the device and its partitions hold to the file, and has the
    /// file made durable.
    ///
    /// # Errors
    /// ENXIO when the device is gone; what the kernel says, where EIO and ENOSPC mean that data
    /// could not be written.
    pub fn sync(&self) -> io::Result<()> {
        let Some((device, _)) = self.open_bound()? else {
            return Err(Errno::NXIO.into());
        };
        for node in self.partition_paths()? {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
            let partition = rustix::fs::open(&node, flags, Mode::empty())?;
            rustix::fs::fsync(&partition)?;
        }
        Ok(rustix::fs::fsync(&device)?)
    }

    /// Opens the device if it is still ours, with the state that the kernel says it is in. While
    /// the descriptor is open, the device can't become somebody else's.
    pub(crate) fn open_bound(&self) -> io::Result<Option<(OwnedFd, loop_info64)>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let device = match rustix::fs::open(self.path(), flags, Mode::empty()) {
            Ok(device) => device,
            Err(Errno::NXIO | Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if kernel::disk_sequence(device.as_fd())? != self.diskseq {
            return Ok(None);
        }
        match kernel::loop_status(device.as_fd()) {
            Ok(status) => Ok(Some((device, status))),
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Is the device marked to be freed at the last close?
    ///
    /// # Errors
    /// What the kernel says.
    pub fn goes_when_free(&self) -> io::Result<bool> {
        let bound = self.open_bound()?;
        Ok(bound.is_some_and(|(_, status)| status.lo_flags & LO_FLAGS_AUTOCLEAR as u32 != 0))
    }

    /// Waits until sysfs agrees that the device is free.
    fn wait_gone(&self) -> io::Result<()> {
        let deadline = Instant::now() + SYSFS_PATIENCE;
        while self.is_ours() {
            if Instant::now() >= deadline {
                return Err(Errno::BUSY.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// `/sys/block/loopN`.
    pub(crate) fn sysfs(&self) -> PathBuf {
        Path::new("/sys/block").join(format!("loop{}", self.index))
    }
}

/// `/dev/loopN`.
fn node_path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{index}"))
}

/// The number that a sysfs file holds.
pub(crate) fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Changes owner and access bits of a node, so that at no instant anybody has more access than
/// before or after.
fn own(node: BorrowedFd<'_>, uid: u32, gid: u32, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::fchmod(node, Mode::from_raw_mode(0))?;
    rustix::fs::fchown(node, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(node, Mode::from_raw_mode(mode & 0o666))
}
