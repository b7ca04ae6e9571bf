//! A message's buffer: a page-aligned data area with room for a header right before it.
//!
//! The kernel copies requests into a server's buffers and replies out of them. If a page is
//! missing then and the server is being killed, the copy fails and the request ends with EIO
//! instead of waiting for the next server; so the pages are made at once and, where the limit
//! on locked memory allows, kept in place. Header and data in one piece make a request one plain
//! `read` and a reply one plain `write`.

use std::hint::black_box;

use crate::kernel;

/// Alignment of the data, and room for the header before it, bytes.
const PAGE_SIZE_BYTES: usize = 4096;

/// See the module's head.
pub(super) struct MessageBuffer {
    memory: Vec<u8>,
    /// Where the data starts.
    data: usize,
    length: usize,
    locked: bool,
}

impl MessageBuffer {
    /// A zeroed buffer for `length` bytes of data.
    pub(super) fn new(length: usize) -> Self {
        let mut memory = vec![0; length + 2 * PAGE_SIZE_BYTES];
        let aligned = memory
            .as_ptr()
            .align_offset(PAGE_SIZE_BYTES)
            .min(PAGE_SIZE_BYTES);
        // Written, not only read: a zeroed allocation is backed by nothing until then.
        memory.fill(black_box(1));
        memory.fill(black_box(0));
        let locked = kernel::lock_memory(&mut memory).is_ok();
        Self {
            memory,
            data: aligned + PAGE_SIZE_BYTES,
            length,
            locked,
        }
    }

    /// The data, with `header` bytes (at most a page) before it.
    pub(super) fn with_header(&mut self, header: usize) -> &mut [u8] {
        let start = self.data - header.min(PAGE_SIZE_BYTES);
        &mut self.memory[start..self.data + self.length]
    }
}

impl Drop for MessageBuffer {
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
    fn the_data_starts_on_a_page_whatever_the_header() {
        for (length, header) in [(1, 0), (4096, 16), (1 << 20, 80), (512, PAGE_SIZE_BYTES)] {
            let mut buffer = MessageBuffer::new(length);
            let whole = buffer.with_header(header);
            assert_eq!(whole.len(), header + length);
            assert_eq!(whole[header..].as_ptr().align_offset(PAGE_SIZE_BYTES), 0);
        }
    }
}
