//! The client's part in opening a chain: finds, opens and sends the parents that images name.
//!
//! The service opens no path. It answers which parent it needs, and here the places where that may
//! lie are looked at, in their order, with the caller's own rights; the service says whether a file
//! is the one. What an image says of its parent comes from whoever wrote the image: where a parent
//! may lie is decided by the policy alone (S-4), and only regular files are opened. When no place
//! is left, the error names every one that was looked at (P-6).

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use virtdisk_parent::{Finder, Hint, HintKind};

use crate::code::Code;
use crate::error::{Error, Result};
use crate::flags::OpenFlags;
use crate::frame::{NeededParent, OpenParentRequest, OpenReply, method};
use crate::path::escaped;
use crate::wire::Wire;

pub use virtdisk_parent::Policy as ParentPolicy;

/// Longest chain of parents that is followed.
const DEPTH_LIMIT: usize = 248;
/// Most places that an error names.
const NAMED_LIMIT: usize = 16;
/// Longest hint that an error shows, in letters.
const SHOWN_LIMIT: usize = 200;

/// A search for the parents of one disk.
pub(crate) struct Search {
    policy: ParentPolicy,
    /// The files of the chain so far, leaf first.
    files: Vec<PathBuf>,
}

impl Search {
    /// A search that begins at `leaf`, an absolute path. Parents may lie in the leaf's own folder
    /// and below, and wherever the policy allows.
    pub(crate) fn new(leaf: &Path, policy: &ParentPolicy, flags: OpenFlags) -> Self {
        let mut policy = policy.clone();
        policy.ignore_relative |= flags.contains(OpenFlags::IGNORE_RELATIVE_PARENT_LOCATOR);
        let leaf = followed(leaf);
        policy.allow_dirs.extend(leaf.parent().map(Path::to_owned));
        Self {
            policy,
            files: vec![leaf],
        }
    }

    /// Sends parents until the service needs no more.
    ///
    /// # Errors
    /// 0xC03A000D and its relatives when a parent is not found; the service's own.
    pub(crate) fn complete(&mut self, wire: &Wire, mut reply: OpenReply) -> Result<OpenReply> {
        let mut place: Option<Places> = None;
        while let Some(need) = reply.need_parent.take() {
            let depth = usize::try_from(need.depth).unwrap_or(usize::MAX);
            let mut places = match place.take() {
                Some(mut places) if depth + 1 == self.files.len() => {
                    places.reject(&need);
                    places
                }
                before => {
                    self.files.extend(before.and_then(|places| places.sent));
                    self.places(&need, depth)?
                }
            };
            reply = places.send_next(wire, &need)?;
            place = Some(places);
        }
        Ok(reply)
    }

    /// Where the parent of the last file may be.
    fn places(&self, need: &NeededParent, depth: usize) -> Result<Places> {
        let Some(child) = self.files.last().filter(|_| depth + 1 == self.files.len()) else {
            let what = "the service asks for a parent of a file that it was not sent";
            return Err(Error::new(Code::ERROR_INVALID_DATA, what));
        };
        if depth >= DEPTH_LIMIT {
            let message = format!(
                "{}: its chain has more than {DEPTH_LIMIT} parents",
                escaped(child)
            );
            let code = Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED;
            return Err(Error::new(code, message));
        }
        let hints: Vec<Hint<'_>> = need
            .hints
            .iter()
            .filter_map(|hint| {
                Some(Hint {
                    kind: hint_kind(&hint.kind)?,
                    text: &hint.text,
                })
            })
            .collect();
        Ok(Places {
            finder: Finder::new(child, &hints, &self.policy),
            child: child.clone(),
            rejected: Vec::new(),
            sent: None,
            verdict: Verdict::default(),
        })
    }
}

/// The places where one parent may be.
struct Places {
    child: PathBuf,
    finder: Finder,
    /// Each file that the service looked at, and why it is not the parent.
    rejected: Vec<(PathBuf, String)>,
    /// The file that the service looks at now.
    sent: Option<PathBuf>,
    verdict: Verdict,
}

