//! One look for one parent: the candidates in their order, opened one by one.
//!
//! A file is opened only when it is asked for, so no more of them are open than the caller keeps.
//! What was passed over is kept with its reason, for the message that says why nothing was found.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::vec::IntoIter;

use crate::candidate::{Candidate, Why, candidates};
use crate::hint::Hint;
use crate::{Policy, open};

/// Gives the files that may be the parent, best first, and remembers what it passed over.
#[derive(Debug)]
pub struct Finder {
    waiting: IntoIter<Candidate>,
    passed: Vec<Passed>,
}

/// A candidate that was not opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Why it was not opened, a clause.
    pub reason: String,
    /// What opening it said; `None` if it was refused before that.
    pub error: Option<ErrorKind>,
}

impl Finder {
    /// Looks for the parent of the image at `child`: see [`candidates`].
    #[must_use]
    pub fn new(child: &Path, hints: &[Hint<'_>], policy: &Policy) -> Self {
        Self {
            waiting: candidates(child, hints, policy).into_iter(),
            passed: Vec::new(),
        }
    }

    /// The next file that may be the parent, and its path.
    pub fn next_file(&mut self) -> Option<(PathBuf, File)> {
        for Candidate { path, why } in self.waiting.by_ref() {
            let (reason, error) = match why {
                Why::Refused(refusal) => (refusal.to_string(), None),
                Why::Ok => match open(&path) {
                    Ok(file) => return Some((path, file)),
                    Err(error) => (error.to_string(), Some(error.kind())),
                },
            };
            self.passed.push(Passed {
                path,
                reason,
                error,
            });
        }
        None
    }

    /// What was passed over so far.
    #[must_use]
    pub fn passed(&self) -> &[Passed] {
        &self.passed
    }
}
