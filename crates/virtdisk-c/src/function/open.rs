//! `OpenVirtualDisk`: from structs of version 1, 2 or 3 to a handle.
//!
//! A struct is read as far as its version owns it. Masks, flags and the path are judged by the
//! crate `virtdisk`, in the order of the rules R-OPEN.

use api::{AccessMask, OpenFlags, OpenOptions, OpenParameters, VirtualDisk};

use super::not_null;
use crate::fence::{INVALID, Outcome, fence};
use crate::handle::{self, Handle};
use crate::layout::{OpenV1, OpenV2, OpenV3, VirtualStorageType};
use crate::letter::{self, Letter};
use crate::pointer;

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn OpenVirtualDisk(
    storage_type: *const VirtualStorageType,
    path: *const u16,
    mask: u32,
    flags: u32,
    parameters: *const u32,
    handle: *mut Handle,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { open(storage_type, path, mask, flags, parameters, handle) })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn OpenVirtualDiskA(
    storage_type: *const VirtualStorageType,
    path: *const u8,
    mask: u32,
    flags: u32,
    parameters: *const u32,
    handle: *mut Handle,
) -> u32 {
    // SAFETY: the caller's promise, passed on.
    fence(|| unsafe { open(storage_type, path, mask, flags, parameters, handle) })
}

/// # Safety
/// As the exported functions.
unsafe fn open<L: Letter>(
    storage_type: *const VirtualStorageType,
    path: *const L,
    mask: u32,
    flags: u32,
    parameters: *const u32,
    handle: *mut Handle,
) -> Outcome {
    not_null(handle)?;
    // SAFETY: the caller's promise, passed on.
    let storage_type = unsafe { pointer::read(storage_type) }?.into();
    // SAFETY: the caller's promise, passed on.
    let path = unsafe { letter::path(path) }?;
    let options = OpenOptions {
        storage_type,
        access: AccessMask::from_bits_retain(mask),
        flags: OpenFlags::from_bits_retain(flags),
        // SAFETY: the caller's promise, passed on.
        parameters: unsafe { read_parameters(parameters) }?,
    };
    let disk = VirtualDisk::open(path, &options)?;
    // SAFETY: not NULL, and writable by the caller's promise.
    unsafe { pointer::write(handle, handle::insert(disk)) }
}

/// NULL is version 1 with depth 1 (R-OPEN-8); any BOOL that is not 0 is TRUE (R-OPEN-26).
///
/// # Safety
/// `parameters` is NULL or readable for what its version owns.
unsafe fn read_parameters(parameters: *const u32) -> Outcome<OpenParameters> {
    if parameters.is_null() {
        return Ok(OpenParameters::default());
    }
    // SAFETY: every version begins with its number.
    let version = unsafe { pointer::read(parameters) }?;
    match version {
        1 => {
            // SAFETY: a version 1 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<OpenV1>()) }?;
            Ok(OpenParameters::V1 {
                rw_depth: found.rw_depth,
            })
        }
        2 => {
            // SAFETY: a version 2 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<OpenV2>()) }?;
            Ok(OpenParameters::V2 {
                get_info_only: found.get_info_only != 0,
                read_only: found.read_only != 0,
                resiliency_guid: found.resiliency_guid.into(),
            })
        }
        3 => {
            // SAFETY: a version 3 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<OpenV3>()) }?;
            Ok(OpenParameters::V3 {
                get_info_only: found.base.get_info_only != 0,
                read_only: found.base.read_only != 0,
                resiliency_guid: found.base.resiliency_guid.into(),
                snapshot_id: found.snapshot_id.into(),
            })
        }
        _ => Err(INVALID),
    }
}
