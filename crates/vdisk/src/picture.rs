//! A disk as a person sees it at a glance: for each layer a line of cells, each cell a part of the
//! disk, filled by how much of that part is this layer's data.
//!
//! Promises: the picture is as wide as it is, whatever the disk's size; a part in which a layer
//! has any data at all does not look empty.

use std::fmt::Write as _;

use virtdisk_disk::{LayerExtent, Place};

use crate::output::plain;
use crate::size;

/// Cells of a line.
const CELLS: u32 = 64;
/// How full a cell looks, from empty to full.
const SHADES: [char; 5] = ['·', '░', '▒', '▓', '█'];

/// What was counted of a disk.
pub(crate) struct Picture {
    virtual_size: u64,
    /// Bytes of data by layer and cell.
    layers: Vec<Vec<u64>>,
}

impl Picture {
    /// Of a disk of so many bytes.
    pub(crate) fn new(virtual_size: u64) -> Picture {
        Picture {
            virtual_size,
            layers: Vec::new(),
        }
    }

    /// Counts one run.
    pub(crate) fn add(&mut self, run: &LayerExtent) {
        let Place::Data { .. } = run.place else {
            return;
        };
        let Ok(layer) = usize::try_from(run.layer) else {
            return;
        };
        while self.layers.len() <= layer {
            self.layers.push(vec![0; CELLS as usize]);
        }
        let bounds: Vec<u64> = (0..=CELLS).map(|cell| self.bound(cell)).collect();
        for (cell, edges) in self.layers[layer].iter_mut().zip(bounds.windows(2)) {
            let inside = run
                .end()
                .min(edges[1])
                .saturating_sub(run.start.max(edges[0]));
            *cell += inside;
        }
    }

    /// Where a cell begins.
    fn bound(&self, cell: u32) -> u64 {
        let bound = u128::from(self.virtual_size) * u128::from(cell) / u128::from(CELLS);
        u64::try_from(bound).unwrap_or(self.virtual_size)
    }

    /// The lines, one for each of `names`.
    pub(crate) fn draw(&self, names: &[String]) -> String {
        let mut text = String::from("\n");
        for (layer, name) in names.iter().enumerate() {
            let empty = vec![0; CELLS as usize];
            let cells = self.layers.get(layer).unwrap_or(&empty);
            let drawn: String = (0..CELLS)
                .zip(cells)
                .map(|(cell, bytes)| shade(*bytes, self.bound(cell + 1) - self.bound(cell)))
                .collect();
            let data = size::show(cells.iter().sum());
            let _ = writeln!(text, "|{drawn}| {data} in {}", plain(name));
        }
        text
    }
}

fn shade(bytes: u64, all: u64) -> char {
    if bytes == 0 || all == 0 {
        return SHADES[0];
    }
    let steps = SHADES.len() as u128 - 2;
    let step = u128::from(bytes) * steps / u128::from(all);
    let step = usize::try_from(step.min(steps)).unwrap_or(0);
    SHADES[1 + step]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_filled_by_their_share() {
        let mut picture = Picture::new(64 << 20);
        let place = Place::Data { file_offset: 0 };
        for (start, len, layer) in [(0, 2 << 20, 0), (4 << 20, 1, 0), (63 << 20, 1 << 19, 1)] {
            picture.add(&LayerExtent {
                start,
                len,
                layer,
                place,
            });
        }
        let text = picture.draw(&["a".to_string(), "b".to_string()]);
        let lines: Vec<&str> = text.trim().lines().collect();
        assert!(lines[0].starts_with("|██··░·"), "{text}");
        assert!(lines[1].contains("·▒| 512 KiB in b"), "{text}");
    }

    #[test]
    fn the_smallest_and_the_largest_disk_are_drawn() {
        for size in [512, u64::MAX - 511] {
            let mut picture = Picture::new(size);
            picture.add(&LayerExtent {
                start: 0,
                len: size,
                layer: 0,
                place: Place::Data { file_offset: 0 },
            });
            assert!(picture.draw(&["a".to_string()]).contains("█|"));
        }
    }
}
