//! The folders in and under which a parent may lie.
//!
//! A path is looked at only if by its text it lies in a tree, and it may be opened only if it does
//! so after all symbolic links were followed: a link that leads out is as good as a path that does.

use std::io;
use std::path::{Path, PathBuf};

use crate::candidate::{Candidate, Refusal, Why};

/// Folders, with all symbolic links in their own paths followed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trees(Vec<PathBuf>);

impl Trees {
    /// With one more folder; one that is not there changes nothing.
    pub(crate) fn with(&self, folder: &Path) -> Self {
        let mut folders = self.0.clone();
        folders.extend(folder.canonicalize());
        Self(folders)
    }

    fn hold(&self, path: &Path) -> bool {
        self.0.iter().any(|folder| path.starts_with(folder))
    }

    /// Judges a path that is absolute and has neither `.` nor `..` in it. One where nothing is
    /// stays as it is: opening it says so.
    pub(crate) fn judge(&self, path: &Path) -> Candidate {
        let refused = |path: &Path, why| Candidate {
            path: path.to_owned(),
            why: Why::Refused(why),
        };
        if !self.hold(path) {
            return refused(path, Refusal::Outside);
        }
        match path.canonicalize() {
            Ok(real) if self.hold(&real) => Candidate {
                path: real,
                why: Why::Ok,
            },
            Ok(real) => refused(path, Refusal::LeadsOutside(real)),
            Err(_) => Candidate {
                path: path.to_owned(),
                why: Why::Ok,
            },
        }
    }

    /// Whether a path that may be looked at has nothing at its end.
    pub(crate) fn lack(&self, path: &Path) -> bool {
        self.hold(path)
            && path
                .symlink_metadata()
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }
}
