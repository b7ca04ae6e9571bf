//! Partition nodes on a loop device.
//!
//! The kernel here has no partition parser, so the caller reads the table and the nodes are added
//! with `BLKPG`; where the kernel found a partition by itself, it stays. Partitions go away with
//! the device. When [`LoopDevice::add_partitions`] returns, every node it names exists.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::kernel;
use crate::loop_device::{LoopDevice, number};

/// How long a node may take to appear where `/dev` is not the kernel's own file system.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// Unit of sizes in sysfs, bytes.
const SYSFS_SECTOR_BYTES: u64 = 512;

impl LoopDevice {
    /// Adds a node for each `(number, offset, length)`, offset and length in bytes, and answers
    /// the paths of all partition nodes of the device in order of their numbers.
    ///
    /// Left out are partitions that the kernel can't show: overlapping an earlier one, or with
    /// bounds that are not on a logical sector.
    ///
    /// # Errors
    /// ENXIO when the device is gone, ENOENT when a node does not appear in `/dev`, else what
    /// the kernel says.
    pub fn add_partitions(&self, partitions: &[(u32, u64, u64)]) -> io::Result<Vec<PathBuf>> {
        let Some((device, _)) = self.open_bound()? else {
            return Err(Errno::NXIO.into());
        };
        for (partition, offset, length) in partitions {
            let (Ok(pno), Ok(start), Ok(bytes)) = (
                i32::try_from(*partition),
                i64::try_from(*offset),
                i64::try_from(*length),
            ) else {
                continue;
            };
            match self.shown_partition(*partition) {
                Some(bounds) if bounds == (*offset, *length) => continue,
                Some(_) => kernel::partition_delete(device.as_fd(), pno)?,
                None => {}
            }
            match kernel::partition_add(device.as_fd(), pno, start, bytes) {
                Ok(()) | Err(Errno::BUSY | Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let nodes = self.partition_paths()?;
        let deadline = Instant::now() + NODE_PATIENCE;
        while !nodes.iter().all(|node| node.exists()) {
            if Instant::now() >= deadline {
                return Err(Errno::NOENT.into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(nodes)
    }

    /// Removes all partition nodes.
    ///
    /// # Errors
    /// EBUSY when one is in use, ENXIO when the device is gone, else what the kernel says.
    pub fn remove_partitions(&self) -> io::Result<()> {
        let Some((device, _)) = self.open_bound()? else {
            return Err(Errno::NXIO.into());
        };
        for (partition, _) in self.partition_folders()? {
            let pno = i32::try_from(partition).map_err(|_| Errno::INVAL)?;
            kernel::partition_delete(device.as_fd(), pno)?;
        }
        Ok(())
    }

    /// Paths of the partition nodes, in order of their numbers.
    ///
    /// # Errors
    /// When sysfs can't be read.
    pub fn partition_paths(&self) -> io::Result<Vec<PathBuf>> {
        let folders = self.partition_folders()?;
        Ok(folders
            .iter()
            .map(|(_, name)| Path::new("/dev").join(name))
            .collect())
    }

    /// Offset and length, in bytes, of a partition that the kernel shows.
    fn shown_partition(&self, partition: u32) -> Option<(u64, u64)> {
        let folder = self.sysfs().join(format!("loop{}p{partition}", self.index));
        let start = number(&folder.join("start"))?.checked_mul(SYSFS_SECTOR_BYTES)?;
        let length = number(&folder.join("size"))?.checked_mul(SYSFS_SECTOR_BYTES)?;
        Some((start, length))
    }

    /// Numbers and names of the partitions that the kernel shows, in order.
    pub(crate) fn partition_folders(&self) -> io::Result<Vec<(u64, String)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.sysfs())? {
            let entry = entry?;
            if let Some(partition) = number(&entry.path().join("partition")) {
                found.push((partition, entry.file_name().to_string_lossy().into_owned()));
            }
        }
        found.sort();
        Ok(found)
    }
}
