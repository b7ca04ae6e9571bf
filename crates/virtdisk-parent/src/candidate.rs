//! The places where a parent may lie, in the order in which to look.
//!
//! First what relative paths say; then the names of all hints beside the child; paths of a system
//! like this one as they stand; what the caller's map makes of the others; every image in the
//! folders that the caller wants searched; and last the same names in other letter case. A place
//! outside the child's own tree is named and refused unless the caller allowed it (S-4).

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Policy;
use crate::hint::{Base, Hint, HintKind, Spelled};
use crate::letter_case::{self, Found};
use crate::tree::Trees;

/// Most candidates of one look.
const MOST_CANDIDATES: usize = 1000;
/// What the names of images end in.
const ENDINGS: [&str; 4] = ["vhd", "vhdx", "avhd", "avhdx"];

/// A place where the parent may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where. Without symbolic links in it where there is something.
    pub path: PathBuf,
    /// Whether it may be opened.
    pub why: Why,
}

/// Whether a candidate may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It may.
    Ok,
    /// It may not.
    Refused(Refusal),
}

/// Why a candidate may not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is outside the child's folder and what the caller allows.
    Outside,
    /// It is a symbolic link, or behind one, that leads to this path outside.
    LeadsOutside(PathBuf),
    /// It is on another machine.
    Network,
    /// Several files have that name in other letter case.
    Ambiguous,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("outside the folder of the child, and not allowed"),
            Self::LeadsOutside(real) => write!(
                f,
                "leads to {}, which is outside the folder of the child, and not allowed",
                real.display()
            ),
            Self::Network => f.write_str("on another machine"),
            Self::Ambiguous => f.write_str("several files have this name in other letter case"),
        }
    }
}

/// Translates what the image at `child` says of its parent. Paths are relative to the folder where
/// the child really is: its own symbolic links are followed first (P-4).
#[must_use]
pub fn candidates(child: &Path, hints: &[Hint<'_>], policy: &Policy) -> Vec<Candidate> {
    let mut list = List::new(child, policy);
    let hints: Vec<(HintKind, &str, Spelled)> = hints
        .iter()
        .filter(|hint| !(policy.ignore_relative && hint.kind == HintKind::Relative))
        .filter_map(|&hint| Some((hint.kind, hint.text, Spelled::of(hint)?)))
        .collect();
    for (_, _, spelled) in hints.iter().filter(|(kind, ..)| *kind != HintKind::Name) {
        if spelled.base == Base::Child {
            // Above the root is the root.
            let above = list.home.ancestors().nth(spelled.up);
            let base = above.unwrap_or(Path::new("/")).to_owned();
            list.place(base, spelled.names.clone(), None);
        }
    }
    for (_, _, spelled) in &hints {
        let name = spelled.name().map(str::to_owned);
        list.place(list.home.clone(), name.into_iter().collect(), None);
    }
    for (_, text, spelled) in &hints {
        match spelled.base {
            Base::Root => list.place(PathBuf::from("/"), spelled.names.clone(), None),
            Base::Machine(_) if mapped(spelled, policy).next().is_none() => {
                list.refuse(PathBuf::from(text), Refusal::Network);
            }
            _ => {}
        }
    }
    for (_, _, spelled) in &hints {
        for (names, target) in mapped(spelled, policy) {
            list.place(target.to_owned(), names.to_vec(), Some(target));
        }
    }
    let names: HashSet<String> = hints
        .iter()
        .filter_map(|(_, _, spelled)| Some(spelled.name()?.to_lowercase()))
        .collect();
    for folder in &policy.search {
        list.search(folder, &names);
    }
    list.other_letter_case();
    list.found
}

/// What the caller's map makes of a path: names, and the folder here below which they are. The
/// folder that says most comes first.
fn mapped<'a>(
    spelled: &'a Spelled,
    policy: &'a Policy,
) -> impl Iterator<Item = (&'a [String], &'a Path)> {
    let mut all: Vec<(&[String], &Path)> = policy
        .map
        .iter()
        .filter_map(|(from, to)| Some((spelled.below(&Spelled::folder(from)?)?, to.as_path())))
        .collect();
    all.sort_by_key(|(names, _)| names.len());
    all.into_iter()
}

/// The candidates so far.
struct List {
    /// The child's folder.
    home: PathBuf,
    trees: Trees,
    found: Vec<Candidate>,
    known: HashSet<PathBuf>,
    /// Places that were empty: folder, names, and where they may lead.
    empty: Vec<(PathBuf, Vec<String>, Trees)>,
}

impl List {
    fn new(child: &Path, policy: &Policy) -> Self {
        let real = child.canonicalize().or_else(|_| std::path::absolute(child));
        let real = real.unwrap_or_else(|_| child.to_owned());
        let home = real.parent().unwrap_or(Path::new("/")).to_owned();
        let allowed = policy.allow_dirs.iter();
        let trees = allowed.fold(Trees::default().with(&home), |trees, folder| {
            trees.with(folder)
        });
        Self {
            home,
            trees,
            found: Vec::new(),
            known: HashSet::new(),
            empty: Vec::new(),
        }
    }

    fn add(&mut self, candidate: Candidate) {
        if self.found.len() < MOST_CANDIDATES && self.known.insert(candidate.path.clone()) {
            self.found.push(candidate);
        }
    }

    fn refuse(&mut self, path: PathBuf, refusal: Refusal) {
        self.add(Candidate {
            path,
            why: Why::Refused(refusal),
        });
    }

    /// A path: names below a folder, inside the trees and, where there is one, `also`.
    fn place(&mut self, folder: PathBuf, names: Vec<String>, also: Option<&Path>) {
        if names.is_empty() {
            return;
        }
        let (folder, trees) = match also {
            Some(also) => {
                let real = also.canonicalize().unwrap_or(folder);
                (real, self.trees.with(also))
            }
            None => (folder, self.trees.clone()),
        };
        let path = names
            .iter()
            .fold(folder.clone(), |path, name| path.join(name));
        if trees.lack(&path) {
            self.empty.push((folder, names, trees.clone()));
        }
        let candidate = trees.judge(&path);
        self.add(candidate);
    }

    /// Every image in a folder; those of a name that a hint has come first.
    fn search(&mut self, folder: &Path, names: &HashSet<String>) {
        let Ok(folder) = folder.canonicalize() else {
            return;
        };
        let trees = self.trees.with(&folder);
        let Ok(entries) = fs::read_dir(&folder) else {
            return;
        };
        let mut images: Vec<(bool, PathBuf)> = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_image(path))
            .map(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                (!names.contains(&name.to_lowercase()), path)
            })
            .collect();
        images.sort();
        for (_, path) in images {
            self.add(trees.judge(&path));
        }
    }

    /// What was not there as it is written.
    fn other_letter_case(&mut self) {
        for (folder, names, trees) in std::mem::take(&mut self.empty) {
            match letter_case::find(&folder, &names, &trees) {
                Found::Nothing => {}
                Found::One(path) => self.add(trees.judge(&path)),
                Found::Several => {
                    let path = names.iter().fold(folder, |path, name| path.join(name));
                    self.ambiguous(path);
                }
            }
        }
    }

    /// The path is a candidate already, of which opening would only say that it is not there.
    fn ambiguous(&mut self, path: PathBuf) {
        let known = self.found.iter_mut().find(|found| found.path == path);
        if let Some(candidate) = known {
            candidate.why = Why::Refused(Refusal::Ambiguous);
        }
    }
}

fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| {
        ENDINGS
            .iter()
            .any(|known| ending.eq_ignore_ascii_case(known))
    })
}
