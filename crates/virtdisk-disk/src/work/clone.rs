//! Sharing extents with the source's files instead of copying, where the file system can
//! (btrfs, xfs, bcachefs).
//!
//! Whether two files can share is tried once, on the empty target, with FICLONE. Ranges then go by
//! `copy_file_range`, which such a file system carries out as FICLONERANGE where both ends lie on
//! its blocks; where it can't, the kernel copies, so the bytes are right either way. What is not
//! on blocks is left to the caller.

use std::os::fd::AsFd;

use rustix::fs::{copy_file_range, fstatvfs, ioctl_ficlone};
use rustix::io::Errno;
use virtdisk_format::Store;

use super::runs::files;
use crate::disk::Disk;
use crate::file_store::FileStore;

/// Which files of a source share extents with a target.
pub(super) struct Sharing {
    /// By layer.
    layers: Vec<bool>,
    /// Block of the file system in bytes.
    block: u64,
}

impl Sharing {
    /// Tries it on `target`, which is empty before and after.
    pub(super) fn between(source: &Disk, target: &FileStore) -> Self {
        let block = fstatvfs(target).map_or(0, |facts| facts.f_bsize);
        let block = if block.is_power_of_two() {
            block.max(4096)
        } else {
            0
        };
        let tried = files(source).map(|file| {
            let shares = block > 0 && file.is_some_and(|file| ioctl_ficlone(target, file).is_ok());
            // An emptied file is what the format wants to find; it says so if this failed.
            shares && target.set_len(0).is_ok()
        });
        Self {
            layers: tried.collect(),
            block,
        }
    }

    /// Whether data of that layer may be shared.
    pub(super) fn with(&self, layer: u32) -> bool {
        let layer = usize::try_from(layer).ok();
        layer
            .and_then(|layer| self.layers.get(layer))
            .copied()
            .unwrap_or(false)
    }

    /// Puts bytes of one file into another by sharing; how many of them, from the first on. The
    /// rest is to be copied.
    pub(super) fn share(
        &self,
        from: &FileStore,
        at: u64,
        to: &FileStore,
        put: u64,
        len: u64,
    ) -> u64 {
        let block = self.block.max(1);
        if !at.is_multiple_of(block) || !put.is_multiple_of(block) {
            return 0;
        }
        let whole = len - len % block;
        let mut done = 0;
        while done < whole {
            let wish = usize::try_from(whole - done).unwrap_or(usize::MAX);
            let (mut source, mut target) = (at + done, put + done);
            let copied = copy_file_range(
                from.as_fd(),
                Some(&mut source),
                to.as_fd(),
                Some(&mut target),
                wish,
            );
            match copied {
                Err(Errno::INTR) => {}
                // Whatever it is, reading and writing finds it too and can say more of it.
                Ok(0) | Err(_) => break,
                Ok(copied) => done += copied as u64,
            }
        }
        done
    }
}