/// What the service said of the files; decides the code when nothing is left.
#[derive(Default)]
struct Verdict {
    mismatched: bool,
    /// Another reason against a file.
    other: Option<Code>,
}

impl Places {
    /// The file that was sent is not the parent.
    fn reject(&mut self, need: &NeededParent) {
        match Code(need.rejected_code) {
            Code::ERROR_VHD_CHILD_PARENT_ID_MISMATCH => self.verdict.mismatched = true,
            code => self.verdict.other = Some(code),
        }
        if let Some(path) = self.sent.take() {
            self.rejected.push((path, shown(&need.rejected)));
        }
    }

    /// Opens and sends the next place that can be opened.
    fn send_next(&mut self, wire: &Wire, need: &NeededParent) -> Result<OpenReply> {
        let Some((path, file)) = self.finder.next_file() else {
            return Err(self.not_found(need));
        };
        let request = OpenParentRequest {
            path: path.to_string_lossy().into_owned(),
        };
        let (reply, _) =
            wire.call::<_, OpenReply>(method::OPEN_PARENT, &request, &[file.as_fd()], 0)?;
        self.sent = Some(path);
        Ok(reply)
    }

    /// The code and the words when nothing is left.
    fn verdict(&self) -> (Code, &'static str) {
        let denied = Some(io::ErrorKind::PermissionDenied);
        if self.finder.passed().iter().any(|it| it.error == denied) {
            return (
                Code::ERROR_VHD_PARENT_VHD_ACCESS_DENIED,
                "its parent can't be opened",
            );
        }
        match (self.verdict.other, self.verdict.mismatched) {
            (Some(Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED), _) => (
                Code::ERROR_VHD_DIFFERENCING_CHAIN_CYCLE_DETECTED,
                "its chain comes back to itself",
            ),
            (Some(_), _) => (
                Code::ERROR_VHD_DIFFERENCING_CHAIN_ERROR_IN_PARENT,
                "its parent can't be used",
            ),
            (None, true) => (
                Code::ERROR_VHD_CHILD_PARENT_ID_MISMATCH,
                "another disk lies where its parent should be",
            ),
            (None, false) => (
                Code::ERROR_VHD_PARENT_VHD_NOT_FOUND,
                "its parent was not found",
            ),
        }
    }

    /// The error that names every place.
    fn not_found(&self, need: &NeededParent) -> Error {
        let (code, what) = self.verdict();
        let mut message = format!("{}: {what}", escaped(&self.child));
        let passed = self.finder.passed();
        let mut places: Vec<(&Path, String)> = Vec::new();
        for (path, why) in &self.rejected {
            places.push((path, why.clone()));
        }
        for it in passed {
            places.push((&it.path, shown(&it.reason)));
        }
        let more = places.len().saturating_sub(NAMED_LIMIT);
        for (index, (path, why)) in places.iter().take(NAMED_LIMIT).enumerate() {
            let before = if index == 0 { "; looked at" } else { "," };
            // Writing into a String does not fail.
            let _ = write!(message, "{before} {} ({why})", escaped(path));
        }
        if more > 0 {
            let _ = write!(message, " and {more} more");
        }
        for (index, hint) in need.hints.iter().take(NAMED_LIMIT).enumerate() {
            let before = if index == 0 { "; the image says" } else { "," };
            let _ = write!(message, "{before} \"{}\"", shown(&hint.text));
        }
        let error = Error::new(code, message);
        if passed.iter().any(|it| it.error.is_none()) {
            error.with_hint("a parent outside the folder of the disk must be allowed by name")
        } else {
            error.with_hint("put the parent beside its child, or name it yourself")
        }
    }
}

/// The file behind symbolic links, whose folder relative hints mean (P-4).
fn followed(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn hint_kind(word: &str) -> Option<HintKind> {
    match word {
        "relative" => Some(HintKind::Relative),
        "absolute" => Some(HintKind::Absolute),
        "volume" => Some(HintKind::Volume),
        "url" => Some(HintKind::Url),
        "name" => Some(HintKind::Name),
        _ => None,
    }
}

/// Foreign text for a message: bounded, control characters escaped.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_LIMIT).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("{}{dots}", escaped(Path::new(&short)))
}
