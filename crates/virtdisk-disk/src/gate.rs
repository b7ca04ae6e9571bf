//! Who may open parents: the caller of this floor, and nobody else.
//!
//! An image names its parent by paths of another system, which a hostile one chooses freely (S-4).
//! So this floor opens no path: it says what it [`Need`]s, the caller's [`Gate`] answers with files
//! that it is willing to open, and each is taken only if its identity is the one that the child
//! recorded (P-1). A gate may be shut: then a differencing image does not open at all.

use std::fs::File;

use virtdisk_format::{ErrorKind, Format, ParentLink};

use crate::error::Result;

/// A parent that is needed.
#[derive(Debug)]
pub struct Need<'a> {
    /// The name of the child, as it was given with its file.
    pub child: &'a str,
    /// The number of the layer that is needed: 1 is the parent of the image that is being opened.
    /// A number one higher than at the last call says that the last candidate was taken.
    pub depth: u32,
    /// The format that the parent must have: the child's.
    pub format: Format,
    /// What the child says of its parent.
    pub link: &'a ParentLink,
    /// The candidates for this layer that were given and not taken, in their order.
    pub rejected: &'a [Rejected],
}

/// A file that may be the parent.
#[derive(Debug)]
pub struct Candidate {
    /// The file, open for reading; it is never written to, whatever it was opened for (P-7).
    pub file: File,
    /// Its name, for messages and as the child's name when its own parent is needed.
    pub name: String,
}

/// A candidate that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Its name.
    pub name: String,
    /// Why, to act on: `ParentMismatch` (another identity, P-1, or other sectors, X-10),
    /// `ChainCycle` (it is in the chain already, P-5), or what opening it said.
    pub kind: ErrorKind,
    /// Why, to read: a clause without the name, e.g. "the VHD footer is missing".
    pub reason: String,
}

/// What opens parents, with its own rights and by its own policy.
pub trait Gate {
    /// The next candidate for a layer; `None` if there is none left. Asked again, with one more
    /// rejected, until a candidate is taken.
    ///
    /// # Errors
    /// Whatever should end the opening; it is passed on as it is. See [`crate::Error::about`].
    fn parent(&mut self, need: &Need<'_>) -> Result<Option<Candidate>>;
}

impl<F: FnMut(&Need<'_>) -> Result<Option<Candidate>>> Gate for F {
    fn parent(&mut self, need: &Need<'_>) -> Result<Option<Candidate>> {
        self(need)
    }
}

/// The gate that is shut.
pub(crate) struct Shut;

impl Gate for Shut {
    fn parent(&mut self, _need: &Need<'_>) -> Result<Option<Candidate>> {
        Ok(None)
    }
}
