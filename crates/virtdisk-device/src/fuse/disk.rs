//! The disk of the floor below, as the transport sees it.
//!
//! Nothing but names: ranges, locks and errors are the disk's. The kernel takes a number for an
//! error and no more, so its sentence (file, structure, offset) goes to the log, the 1st, 2nd, 4th,
//! 8th… of them: a broken disk that is read all day does not fill the log.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use virtdisk_disk::{Disk, Error};

use super::served::{Look, Served};

/// Failures of this process so far.
static FAILURES: AtomicU64 = AtomicU64::new(0);

/// Logs an error and gives its number.
#[cold]
fn told(error: Error) -> i32 {
    let count = FAILURES.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if count.is_power_of_two() {
        tracing::error!("{error} (failed request {count})");
    }
    error.errno()
}

impl Served for Disk {
    fn size(&self) -> u64 {
        self.facts().virtual_size
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), i32> {
        Self::read_at(self, buffer, offset).map_err(told)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), i32> {
        Self::write_at(self, data, offset).map_err(told)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), i32> {
        Self::zero(self, offset, length, false).map_err(told)
    }

    fn trim(&self, offset: u64, length: u64) -> Result<(), i32> {
        Self::trim(self, offset, length).map_err(told)
    }

    fn flush(&self) -> Result<(), i32> {
        Self::flush(self).map_err(told)
    }

    fn look(&self, offset: u64, look: Look) -> Result<Option<u64>, i32> {
        let length = self.facts().virtual_size.saturating_sub(offset);
        if length == 0 {
            return Ok(None);
        }
        let mut found = None;
        self.walk(offset, length, &mut |extent| {
            if extent.is_zero() != (look == Look::Hole) {
                return ControlFlow::Continue(());
            }
            found = Some(extent.start);
            ControlFlow::Break(())
        })
        .map_err(told)?;
        Ok(found)
    }
}
