//! The disk of the floor below, as the transport sees it.
//!
//! Nothing but names: ranges, locks and errors are the disk's.

use virtdisk_disk::{Disk, Place};

use super::served::{Look, Served};

/// How much of the map one look takes at a time, so that a large empty disk takes no memory.
const WINDOW_BYTES: u64 = 1 << 30;

impl Served for Disk {
    fn size(&self) -> u64 {
        self.facts().virtual_size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
        Self::read_at(self, buffer, offset).map_err(|e| e.errno())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
        Self::write_at(self, data, offset).map_err(|e| e.errno())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
        Self::zero(self, offset, length, false).map_err(|e| e.errno())
    }

    fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
        Self::trim(self, offset, length).map_err(|e| e.errno())
    }

    fn flush(&self) -> Result<(), i32> {
        Self::flush(self).map_err(|e| e.errno())
    }

    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
        let size = self.facts().virtual_size;
        let mut start = offset;
        while start < size {
            let length = (size - start).min(WINDOW_BYTES);
            let extents = self.extents(start, length).map_err(|e| e.errno())?;
            let found = extents.iter().find(|extent| match extent.place {
                Place::Zero => look == Look::Hole,
                Place::Data { .. } | Place::Parent => look == Look::Data,
            });
            if let Some(extent) = found {
                return Ok(Some(extent.start));
            }
            start += length;
        }
        Ok(None)
    }
}
