//! Opens images without the service, with the rights of whoever runs the command.
//!
//! For verbs that only read. Parents are looked for by `virtdisk-parent` and taken by their
//! identity. Promises: only regular files are opened, and opening waits for nothing; each file is
//! locked against writers for as long as the disk is open, so an image that is attached writable,
//! here or in a virtual machine, is refused and not read half-written.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use virtdisk::Code;
use virtdisk_disk::lock::{self, Conflict, Level};
use virtdisk_disk::{Candidate, Disk, ErrorKind, Gate, Need, OpenOptions, ParentHint};
use virtdisk_parent::{Finder, Hint, HintKind, Policy};

use crate::code_map;
use crate::failure::{Failure, Result};
use crate::parents::Parents;

/// How long all files of a disk are waited for: the service gives an image back a moment after the
/// command that used it has ended.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);
/// Files that a hint names at most.
const MOST_NAMED: usize = 8;

/// Opens the image at `path` for reading, with all its parents.
pub(crate) fn open(path: &Path, parents: &Parents) -> Result<Disk> {
    let file = open_locked(path)?;
    let options = options(path);
    let mut gate = Search::new(path, parents);
    let opened = Disk::open_with(file, &path.to_string_lossy(), &options, &mut gate);
    opened.map_err(|error| gate.explain(error))
}

/// Locks a file against writers; waits for one until then.
fn lock_for_reading(file: &File, until: Instant) -> std::result::Result<(), Conflict> {
    loop {
        match lock::acquire(file, Level::Read) {
            Err(Conflict::InUse { .. }) if Instant::now() < until => std::thread::sleep(PAUSE),
            done => return done,
        }
    }
}

/// The file of an image, open for reading and locked against writers.
pub(crate) fn open_locked(path: &Path) -> Result<File> {
    let file = open_file(path)?;
    let locked = lock_for_reading(&file, Instant::now() + PATIENCE);
    locked.map_err(|conflict| code_map::of_lock(path, conflict))?;
    Ok(file)
}

/// How an image is opened that has this name.
pub(crate) fn options(path: &Path) -> OpenOptions {
    let extension = path.extension();
    OpenOptions {
        extension: extension.map(|extension| extension.to_string_lossy().into_owned()),
        ..OpenOptions::default()
    }
}

/// Looks for parents, layer by layer.
pub(crate) struct Search {
    policy: Policy,
    /// The files of the chain so far, the image first.
    chain: Vec<PathBuf>,
    /// The look for the parent of the last of them, and the file that it gave last.
    finder: Option<(Finder, PathBuf)>,
    /// Candidates that were not to be locked, and why.
    in_use: Vec<String>,
    /// How long to wait for locks.
    until: Instant,
}

impl Search {
    pub(crate) fn new(path: &Path, parents: &Parents) -> Search {
        Search {
            policy: parents.policy(),
            chain: vec![path.to_path_buf()],
            finder: None,
            in_use: Vec::new(),
            until: Instant::now() + PATIENCE,
        }
    }

    /// The look for the parent that `need` asks for.
    fn finder(&mut self, need: &Need<'_>) -> &mut (Finder, PathBuf) {
        let depth = usize::try_from(need.depth).unwrap_or(usize::MAX);
        if self.chain.len() < depth
            && let Some((_, taken)) = self.finder.take()
        {
            self.chain.push(taken);
        }
        let child = self.chain.last().cloned().unwrap_or_default();
        let policy = &self.policy;
        self.finder.get_or_insert_with(|| {
            let hints: Vec<Hint<'_>> = need.link.hints.iter().map(hint).collect();
            (Finder::new(&child, &hints, policy), PathBuf::new())
        })
    }

    /// What the look for the last parent passed over, and why.
    pub(crate) fn passed(&self) -> Vec<(String, String)> {
        let passed = self.finder.iter().flat_map(|(finder, _)| finder.passed());
        passed
            .map(|passed| (passed.path.display().to_string(), passed.reason.clone()))
            .collect()
    }

    /// The error of the opening as a person needs it: with what was passed over on the way.
    pub(crate) fn explain(&self, error: virtdisk_disk::Error) -> Failure {
        let kind = error.kind();
        let failure = Failure::from(error);
        if kind != ErrorKind::ParentMissing && kind != ErrorKind::ParentMismatch {
            return failure;
        }
        let passed = self.finder.iter().flat_map(|(finder, _)| finder.passed());
        let passed = passed.map(|passed| format!("{} ({})", passed.path.display(), passed.reason));
        let passed: Vec<String> = self.in_use.iter().cloned().chain(passed).collect();
        let hint = "--allow-parent-dir DIR, --parent-map FROM=TO and --search DIR say where else \
                    parents may lie";
        if passed.is_empty() {
            return failure.hint(hint);
        }
        let named = passed.get(..MOST_NAMED).unwrap_or(&passed).join(", ");
        failure.hint(format!("not opened: {named}; {hint}"))
    }
}

impl Gate for Search {
    fn parent(&mut self, need: &Need<'_>) -> virtdisk_disk::Result<Option<Candidate>> {
        while let Some((path, file)) = self.finder(need).0.next_file() {
            let name = path.to_string_lossy().into_owned();
            // It may be another image, so this does not end the search.
            if let Err(conflict) = lock_for_reading(&file, self.until) {
                self.in_use.push(format!("{name} ({conflict})"));
                continue;
            }
            self.finder(need).1 = path;
            return Ok(Some(Candidate { file, name }));
        }
        Ok(None)
    }
}

fn hint(hint: &ParentHint) -> Hint<'_> {
    let kind = match hint.kind {
        virtdisk_disk::HintKind::Relative => HintKind::Relative,
        virtdisk_disk::HintKind::Absolute => HintKind::Absolute,
        virtdisk_disk::HintKind::Volume => HintKind::Volume,
        virtdisk_disk::HintKind::Url => HintKind::Url,
        virtdisk_disk::HintKind::Name => HintKind::Name,
    };
    Hint {
        kind,
        text: &hint.text,
    }
}

/// Opens a regular file for reading.
fn open_file(path: &Path) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let failed = |errno: Errno| -> Failure {
        let message = format!("{}: can't be opened", path.display());
        virtdisk::Error::from_io(message, errno.into()).into()
    };
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let found = rustix::fs::fstat(&file).map_err(failed)?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(failed(Errno::ISDIR)),
        _ => {
            let message = format!("{}: not a regular file", path.display());
            return Err(
                virtdisk::Error::new(Code::ERROR_VIRTDISK_NOT_VIRTUAL_DISK, message).into(),
            );
        }
    }
    let status = rustix::fs::fcntl_getfl(&file).map_err(failed)?;
    rustix::fs::fcntl_setfl(&file, status & !OFlags::NONBLOCK).map_err(failed)?;
    Ok(File::from(file))
}
