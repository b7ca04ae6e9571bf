//! `GetVirtualDiskPhysicalPath` and `GetAllAttachedVirtualDiskPhysicalPaths`.
//!
//! The first answers the device of one disk, the second, despite its name, the image files of all
//! attached disks (R-PATH-5). Sizes are bytes.

use api::{Code, attached};

use super::not_null;
use crate::fence::{Outcome, fence};
use crate::handle::{self, Handle};
use crate::letter::{self, Letter};

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetVirtualDiskPhysicalPath(
    handle: Handle,
    size: *mut u32,
    buffer: *mut u16,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { physical_path(handle, size, buffer) })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetVirtualDiskPhysicalPathA(
    handle: Handle,
    size: *mut u32,
    buffer: *mut u8,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { physical_path(handle, size, buffer) })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetAllAttachedVirtualDiskPhysicalPaths(
    size: *mut u32,
    buffer: *mut u16,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { all_paths(size, buffer) })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetAllAttachedVirtualDiskPhysicalPathsA(
    size: *mut u32,
    buffer: *mut u8,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { all_paths(size, buffer) })
}

/// # Safety
/// As the exported functions.
unsafe fn physical_path<L: Letter>(handle: Handle, size: *mut u32, buffer: *mut L) -> Outcome {
    not_null(size)?;
    let open = handle::find(handle)?;
    let path = open.disk.physical_path()?;
    let path = path.to_str().ok_or(Code::ERROR_INVALID_DATA)?;
    // SAFETY: the caller's promise, passed on.
    unsafe { letter::answer(&letter::list::<L>([path], false), size, buffer) }
}

/// # Safety
/// As the exported functions.
unsafe fn all_paths<L: Letter>(size: *mut u32, buffer: *mut L) -> Outcome {
    not_null(size)?;
    let disks = attached()?;
    let letters = letter::list::<L>(disks.iter().map(|disk| disk.file.as_str()), true);
    // SAFETY: the caller's promise, passed on.
    let result = unsafe { letter::answer(&letters, size, buffer) };
    // An empty list needs no buffer (R-PATH-6).
    if disks.is_empty() && result.is_err() {
        Ok(())
    } else {
        result
    }
}
