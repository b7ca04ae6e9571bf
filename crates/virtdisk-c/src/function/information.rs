//! `GetVirtualDiskInformation`: one class of facts in a buffer of the caller's size.
//!
//! The facts are built by `crate::information`; here it is decided whether they fit. On failure
//! nothing is written but the size needed.

use api::Code;

use super::not_null;
use crate::fence::{INVALID, Outcome, fence};
use crate::handle::{self, Handle};
use crate::information::{facts, is_known};
use crate::layout::{INFO_FACTS_OFFSET, INFO_SIZE};
use crate::pointer;

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetVirtualDiskInformation(
    handle: Handle,
    size: *mut u32,
    info: *mut u8,
    used: *mut u32,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { information(handle, size, info, used) })
}

/// The size is changed only when it is too small (R-INFO-3, R-INFO-4); the class and the bytes
/// behind the facts are never written.
///
/// # Safety
/// As the exported function: `info` is writable for `*size` bytes.
unsafe fn information(handle: Handle, size: *mut u32, info: *mut u8, used: *mut u32) -> Outcome {
    not_null(info)?;
    // SAFETY: the caller's promise, passed on.
    let given = unsafe { pointer::read(size) }?;
    let open = handle::find(handle)?;
    let needs = |needed: u32| -> Outcome {
        // SAFETY: the caller's promise, passed on.
        unsafe { pointer::write(size, needed) }?;
        Err(Code::ERROR_INSUFFICIENT_BUFFER.into())
    };
    if given < size_of::<u32>() as u32 {
        return needs(INFO_SIZE);
    }
    // SAFETY: the buffer holds at least the class.
    let class = unsafe { pointer::read(info.cast::<u32>()) }?;
    if !is_known(class) {
        return Err(INVALID);
    }
    let facts = facts(class, &open.disk.information()?)?;
    let length = u32::try_from(INFO_FACTS_OFFSET + facts.len());
    let length = length.map_err(|_| Code::ERROR_NOT_ENOUGH_MEMORY)?;
    if given < length {
        return needs(length);
    }
    // SAFETY: the buffer holds `length` bytes, of which the facts are the last.
    unsafe { pointer::write_all(info.wrapping_add(INFO_FACTS_OFFSET), &facts) }?;
    if used.is_null() {
        return Ok(());
    }
    // SAFETY: not NULL, and writable by the caller's promise.
    unsafe { pointer::write(used, length) }
}
