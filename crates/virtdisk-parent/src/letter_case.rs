//! Names that differ only in upper and lower case: Windows takes them for one, Linux does not.
//!
//! Only for names that are not there as they are written. Folders are read, nothing is opened; who
//! finds more than one name chooses none of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tree::Trees;

/// What a path is in another case.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Nothing,
    /// This.
    One(PathBuf),
    /// More than one thing: whoever chose would choose wrongly some day (P-3).
    Several,
}

/// Looks for `names` below `base`, each in any case where it is not there as it is written.
pub(crate) fn find(base: &Path, names: &[String], trees: &Trees) -> Found {
    let mut path = base.to_owned();
    for name in names {
        let exact = path.join(name);
        if !trees.lack(&exact) {
            path = exact;
            continue;
        }
        let wanted = name.to_lowercase();
        let Ok(entries) = fs::read_dir(&path) else {
            return Found::Nothing;
        };
        let mut same = entries
            .flatten()
            .map(|entry| entry.file_name())
            .filter(|name| {
                name.to_str()
                    .is_some_and(|name| name.to_lowercase() == wanted)
            });
        match (same.next(), same.next()) {
            (None, _) => return Found::Nothing,
            (Some(name), None) => path.push(name),
            (Some(_), Some(_)) => return Found::Several,
        }
    }
    Found::One(path)
}
