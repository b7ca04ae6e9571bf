//! Where the bytes of a disk lie, through all of its layers.
//!
//! The leaf answers first; what it says is the parent's is asked of the next layer, and so on. A
//! parent may be smaller than its child: past its end are zeros (P-10). Lists are sorted, without
//! gaps, without empty extents; neighbours that continue each other in one layer are one extent.

use smallvec::SmallVec;
use virtdisk_format::Place;

use crate::disk::Inner;
use crate::error::Result;

/// Extents that one look at the map should answer at most, so that it takes little memory.
const FEW_EXTENTS: usize = 4096;
/// The shortest and the longest range of one look, in bytes.
const SHORTEST_LOOK: u64 = 1 << 20;
const LONGEST_LOOK: u64 = 1 << 36;

/// A run of the disk's bytes that all come from one place of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerExtent {
    /// First byte in the virtual disk.
    pub start: u64,
    /// Length in bytes, not 0.
    pub len: u64,
    /// The layer that says so: 0 is the leaf, 1 its parent. Zeros past the end of a parent are
    /// that parent's.
    pub layer: u32,
    /// In that layer's file, or zeros. `Parent` only where a differencing image was opened alone.
    pub place: Place,
}

/// A list of extents; up to four live without an allocation.
pub type LayerExtents = SmallVec<[LayerExtent; 4]>;

impl LayerExtent {
    /// The byte behind the last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// Whether it reads as zeros for certain.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.place == Place::Zero
    }

    /// The first `len` bytes, and what is left.
    pub(crate) fn split(self, len: u64) -> (Self, Option<Self>) {
        if len >= self.len {
            return (self, None);
        }
        let place = match self.place {
            Place::Data { file_offset } => Place::Data {
                file_offset: file_offset + len,
            },
            place => place,
        };
        let rest = Self {
            start: self.start + len,
            len: self.len - len,
            place,
            ..self
        };
        (Self { len, ..self }, Some(rest))
    }

    /// Whether `next` is more of the same.
    pub(crate) fn continues_into(&self, next: &Self) -> bool {
        self.layer == next.layer
            && self.end() == next.start
            && match (self.place, next.place) {
                (Place::Data { file_offset: here }, Place::Data { file_offset: there }) => {
                    here.checked_add(self.len) == Some(there)
                }
                (here, there) => here == there,
            }
    }
}

fn append(extents: &mut LayerExtents, extent: LayerExtent) {
    match extents.last_mut() {
        Some(last) if last.continues_into(&extent) => last.len += extent.len,
        _ => extents.push(extent),
    }
}

impl Inner {
    /// The extents of a range as layer `first` and those under it say. The caller has passed the
    /// gate and checked the range against the leaf.
    pub(crate) fn resolve(&self, first: u32, start: u64, len: u64) -> Result<LayerExtents> {
        let mut out = LayerExtents::new();
        // What is still to be answered, the next one last. `Parent` asks the layer of that number.
        let mut open: SmallVec<[LayerExtent; 8]> = SmallVec::new();
        let question = |layer, start, len| LayerExtent {
            start,
            len,
            layer,
            place: Place::Parent,
        };
        if len > 0 {
            open.push(question(first, start, len));
        }
        while let Some(next) = open.pop() {
            if next.place != Place::Parent {
                append(&mut out, next);
                continue;
            }
            let Some(layer) = self.layer(next.layer) else {
                let asked = next.layer.saturating_sub(1);
                append(&mut out, question(asked, next.start, next.len));
                continue;
            };
            let inside = layer.size.saturating_sub(next.start).min(next.len);
            if inside < next.len {
                open.push(LayerExtent {
                    start: next.start + inside,
                    len: next.len - inside,
                    layer: next.layer,
                    place: Place::Zero,
                });
            }
            if inside == 0 {
                continue;
            }
            for extent in layer.map(next.start, inside)?.iter().rev() {
                let deeper = u32::from(extent.place == Place::Parent);
                open.push(LayerExtent {
                    start: extent.start,
                    len: extent.len,
                    layer: next.layer + deeper,
                    place: extent.place,
                });
            }
        }
        Ok(out)
    }
}

/// Goes through a long range in pieces whose maps are short, wherever the disk is dense or empty.
pub(crate) struct Looks {
    position: u64,
    end: u64,
    length: u64,
}

impl Looks {
    /// Over `start..start + len`.
    pub(crate) fn over(start: u64, len: u64) -> Self {
        Self {
            position: start,
            end: start.saturating_add(len),
            length: SHORTEST_LOOK,
        }
    }

    /// The next piece, start and length.
    pub(crate) fn next(&mut self) -> Option<(u64, u64)> {
        let start = self.position;
        let end = start.saturating_add(self.length);
        // Whole units from the disk's start on, so that no piece ends within a sector.
        self.position = (end - end % SHORTEST_LOOK).min(self.end);
        let len = self.position.saturating_sub(start);
        (len > 0).then_some((start, len))
    }

    /// Says how many extents the last piece had.
    pub(crate) fn had(&mut self, extents: usize) {
        self.length = if extents > FEW_EXTENTS {
            (self.length / 2).max(SHORTEST_LOOK)
        } else {
            (self.length * 2).min(LONGEST_LOOK)
        };
    }
}
