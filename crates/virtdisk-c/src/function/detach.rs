//! `DetachVirtualDisk`: no pointers, and the meaning of the Windows page for a device in use.
//!
//! 0 means that the device is gone, or that it goes with its last user when the attachment was
//! permanent and its attaching handle is closed.

use api::{DetachFlags, DetachOptions, InUse};

use crate::fence::fence;
use crate::handle::{self, Handle};

/// See `virtdisk.h`.
#[unsafe(no_mangle)]
extern "C" fn DetachVirtualDisk(handle: Handle, flags: u32, provider_flags: u32) -> u32 {
    fence(|| {
        let open = handle::find(handle)?;
        let flags = DetachFlags::from_bits_retain(flags);
        let options = DetachOptions {
            flags,
            provider_flags,
            in_use: InUse::Page,
        };
        open.disk.detach_with(&options)?;
        *open.raw() = None;
        Ok(())
    })
}
