//! A page-aligned buffer whose pages are there.
//!
//! The kernel copies requests into a server's buffers and replies out of them. If a page is
//! missing then and the server is being killed, the copy fails and the request ends with EIO
//! instead of waiting for the next server; so the pages are made at once and, where the limit
//! on locked memory allows, kept in place.

use std::hint::black_box;

use crate::kernel;

/// Alignment, bytes.
const PAGE_SIZE_BYTES: usize = 4096;

/// See the module's head.
pub(super) struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
    locked: bool,
}

impl PageBuffer {
    /// A zeroed buffer of `length` bytes.
    pub(super) fn new(length: usize) -> Self {
        let mut memory = vec![0; length + PAGE_SIZE_BYTES];
        let start = memory
            .as_ptr()
            .align_offset(PAGE_SIZE_BYTES)
            .min(PAGE_SIZE_BYTES);
        // Written, not only read: a zeroed allocation is backed by nothing until then.
        memory.fill(black_box(1));
        memory.fill(black_box(0));
        let locked = kernel::lock_memory(&mut memory).is_ok();
        Self {
            memory,
            start,
            length,
            locked,
        }
    }

    /// The bytes.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        if self.locked {
            // Fails only if it was not locked.
            let _ = kernel::unlock_memory(&mut self.memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_starts_on_a_page_and_has_the_length_asked_for() {
        for length in [1, 4096, 1 << 20] {
            let mut buffer = PageBuffer::new(length);
            assert_eq!(buffer.bytes().as_ptr().align_offset(PAGE_SIZE_BYTES), 0);
            assert_eq!(buffer.bytes().len(), length);
        }
    }
}
