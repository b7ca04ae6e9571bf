//! Windows security descriptors: the empty one is understood, any other is refused.
//!
//! An initialised descriptor without owner, group and lists says nothing and means the same as
//! NULL (R-CRE-19). Its bytes are those of `SECURITY_DESCRIPTOR` in `winnt.h`: revision, a zero,
//! control bits, then owner, group and the two lists as pointers, or as offsets when the control
//! bit SE_SELF_RELATIVE is set.

use std::ffi::c_void;

use api::Code;

use crate::fence::{INVALID, Outcome};
use crate::pointer;

/// The only revision.
const REVISION: u8 = 1;
/// Control bits that say that a list is present: SE_DACL_PRESENT, SE_SACL_PRESENT.
const LISTS_PRESENT: u16 = 0x0004 | 0x0010;
/// Owner and group are offsets.
const SELF_RELATIVE: u16 = 0x8000;

#[repr(C)]
#[derive(Clone, Copy)]
struct Header {
    revision: u8,
    zero: u8,
    control: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Absolute {
    header: Header,
    owner: usize,
    group: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SelfRelative {
    header: Header,
    owner: u32,
    group: u32,
}

/// Accepts NULL and an empty descriptor.
///
/// Errors: 87 when it is no descriptor, 50 when it says something.
///
/// # Safety
/// `descriptor` is NULL or points to a security descriptor.
pub(crate) unsafe fn must_be_empty(descriptor: *const c_void) -> Outcome {
    if descriptor.is_null() {
        return Ok(());
    }
    // SAFETY: every descriptor begins with this header.
    let header = unsafe { pointer::read(descriptor.cast::<Header>()) }?;
    if header.revision != REVISION {
        return Err(INVALID);
    }
    let names = if header.control & SELF_RELATIVE != 0 {
        // SAFETY: this form of a descriptor is at least that long.
        let found = unsafe { pointer::read(descriptor.cast::<SelfRelative>()) }?;
        found.owner != 0 || found.group != 0
    } else {
        // SAFETY: this form of a descriptor is at least that long.
        let found = unsafe { pointer::read(descriptor.cast::<Absolute>()) }?;
        found.owner != 0 || found.group != 0
    };
    if names || header.control & LISTS_PRESENT != 0 {
        return Err(Code::ERROR_NOT_SUPPORTED.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8]) -> u32 {
        // SAFETY: every slice below is as long as the form it claims.
        let result = unsafe { must_be_empty(bytes.as_ptr().cast()) };
        result.err().map_or(0, |failed| failed.0.0)
    }

    // R-CRE-19, R-ATT-2
    #[test]
    fn only_a_descriptor_that_says_nothing_is_accepted() {
        // SAFETY: NULL is allowed.
        assert!(unsafe { must_be_empty(std::ptr::null()) }.is_ok());
        let mut absolute = [0_u8; 40];
        absolute[0] = 1;
        assert_eq!(code(&absolute), 0);
        absolute[8] = 0x10;
        assert_eq!(code(&absolute), 50);
        let mut relative = [0_u8; 20];
        relative[0] = 1;
        relative[3] = 0x80;
        assert_eq!(code(&relative), 0);
        relative[2] = 4;
        assert_eq!(code(&relative), 50);
        assert_eq!(code(&[0_u8; 40]), 87);
    }
}
