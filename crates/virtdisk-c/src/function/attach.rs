//! `AttachVirtualDisk`, and the file of a disk that is attached without a device.
//!
//! The Windows name takes a binary security descriptor, of which only an empty one is understood;
//! the name that ends in A takes SDDL text. The raw file stays with the handle until detach.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsFd, IntoRawFd};

use api::{AttachFlags, AttachOptions, AttachParameters, Code, Error};

use super::{not_null, not_overlapped};
use crate::descriptor;
use crate::fence::{INVALID, Outcome, fence};
use crate::handle::{self, Handle};
use crate::layout::AttachV2;
use crate::{letter, pointer};

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn AttachVirtualDisk(
    handle: Handle,
    descriptor: *const c_void,
    flags: u32,
    provider_flags: u32,
    parameters: *const u32,
    overlapped: *const c_void,
) -> u32 {
    fence(|| {
        not_overlapped(overlapped)?;
        let open = handle::find(handle)?;
        // SAFETY: the caller's promise, passed on.
        unsafe { descriptor::must_be_empty(descriptor) }?;
        // SAFETY: the caller's promise, passed on.
        let parameters = unsafe { read_parameters(parameters) }?;
        attach(&open, None, flags, provider_flags, parameters)
    })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn AttachVirtualDiskA(
    handle: Handle,
    descriptor: *const u8,
    flags: u32,
    provider_flags: u32,
    parameters: *const u32,
    overlapped: *const c_void,
) -> u32 {
    fence(|| {
        not_overlapped(overlapped)?;
        let open = handle::find(handle)?;
        // SAFETY: the caller's promise, passed on.
        let descriptor = unsafe { letter::optional_text(descriptor) }?;
        // SAFETY: the caller's promise, passed on.
        let parameters = unsafe { read_parameters(parameters) }?;
        attach(&open, descriptor, flags, provider_flags, parameters)
    })
}

/// See `virtdisk.h`.
///
/// # Safety
/// Pointers are NULL or valid as `virtdisk.h` says.
#[unsafe(no_mangle)]
unsafe extern "C" fn GetVirtualDiskRawFile(handle: Handle, file: *mut c_int) -> u32 {
    fence(|| {
        not_null(file)?;
        let open = handle::find(handle)?;
        let raw = open.raw();
        let raw = raw.as_ref().ok_or(Code::ERROR_BAD_COMMAND)?;
        let copy = raw.as_fd().try_clone_to_owned();
        let copy = copy.map_err(|error| Error::from_io("no copy of the file", error))?;
        // SAFETY: not NULL, and writable by the caller's promise.
        unsafe { pointer::write(file, copy.into_raw_fd()) }
    })
}

fn attach(
    open: &handle::Open,
    security_descriptor: Option<String>,
    flags: u32,
    provider_flags: u32,
    parameters: AttachParameters,
) -> Outcome {
    let flags = AttachFlags::from_bits_retain(flags);
    let options = AttachOptions {
        flags,
        provider_flags,
        parameters,
        security_descriptor,
    };
    let attached = open.disk.attach(&options)?;
    *open.raw() = attached.raw_file;
    Ok(())
}

/// NULL is version 1, of which only the version number is read (R-ATT-2).
///
/// # Safety
/// `parameters` is NULL or readable for what its version owns.
unsafe fn read_parameters(parameters: *const u32) -> Outcome<AttachParameters> {
    if parameters.is_null() {
        return Ok(AttachParameters::V1);
    }
    // SAFETY: every version begins with its number.
    match unsafe { pointer::read(parameters) }? {
        1 => Ok(AttachParameters::V1),
        2 => {
            // SAFETY: a version 2 block is that long.
            let found = unsafe { pointer::read(parameters.cast::<AttachV2>()) }?;
            Ok(AttachParameters::V2 {
                restricted_offset: found.restricted_offset,
                restricted_length: found.restricted_length,
            })
        }
        _ => Err(INVALID),
    }
}
