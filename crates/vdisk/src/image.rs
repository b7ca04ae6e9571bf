//! Opens images with the rights that a verb needs, and no more.
//!
//! May assume nothing about the file. Promises: a verb that only looks, or detaches, works on a
//! disk that is attached and used by others; where opening to write fails and opening to read
//! would not, the hint says so.

use std::path::Path;

use virtdisk::{AccessMask, Code, OpenOptions, Service, VirtualDisk};

use crate::failure::{Failure, Result};
use crate::parents::Parents;

/// To look at the image or to detach it: compatible with every other handle.
pub(crate) fn open_to_look(file: &Path, parents: &Parents) -> Result<VirtualDisk> {
    let access = AccessMask::GET_INFO | AccessMask::DETACH;
    let service = Service::find().with_parents(parents.policy());
    Ok(service.open(file, &OpenOptions::with_access(access))?)
}

/// To attach the image.
pub(crate) fn open_to_attach(
    file: &Path,
    read_only: bool,
    parents: &Parents,
) -> Result<VirtualDisk> {
    let service = Service::find().with_parents(parents.policy());
    let open = |access| service.open(file, &OpenOptions::with_access(access));
    if read_only {
        return Ok(open(AccessMask::READ)?);
    }
    let writable = AccessMask::ATTACH_RW | AccessMask::DETACH | AccessMask::GET_INFO;
    open(writable).map_err(|error| {
        let failure = Failure::from(error);
        if refused_to_write(&failure) && open(AccessMask::READ).is_ok() {
            return failure.hint(read_only_hint(file));
        }
        failure
    })
}

/// True for the codes by which a file or a format refuses to be written.
pub(crate) fn refused_to_write(failure: &Failure) -> bool {
    let codes = [
        Code::ERROR_ACCESS_DENIED,
        Code::ERROR_WRITE_PROTECT,
        Code::ERROR_NOT_SUPPORTED,
        Code::ERROR_INVALID_PARAMETER,
    ];
    failure.code().is_some_and(|code| codes.contains(&code))
}

/// What to do with an image that can't be written.
pub(crate) fn read_only_hint(file: &Path) -> String {
    format!(
        "it can be attached read-only: vdisk attach --read-only {}",
        file.display()
    )
}
