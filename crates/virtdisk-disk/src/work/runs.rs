//! A disk from its first byte to its last, as runs: where each stretch comes from.
//!
//! The map is asked window by window, each as long as its list is short, so memory stays bounded;
//! neighbours that continue each other are one run, also across windows. [`Known`] looks one step
//! deeper: holes of the files below are zeros too.

use std::collections::VecDeque;

use virtdisk_format::Place;

use super::holes::{Holes, Stretch};
use crate::disk::Disk;
use crate::error::Result;
use crate::extent::{LayerExtent, Looks};
use crate::file_store::FileStore;

/// The runs of a disk, in order and without gaps; made by [`runs`]. After an error there are no
/// more.
pub struct Runs<'a> {
    disk: &'a Disk,
    looks: Looks,
    window: VecDeque<LayerExtent>,
    failed: bool,
}

/// All of a disk in runs.
#[must_use]
pub fn runs(disk: &Disk) -> Runs<'_> {
    Runs {
        disk,
        looks: Looks::over(0, disk.facts().virtual_size),
        window: VecDeque::new(),
        failed: false,
    }
}

impl Runs<'_> {
    /// Asks for the next window; false at the end of the disk.
    fn fill(&mut self) -> Result<bool> {
        let Some((start, len)) = self.looks.next() else {
            return Ok(false);
        };
        let extents = self.disk.extents(start, len)?;
        self.looks.had(extents.len());
        self.window.extend(extents);
        Ok(true)
    }

    fn step(&mut self) -> Result<Option<LayerExtent>> {
        while self.window.is_empty() {
            if !self.fill()? {
                return Ok(None);
            }
        }
        let Some(mut run) = self.window.pop_front() else {
            return Ok(None);
        };
        loop {
            if self.window.is_empty() && !self.fill()? {
                return Ok(Some(run));
            }
            match self.window.front() {
                Some(next) if run.continues_into(next) => {
                    run.len += next.len;
                    self.window.pop_front();
                }
                _ => return Ok(Some(run)),
            }
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<LayerExtent>;

    fn next(&mut self) -> Option<Result<LayerExtent>> {
        if self.failed {
            return None;
        }
        let run = self.step();
        self.failed = run.is_err();
        run.transpose()
    }
}

/// The files of a disk's layers, the image's own first; `None` where the bytes are not simply those
/// of the file.
pub(super) fn files(disk: &Disk) -> impl Iterator<Item = Option<&FileStore>> {
    let layers = u32::try_from(disk.layers().len()).unwrap_or(u32::MAX);
    (0..layers).map(|layer| disk.file(layer))
}

/// The runs of a disk with the holes of its files taken as zeros, in pieces of a bounded length.
pub(super) struct Known<'a> {
    runs: Runs<'a>,
    /// By layer; `None` where the disk's bytes are not simply those of a file, or holes can't be
    /// asked for.
    holes: Vec<Option<Holes>>,
    /// What is left of a run.
    rest: Option<LayerExtent>,
    /// Bytes at the beginning of `rest` in which there is no hole.
    solid: u64,
}

impl<'a> Known<'a> {
    pub(super) fn of(disk: &'a Disk) -> Self {
        Self {
            runs: runs(disk),
            holes: files(disk).map(|file| Holes::of(file?)).collect(),
            rest: None,
            solid: 0,
        }
    }

    /// The next piece. Zeros come in one piece, data of a layer in pieces that end where it does or
    /// at multiples of what `longest` says for the layer.
    pub(super) fn next(&mut self, longest: impl Fn(u32) -> u64) -> Result<Option<LayerExtent>> {
        let run = match self.rest.take() {
            Some(run) => run,
            None => match self.runs.next() {
                Some(run) => run?,
                None => return Ok(None),
            },
        };
        let file_offset = match run.place {
            Place::Data { file_offset } => file_offset,
            Place::Zero => return Ok(Some(run)),
            // Whoever reads it is told that there is no parent.
            Place::Parent => {
                let (piece, rest) = run.split(longest(run.layer).max(1));
                self.rest = rest;
                return Ok(Some(piece));
            }
        };
        // Asked once for each stretch of data: a file system may walk all of it to answer.
        let stretch = match self.holes_of(run.layer) {
            _ if self.solid > 0 => Stretch::Data(self.solid),
            Some(holes) => holes.at(file_offset, run.len),
            None => Stretch::Data(run.len),
        };
        let (piece, rest) = match stretch {
            Stretch::Hole(len) => {
                let (piece, rest) = run.split(len);
                let place = Place::Zero;
                (LayerExtent { place, ..piece }, rest)
            }
            Stretch::Data(len) => {
                let longest = longest(run.layer).max(1);
                let (piece, rest) = run.split(len.min(longest - run.start % longest));
                self.solid = len.saturating_sub(piece.len);
                (piece, rest)
            }
        };
        self.rest = rest;
        Ok(Some(piece))
    }

    fn holes_of(&self, layer: u32) -> Option<&Holes> {
        let layer = usize::try_from(layer).ok()?;
        self.holes.get(layer)?.as_ref()
    }
}
