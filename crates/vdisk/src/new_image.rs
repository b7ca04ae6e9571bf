//! A new image that has its name only when it is complete.
//!
//! It is made beside its place under a name of its own and renamed at the end. Promises: a file
//! that is there is never overwritten, also when it comes while we work; what is not kept is
//! removed; when [`NewImage::keep`] returns, file and name are durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use virtdisk::Code;
use virtdisk_disk::lock::{self, Level};

use crate::code_map;
use crate::failure::{Failure, Result};

/// Names that are tried for the unfinished file.
const MOST_NAMES: u32 = 1000;

/// An image that is being made.
pub(crate) struct NewImage {
    file: File,
    unfinished: PathBuf,
    path: PathBuf,
    kept: bool,
}

impl NewImage {
    /// Begins an image that will be `path`, locked for us alone.
    pub(crate) fn begin(path: &Path) -> Result<NewImage> {
        if path.symlink_metadata().is_ok() {
            return Err(exists(path));
        }
        let (file, unfinished) = create(path).map_err(|error| cannot(path, "made", error))?;
        let image = NewImage {
            file,
            unfinished,
            path: path.to_path_buf(),
            kept: false,
        };
        let locked = lock::acquire(&image.file, Level::Write);
        locked.map_err(|conflict| code_map::of_lock(path, conflict))?;
        Ok(image)
    }

    /// The file, empty at first, open for reading and writing; the lock is its own too.
    pub(crate) fn file(&self) -> Result<File> {
        let file = self.file.try_clone();
        file.map_err(|error| cannot(&self.path, "opened", error))
    }

    /// Gives it its name. The bytes are durable already.
    pub(crate) fn keep(mut self) -> Result<()> {
        rename(&self.unfinished, &self.path).map_err(|errno| match errno {
            Errno::EXIST => exists(&self.path),
            other => cannot(&self.path, "given its name", other.into()),
        })?;
        self.kept = true;
        let synced = File::open(folder(&self.path)).and_then(|folder| folder.sync_all());
        synced.map_err(|error| cannot(&self.path, "made durable", error))
    }
}

impl Drop for NewImage {
    fn drop(&mut self) {
        if !self.kept {
            // The work has failed already; a second error would only hide the first.
            drop(std::fs::remove_file(&self.unfinished));
        }
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes an empty file in the folder of `path`. Its name says nothing of what it will be: a long
/// one would not fit.
fn create(path: &Path) -> io::Result<(File, PathBuf)> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mut number = 0;
    loop {
        let name = format!(".vdisk-{}-{number}.part", std::process::id());
        let unfinished = folder(path).join(name);
        match rustix::fs::open(&unfinished, flags, Mode::from_raw_mode(0o666)) {
            Err(Errno::EXIST) if number < MOST_NAMES => number += 1,
            file => return Ok((File::from(file?), unfinished)),
        }
    }
}

/// Renames without overwriting.
fn rename(from: &Path, to: &Path) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that can't: a second name does not overwrite either.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rustix::fs::link(from, to)?;
            rustix::fs::unlink(from)
        }
        other => other,
    }
}

fn exists(path: &Path) -> Failure {
    let message = format!("{}: exists already", path.display());
    virtdisk::Error::new(Code::ERROR_FILE_EXISTS, message).into()
}

fn cannot(path: &Path, what: &str, error: io::Error) -> Failure {
    virtdisk::Error::from_io(format!("{}: can't be {what}", path.display()), error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_kept_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhd");
        drop(NewImage::begin(&path).unwrap());
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
        NewImage::begin(&path).unwrap().keep().unwrap();
        assert!(path.exists());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_came_meanwhile_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.vhd");
        let image = NewImage::begin(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let failure = image.keep().unwrap_err();
        assert_eq!(failure.code(), Some(Code::ERROR_FILE_EXISTS));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
        assert!(NewImage::begin(&path).is_err());
    }
}
