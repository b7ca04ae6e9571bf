//! `AddVirtualDiskParent`: the next parent of a chain that the caller supplies.
//!
//! The file is opened with the caller's own rights; nothing is written to it.

use super::not_null;
use crate::fence::{Outcome, fence};
use crate::handle::{self, Handle};
use crate::letter::{self, Letter};

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn AddVirtualDiskParent(handle: Handle, path: *const u16) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { add_parent(handle, path) })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn AddVirtualDiskParentA(handle: Handle, path: *const u8) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { add_parent(handle, path) })
}

/// # Safety
/// As the exported functions.
unsafe fn add_parent<L: Letter>(handle: Handle, path: *const L) -> Outcome {
    not_null(path)?;
    let open = handle::find(handle)?;
    // SAFETY: the caller's promise, passed on.
    let path = unsafe { letter::path(path) }?;
    open.disk.add_parent(path)?;
    Ok(())
}
