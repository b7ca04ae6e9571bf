//! What the host says of the file under an image: attributes that Windows refuses (R-HOST-1) and
//! the sectors of the disk below.
//!
//! Compressed and encrypted come from `statx`; on an NTFS volume (ntfs-3g, ntfs3) from the
//! attributes that NTFS itself keeps. Sparse files are normal on Linux and not looked at
//! (R-HOST-3). Sector sizes come from `/sys`; a file whose disk cannot be found (tmpfs, network)
//! has the sizes that any file system copes with, 512 and 4096.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

/// Attribute bits of NTFS, as in `FILE_ATTRIBUTE_COMPRESSED` and `…_ENCRYPTED`.
const NTFS_COMPRESSED: u32 = 0x800;
const NTFS_ENCRYPTED: u32 = 0x4000;
/// Their extended attribute, a big-endian u32.
const NTFS_ATTRIBUTES: &str = "system.ntfs_attrib_be";

/// File system numbers of `statfs` (linux/magic.h) whose data are on another machine.
const REMOTE: [u32; 10] = [
    0x6969,      // NFS
    0xFF53_4D42, // CIFS
    0xFE53_4D42, // SMB 2 and 3
    0x517B,      // SMB 1
    0x5346_414F, // AFS
    0x6B41_4653, // kernel AFS
    0x7375_7245, // Coda
    0x0102_1997, // 9P
    0x00C3_6400, // Ceph
    0x0BD0_0BD0, // Lustre
];

/// What the host says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFile {
    /// The file system compresses the file's data by its own attribute.
    pub compressed: bool,
    /// The file is encrypted by its file system (fscrypt, EFS on NTFS).
    pub encrypted: bool,
    /// The file's data are on another machine.
    pub remote: bool,
    /// Smallest unit in bytes that the disk under the file addresses.
    pub logical_sector: u32,
    /// Smallest unit in bytes that the disk under the file writes without reading.
    pub physical_sector: u32,
}

/// Looks at the file behind a descriptor.
///
/// # Errors
/// What `statx` and `fstatfs` say.
pub fn inspect(fd: impl AsFd) -> io::Result<HostFile> {
    let fd = fd.as_fd();
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted)?;
    let says = |bit| (stat.stx_attributes & stat.stx_attributes_mask).contains(bit);
    let ntfs = ntfs_attributes(fd)?;
    // The kernel's number is 32 bits wide, whatever type the platform gives the field.
    let kind = rustix::fs::fstatfs(fd)?.f_type as u32;
    let device = (stat.stx_dev_major, stat.stx_dev_minor);
    let sectors = sector_sizes(device).or_else(|| sector_sizes(mounted_device(stat.stx_mnt_id)?));
    let (logical_sector, physical_sector) = sectors.unwrap_or((512, 4096));
    Ok(HostFile {
        compressed: says(StatxAttributes::COMPRESSED) || ntfs & NTFS_COMPRESSED != 0,
        encrypted: says(StatxAttributes::ENCRYPTED) || ntfs & NTFS_ENCRYPTED != 0,
        remote: REMOTE.contains(&kind),
        logical_sector,
        physical_sector,
    })
}

/// The NTFS attributes of a file; 0 on any other file system.
fn ntfs_attributes(fd: BorrowedFd<'_>) -> io::Result<u32> {
    let mut value = [0; 4];
    match rustix::fs::fgetxattr(fd, NTFS_ATTRIBUTES, &mut value) {
        Ok(4) => Ok(u32::from_be_bytes(value)),
        // No such attribute here: not NTFS, or a file system without extended attributes.
        Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS | Errno::RANGE) => Ok(0),
        Err(Errno::PERM | Errno::ACCESS) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Logical and physical sector of a block device; `None` if the number is no block device's.
fn sector_sizes((major, minor): (u32, u32)) -> Option<(u32, u32)> {
    let device = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    // A partition has no queue of its own: its disk's folder is the one above.
    let queue = [device.join("queue"), device.join("../queue")];
    queue.iter().find_map(|queue| {
        let read = |name| -> Option<u32> {
            fs::read_to_string(queue.join(name))
                .ok()?
                .trim()
                .parse()
                .ok()
                .filter(|&size| size > 0)
        };
        let logical = read("logical_block_size")?;
        let physical = read("physical_block_size")?;
        Some((logical, physical.max(logical)))
    })
}

/// The block device that a mount names as its source; for file systems (btrfs) whose files have a
/// device number of no device.
fn mounted_device(mount: u64) -> Option<(u32, u32)> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let source = mount_source(&table, mount)?;
    let device = fs::metadata(source).ok()?.rdev();
    Some((rustix::fs::major(device), rustix::fs::minor(device)))
}

/// The source of a mount in the table of proc_pid_mountinfo(5): the field after the type, which
/// follows the separator "-".
fn mount_source(table: &str, mount: u64) -> Option<&str> {
    let line = table
        .lines()
        .find(|line| line.split(' ').next().and_then(|id| id.parse().ok()) == Some(mount))?;
    let source = line.split(' ').skip_while(|field| *field != "-").nth(2)?;
    source.starts_with("/dev/").then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_stands_behind_the_separator() {
        let table = "21 1 0:19 / /sys rw - sysfs sysfs rw\n\
                     36 35 0:40 /sub /mnt rw,noatime shared:1 - btrfs /dev/sda3 rw\n";
        assert_eq!(mount_source(table, 36), Some("/dev/sda3"));
        assert_eq!(mount_source(table, 21), None);
        assert_eq!(mount_source(table, 3), None);
    }
}
