//! Sparse bytes: the contents of a pretended file.
//!
//! A file of several TiB with a few KiB of data costs a few pages; a clone shares its pages with
//! the original until one of them writes. Bytes that were never written read as zeros. Lengths and
//! offsets are bytes; reads past the end are the caller's mistake and answer `false`.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of one page.
pub const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

/// The sparse contents and the length of a file.
#[derive(Clone, Default)]
pub struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE_BYTES]>>,
}

impl Pages {
    /// Contents with `len` zero bytes.
    #[must_use]
    pub fn zeroed(len: u64) -> Self {
        Self {
            len,
            pages: BTreeMap::new(),
        }
    }

    /// A copy of `bytes`; pages that hold only zeros cost nothing.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut pages = Self::zeroed(bytes.len() as u64);
        for (index, chunk) in bytes.chunks(PAGE_BYTES).enumerate() {
            if chunk.iter().any(|&byte| byte != 0) {
                pages.write(chunk, index as u64 * PAGE);
            }
        }
        pages
    }

    /// The length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the length is 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that take up room: whole pages that were written and not zeroed since.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.pages.len() as u64 * PAGE
    }

    /// Changes the length; what is cut off is gone, what is added is zeros.
    pub fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    /// Fills `buf` from `offset`. `false`, and `buf` untouched, if that ends past the length.
    #[must_use]
    pub fn read(&self, buf: &mut [u8], offset: u64) -> bool {
        let inside = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.len);
        if inside {
            for (page, within, part) in parts(offset, buf.len()) {
                let target = &mut buf[part.clone()];
                match self.pages.get(&page) {
                    Some(bytes) => target.copy_from_slice(&bytes[within..within + part.len()]),
                    None => target.fill(0),
                }
            }
        }
        inside
    }

    /// Puts `buf` at `offset`, making the file longer where needed.
    pub fn write(&mut self, buf: &[u8], offset: u64) {
        for (page, within, part) in parts(offset, buf.len()) {
            let bytes = self
                .pages
                .entry(page)
                .or_insert_with(|| Arc::new([0; PAGE_BYTES]));
            Arc::make_mut(bytes)[within..within + part.len()].copy_from_slice(&buf[part]);
        }
        self.len = self.len.max(offset + buf.len() as u64);
    }

    /// Makes `len` bytes from `offset` read as zeros, inside the length only; frees whole pages.
    pub fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.len);
        if offset >= end {
            return;
        }
        let first_whole = offset.div_ceil(PAGE);
        // The last page of the file counts as whole: nothing stands behind the length.
        let end_whole = if end == self.len {
            end.div_ceil(PAGE)
        } else {
            end / PAGE
        };
        if first_whole < end_whole {
            let mut rest = self.pages.split_off(&first_whole);
            let mut behind = rest.split_off(&end_whole);
            self.pages.append(&mut behind);
        }
        let mut wipe = |from: u64, to: u64| {
            if from < to
                && let Some(bytes) = self.pages.get_mut(&(from / PAGE))
            {
                let start = (from % PAGE) as usize;
                Arc::make_mut(bytes)[start..start + (to - from) as usize].fill(0);
            }
        };
        wipe(offset, end.min(first_whole * PAGE));
        if end / PAGE >= first_whole {
            wipe((end / PAGE) * PAGE, end);
        }
    }

    /// All bytes as one vector; for small files.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len as usize];
        for (&page, content) in &self.pages {
            let start = (page * PAGE) as usize;
            let part = content.len().min(bytes.len().saturating_sub(start));
            bytes[start..start + part].copy_from_slice(&content[..part]);
        }
        bytes
    }
}

/// The pages that `len` bytes from `offset` touch: page number, offset in the page, part of the
/// buffer.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let position = offset + done as u64;
        let within = (position % PAGE) as usize;
        let part = (PAGE_BYTES - within).min(len - done);
        let range = done..done + part;
        done += part;
        Some((position / PAGE, within, range))
    })
}
