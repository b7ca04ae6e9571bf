//! `CreateVirtualDisk`: from structs of version 1 to 4 to a new image and its handle.
//!
//! A struct is read as far as its version owns it. Fields that can't be honoured are refused with
//! 50 and never left out in silence.

use std::ffi::c_void;

use api::{
    AccessMask, Code, CreateFlags, CreateOptions, CreateParameters, CreateVersion, OpenFlags, Uuid,
    VirtualDisk,
};

use super::{not_null, not_overlapped};
use crate::descriptor;
use crate::fence::{INVALID, Outcome, fence};
use crate::handle::{self, Handle};
use crate::layout::{CreateV1, CreateV2, CreateV3, CreateV4, VirtualStorageType};
use crate::letter::{self, Letter};
use crate::pointer;

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn CreateVirtualDisk(
    storage_type: *const VirtualStorageType,
    path: *const u16,
    mask: u32,
    descriptor: *const c_void,
    flags: u32,
    provider_flags: u32,
    parameters: *const u32,
    overlapped: *const c_void,
    handle: *mut Handle,
) -> u32 {
    let numbers = Numbers {
        mask,
        flags,
        provider_flags,
    };
    fence(|| {
        not_overlapped(overlapped)?;
        // SAFETY: the caller's promise, passed on.
        unsafe { descriptor::must_be_empty(descriptor) }?;
        // SAFETY: the caller's promise, passed on.
        unsafe { create(storage_type, path, &numbers, parameters, handle) }
    })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn CreateVirtualDiskA(
    storage_type: *const VirtualStorageType,
    path: *const u8,
    mask: u32,
    descriptor: *const u8,
    flags: u32,
    provider_flags: u32,
    parameters: *const u32,
    overlapped: *const c_void,
    handle: *mut Handle,
) -> u32 {
    let numbers = Numbers {
        mask,
        flags,
        provider_flags,
    };
    fence(|| {
        not_overlapped(overlapped)?;
        // SAFETY: the caller's promise, passed on.
        if unsafe { letter::optional_text(descriptor) }?.is_some() {
            return Err(Code::ERROR_NOT_SUPPORTED.into());
        }
        // SAFETY: the caller's promise, passed on.
        unsafe { create(storage_type, path, &numbers, parameters, handle) }
    })
}

/// The arguments that are numbers.
struct Numbers {
    mask: u32,
    flags: u32,
    provider_flags: u32,
}

/// # Safety
/// As the exported functions.
unsafe fn create<L: Letter>(
    storage_type: *const VirtualStorageType,
    path: *const L,
    numbers: &Numbers,
    parameters: *const u32,
    handle: *mut Handle,
) -> Outcome {
    not_null(handle)?;
    // SAFETY: the caller's promise, passed on.
    let storage_type = unsafe { pointer::read(storage_type) }?.into();
    // SAFETY: the caller's promise, passed on.
    let path = unsafe { letter::path(path) }?;
    // SAFETY: the caller's promise, passed on.
    let parameters = unsafe { read_parameters::<L>(parameters) }?;
    let options = CreateOptions {
        storage_type,
        access: AccessMask::from_bits_retain(numbers.mask),
        flags: CreateFlags::from_bits_retain(numbers.flags),
        provider_flags: numbers.provider_flags,
        parameters,
    };
    let disk = VirtualDisk::create(path, &options)?;
    // SAFETY: not NULL, and writable by the caller's promise.
    unsafe { pointer::write(handle, handle::insert(disk)) }
}

/// Reads what the version owns; 87 for NULL and unknown versions (R-CRE-1), 50 for fields of
/// versions 3 and 4 that this library can't honour.
///
/// # Safety
/// `parameters` is NULL or readable for what its version owns.
unsafe fn read_parameters<L: Letter>(parameters: *const u32) -> Outcome<CreateParameters> {
    // SAFETY: every version begins with its number.
    let version = unsafe { pointer::read(parameters) }?;
    match version {
        1 => {
            // SAFETY: a version 1 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<CreateV1<L>>()) }?;
            // SAFETY: the paths of a block are NULL or end with a NUL.
            unsafe { version_1(&found) }
        }
        2 => {
            // SAFETY: a version 2 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<CreateV2<L>>()) }?;
            // SAFETY: the paths of a block are NULL or end with a NUL.
            unsafe { version_2(&found, CreateVersion::V2) }
        }
        3 => {
            // SAFETY: a version 3 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<CreateV3<L>>()) }?;
            offered(found.source_limit_path.is_null())?;
            // SAFETY: the paths of a block are NULL or end with a NUL.
            unsafe { version_2(&found.base, CreateVersion::V3) }
        }
        4 => {
            // SAFETY: a version 4 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<CreateV4<L>>()) }?;
            offered(found.source_limit_path.is_null())?;
            offered(Uuid::from(found.pmem_address_abstraction_type).is_nil())?;
            offered(found.data_alignment == 0)?;
            // SAFETY: the paths of a block are NULL or end with a NUL.
            unsafe { version_2(&found.base, CreateVersion::V4) }
        }
        _ => Err(INVALID),
    }
}

/// # Safety
/// The paths are NULL or end with a NUL.
unsafe fn version_1<L: Letter>(found: &CreateV1<L>) -> Outcome<CreateParameters> {
    Ok(CreateParameters {
        version: CreateVersion::V1,
        unique_id: found.unique_id.into(),
        maximum_size: found.maximum_size,
        block_size: found.block_size,
        sector_size: found.sector_size,
        // SAFETY: the caller's promise, passed on.
        parent_path: unsafe { letter::optional_path(found.parent_path) }?,
        // SAFETY: the caller's promise, passed on.
        source_path: unsafe { letter::optional_path(found.source_path) }?,
        ..CreateParameters::default()
    })
}

/// # Safety
/// The paths are NULL or end with a NUL.
unsafe fn version_2<L: Letter>(
    found: &CreateV2<L>,
    version: CreateVersion,
) -> Outcome<CreateParameters> {
    Ok(CreateParameters {
        version,
        unique_id: found.unique_id.into(),
        maximum_size: found.maximum_size,
        block_size: found.block_size,
        sector_size: found.sector_size,
        physical_sector_size: found.physical_sector_size,
        // SAFETY: the caller's promise, passed on.
        parent_path: unsafe { letter::optional_path(found.parent_path) }?,
        // SAFETY: the caller's promise, passed on.
        source_path: unsafe { letter::optional_path(found.source_path) }?,
        open_flags: OpenFlags::from_bits_retain(found.open_flags),
        resiliency_guid: found.resiliency_guid.into(),
    })
}

fn offered(offered: bool) -> Outcome {
    if offered {
        Ok(())
    } else {
        Err(Code::ERROR_NOT_SUPPORTED.into())
    }
}
