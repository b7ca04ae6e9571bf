//! The exported functions, one file per verb.
//!
//! The Windows names take UTF-16; names that end in A take UTF-8 and share the body, which is
//! generic over the letter. Arguments are judged in this order: OVERLAPPED, pointers, handle, then
//! the rules of `api::check`. Result pointers are looked at before anything is done, so that no
//! work is lost to a NULL.

mod attach;
mod close;
mod create;
mod detach;
mod information;
mod open;
mod parent;
mod path;

use std::ffi::c_void;

use api::Code;

use crate::fence::{INVALID, Outcome};

/// Every call is finished when it returns: OVERLAPPED must be NULL (R-ASY-1).
fn not_overlapped(overlapped: *const c_void) -> Outcome {
    if overlapped.is_null() {
        Ok(())
    } else {
        Err(Code::ERROR_NOT_SUPPORTED.into())
    }
}

/// A place for a result must be there (R-HND-7).
fn not_null<T>(pointer: *const T) -> Outcome {
    if pointer.is_null() {
        Err(INVALID)
    } else {
        Ok(())
    }
}
