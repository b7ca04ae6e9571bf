//! Where the parent of a differencing image may lie on this machine, and opening it there.
//!
//! An image names its parent by paths of another system, which whoever made the image chose
//! (S-4). [`candidates`] translates them by the caller's [`Policy`] into paths here, best first,
//! and says of each whether it may be opened; [`open`] opens one of them and nothing else. What is
//! in the file is somebody else's question: whoever reads it takes the first whose *identity* is
//! right (P-2), so a wrong candidate costs a look and never a byte.
//!
//! Everything happens with the rights of the process. Nothing is opened but regular files, nothing
//! is written, and no other machine is asked.
#![forbid(unsafe_code)]

mod candidate;
mod finder;
mod hint;
mod letter_case;
mod open;
mod tree;

pub use candidate::{Candidate, Refusal, Why, candidates};
pub use finder::{Finder, Passed};
pub use hint::{Hint, HintKind};
pub use open::{open, open_named};

use std::path::PathBuf;

/// What the caller allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Folders, beside the child's own, in which and under which a parent may lie.
    pub allow_dirs: Vec<PathBuf>,
    /// Folders of the other system and what they are here, e.g. `C:\vm` and `/srv/vm`; a parent
    /// may lie in and under the second.
    pub map: Vec<(String, PathBuf)>,
    /// Folders in which every image is a candidate: for parents that were renamed.
    pub search: Vec<PathBuf>,
    /// Take no notice of the hints of kind [`HintKind::Relative`].
    pub ignore_relative: bool,
}
