//! Where the bytes of a range are: extents, and how a list of them is built.
//!
//! An extent is in virtual bytes; where it holds data it names the file offset of its first byte.
//! Lists are sorted, without gaps, without empty extents, and neighbours that continue each other
//! are one extent.

use smallvec::SmallVec;

/// Where the bytes of an extent come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file, from this byte offset on.
    Data {
        /// Offset of the extent's first byte in the image file.
        file_offset: u64,
    },
    /// Nowhere: they are zeros.
    Zero,
    /// In the parent of a differencing image, at the same virtual offset.
    Parent,
}

/// A run of virtual bytes that all come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First virtual byte.
    pub start: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// Where the bytes are.
    pub place: Place,
}

impl Extent {
    /// The virtual byte behind the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether `next` continues this extent, in the virtual disk and in its place.
    fn continues_into(&self, next: &Extent) -> bool {
        self.end() == next.start
            && match (self.place, next.place) {
                (Place::Data { file_offset: here }, Place::Data { file_offset: there }) => {
                    here.checked_add(self.len) == Some(there)
                }
                (here, there) => here == there,
            }
    }
}

/// A list of extents; up to four live without an allocation.
pub type Extents = SmallVec<[Extent; 4]>;

/// Appends `extent`, merged into the last one where it continues that; an empty one is dropped.
#[inline]
pub fn append(extents: &mut Extents, extent: Extent) {
    if extent.len == 0 {
        return;
    }
    if let Some(last) = extents.last_mut()
        && last.continues_into(&extent)
    {
        last.len += extent.len;
        return;
    }
    extents.push(extent);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(start: u64, len: u64, file_offset: u64) -> Extent {
        Extent {
            start,
            len,
            place: Place::Data { file_offset },
        }
    }

    #[test]
    fn neighbours_that_continue_each_other_become_one() {
        let mut list = Extents::new();
        append(&mut list, data(0, 512, 4096));
        append(&mut list, data(512, 512, 4608));
        append(&mut list, data(1024, 512, 9000));
        append(
            &mut list,
            Extent {
                start: 1536,
                len: 0,
                place: Place::Zero,
            },
        );
        append(
            &mut list,
            Extent {
                start: 1536,
                len: 10,
                place: Place::Zero,
            },
        );
        append(
            &mut list,
            Extent {
                start: 1546,
                len: 10,
                place: Place::Zero,
            },
        );
        assert_eq!(
            list.as_slice(),
            [
                data(0, 1024, 4096),
                data(1024, 512, 9000),
                Extent {
                    start: 1536,
                    len: 20,
                    place: Place::Zero
                }
            ]
        );
    }
}
