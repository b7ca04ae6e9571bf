//! `CloseHandle`: the only way to close a virtual disk (R-HND-4).
//!
//! The number is only looked up. Closing the last handle of a disk ends an attachment that is not
//! permanent, which the service sees by the closed connection.

use std::panic::catch_unwind;

use crate::handle::{self, Handle};

/// See `virtdisk.h`: NULL and INVALID_HANDLE_VALUE stand for no handle, since callers preset
/// their variable to one of them (R-HND-2).
#[unsafe(no_mangle)]
extern "C" fn CloseHandle(handle: Handle) -> i32 {
    let number = handle.addr();
    if number == 0 || number == usize::MAX {
        return 1;
    }
    i32::from(
        catch_unwind(|| handle::remove(std::ptr::without_provenance_mut(number))).unwrap_or(false),
    )
}
